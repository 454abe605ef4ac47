import pytest

from skvibe import VIBEClassifier
from skvibe.datasets import load_poisoned_digits
from skvibe.paper_settings import paper_concentration, paper_settings


@pytest.mark.parametrize(("n_classes", "expected"), [(2, 10), (30, 10), (31, 20)])
def test_concentrations(n_classes, expected):
    assert paper_concentration(n_classes) == expected


def test_frozen_features():
    data = load_poisoned_digits(random_state=0)
    vibe = VIBEClassifier(**paper_settings("FM"), random_state=0)
    vibe.set_params(max_iter=600).fit(data.X, data.y)
    assert (vibe.kappa_, vibe.nu_, vibe.whitening_) == (10, 10, None)
    assert vibe.refit_classifier_ is None
    assert vibe.n_iter_ == 600
    assert len(vibe.lower_bounds_) == 2


def test_end_to_end_needs_an_encoder():
    settings = paper_settings("SS")
    assert settings["train_encoder"]
    with pytest.raises(ValueError, match="needs an encoder"):
        VIBEClassifier(**settings).fit([[0.0, 1.0], [1.0, 0.0]], [0, 1])


def test_other_settings_are_refused():
    with pytest.raises(ValueError, match="'FM', 'SS'; got 'XL'"):
        paper_settings("XL")
