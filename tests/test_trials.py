from dataclasses import replace

import numpy as np
import pytest

from skvibe import VIBEClassifier
from skvibe._trials import TRIALS, Setting, settings_to_try
from skvibe.datasets import load_poisoned_digits
from skvibe.trust import relabelling_gain


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, list(TRIALS)),
        (
            {"kappa": 15},
            [Setting(0.1, 15, 10), Setting(0.3, 15, 15), Setting(0.1, 15, 15)],
        ),
        ({"kappa": 9, "nu": 8}, [Setting(0.1, 9, 8), Setting(0.3, 9, 8)]),
        ({"kappa": 9, "nu": 8, "whitening": 1}, [Setting(1, 9, 8)]),
        ({"whitening": None}, [Setting(None, 10, 10)]),
        ({"whitening": None, "nu": 3}, [Setting(None, 10, 3)]),
        ({"train_encoder": True}, [Setting(None, 10, 10)]),
        ({"train_encoder": True, "whitening": 0.5}, [Setting(None, 10, 10)]),
    ],
)
def test_settings_that_are_left_open(params, expected):
    vibe = VIBEClassifier(**params, prior="uniform")
    vibe.classes_ = np.arange(4)
    assert settings_to_try(vibe) == expected
    vibe.prior = "auto"
    resort = [replace(expected[0], prior="empirical")]
    assert settings_to_try(vibe) == expected + ([] if vibe.train_encoder else resort)


def test_a_small_class_survives_where_equal_shares_would_wipe_it_out():
    rng = np.random.default_rng(0)
    y = (rng.random(1000) < 0.03).astype(int)
    centres = rng.normal(size=(2, 40))
    X = centres[y] + 0.7 * rng.normal(size=(1000, 40))
    vibe = VIBEClassifier(random_state=0).fit(X, y)
    assert np.mean(vibe.clean_labels_ == y) > 0.995
    assert vibe.score(centres, [0, 1]) == 1


def test_a_class_among_many_survives_where_a_relabelling_that_loses_it_is_confirmed():
    # Unequal classes, three of them around each of eight centres.
    rng = np.random.default_rng(0)
    shares = np.geomspace(1, 1 / 50, 24)
    y = rng.choice(24, 2500, p=shares / shares.sum())
    centres = rng.normal(size=(8, 40))[np.arange(24) % 8]
    centres += 0.6 * rng.normal(size=(24, 40))
    X = centres[y] + rng.normal(size=(2500, 40))
    vibe = VIBEClassifier(random_state=0).fit(X, y)
    assert np.mean(vibe.clean_labels_ == y) > 0.995
    assert vibe.score(centres, np.arange(24)) == 1


def test_the_best_setting_is_published_as_if_it_had_been_given():
    data = load_poisoned_digits(rate=0.02, random_state=0)
    chosen = VIBEClassifier(random_state=0).fit(data.X, data.y)
    gains = {}
    for setting in TRIALS:
        alone = VIBEClassifier(
            whitening=setting.whitening,
            kappa=setting.kappa,
            nu=setting.nu,
            random_state=0,
        ).fit(data.X, data.y)
        gains[setting] = alone.relabelling_gain_
        if setting == Setting(chosen.whitening_, chosen.kappa_, chosen.nu_):
            for name in ("clean_labels_", "poison_scores_", "prototypes_"):
                np.testing.assert_array_equal(
                    getattr(chosen, name), getattr(alone, name)
                )
            np.testing.assert_array_equal(chosen.predict(data.X), alone.predict(data.X))
    best = max(gains, key=gains.get)
    assert (chosen.whitening_, chosen.kappa_, chosen.nu_) == (
        best.whitening,
        best.kappa,
        best.nu,
    )
    assert chosen.relabelling_gain_ == pytest.approx(gains[best])


def test_the_gain_is_that_of_what_is_published():
    data = load_poisoned_digits(rate=0, random_state=0)
    vibe = VIBEClassifier(random_state=0).fit(data.X, data.y)
    assert vibe.relabelling_gain_ == pytest.approx(gain_of(vibe, data))


def gain_of(vibe, data):
    unit = data.X / np.linalg.norm(data.X, axis=1, keepdims=True)
    trusted, changed = vibe.trusted_mask_, vibe.clean_labels_ != data.y
    return relabelling_gain(
        unit[trusted],
        data.y[trusted],
        unit[changed],
        data.y[changed],
        vibe.clean_labels_[changed],
        len(unit),
    )


@pytest.mark.parametrize(
    ("trusted", "changed", "expected"),
    [([0, 0], [1], -5), ([0, 1], [], 0)],
)
def test_gain_where_there_is_nothing_to_judge(trusted, changed, expected):
    X = np.eye(2)
    rows, codes = np.eye(2)[changed], np.array(changed, dtype=int)
    assert relabelling_gain(X, np.array(trusted), rows, codes, codes, 4) == expected


def test_gain_of_a_single_row_is_bounded():
    X, y = np.repeat(np.eye(2), 500, axis=0), np.repeat([0, 1], 500)
    gain = relabelling_gain(X, y, 1e6 * X[:1], np.array([1]), np.array([0]), 1)
    assert gain == 5
    # A label that the judge does not know is as improbable as can be.
    assert relabelling_gain(X, y, X[:1], np.array([2]), np.array([0]), 1) == 5
