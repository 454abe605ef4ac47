"""What every attack promises, whatever its trigger."""

import copy
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.svm import SVC

from skvibe import attacks
from skvibe.attacks.base import draw_rows
from skvibe.datasets import load_poisoned_digits
from skvibe.metrics import attack_success_rate

# Parameters that make the attacks quick and let them find enough rows.
DIRTY = {
    "AdaptiveBlend": {"rate": 0.1, "cover_rate": 0.1},
    "AdaptivePatch": {"rate": 0.1, "cover_rate": 0.1},
    "AdaptiveTrigger": {"n_iter": 3},
    "BadNets": {},
    "Blend": {},
    "FTrojan": {},
    "UniversalBackdoor": {},
    "WaNet": {"cover_rate": 0.1},
}
CLEAN_LABEL = {
    "CTRL": {},
    "LabelConsistent": {"n_iter": 3},
    "Narcissus": {"n_iter": 30},
    "SIG": {"frequency": 2.5},
    "WitchesBrew": {"n_iter": 2, "n_restarts": 1},
}
IMAGE = DIRTY | CLEAN_LABEL
LINEAR_MODEL = ("AdaptiveTrigger", "LabelConsistent", "Narcissus", "WitchesBrew")
# In training these plant something else than at test time, as published.
TRAIN_DIFFERS = ("AdaptiveBlend", "AdaptivePatch", "LabelConsistent", "Narcissus")
NO_TRIGGER = ("WitchesBrew",)
FORMATS = {
    "NHWC": (12, 12, 3),
    "NCHW": (3, 12, 12),
    "NHW": (12, 12),
}


def make_images(layout="NHWC", dtype=np.uint8, n_rows=60, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(size=(n_rows, *FORMATS[layout]))
    y = rng.permutation(np.arange(n_rows) % 3)
    X = np.rint(pixels * 255).astype(dtype) if dtype == np.uint8 else pixels
    return X.astype(dtype), y


def make_attack(name, X, **params):
    params = IMAGE[name] | {"target": 1, "random_state": 0} | params
    if name == "WitchesBrew":
        params["victims"] = X[:2]
    return getattr(attacks, name)(**params)


def numpy_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("name", IMAGE)
def test_changes_what_it_says_and_nothing_else(name, dtype, layout):
    X, y = make_images(layout, dtype)
    X_before, y_before = X.copy(), y.copy()
    attack = make_attack(name, X, rate=0.2)
    data = attack.poison(X, y)

    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(y, y_before)
    np.testing.assert_array_equal(data.y_true, y)
    assert data.X.shape == X.shape
    assert data.X.dtype == X.dtype
    top = 255 if dtype == np.uint8 else 1
    assert data.X.min() >= 0
    assert data.X.max() <= top

    of_target = getattr(attack, "rate_of", None) == "target"
    n_expected = round(0.2 * (np.sum(y == 1) if of_target else len(y)))
    assert data.mask.sum() == n_expected > 0
    np.testing.assert_array_equal(data.indices, np.flatnonzero(data.mask))
    n_cover = round(getattr(attack, "cover_rate", 0) * len(y))
    assert data.cover_mask.sum() == n_cover
    assert not (data.mask & data.cover_mask).any()
    changed = (data.X != X).reshape(len(X), -1).any(axis=1)
    np.testing.assert_array_equal(changed, data.mask | data.cover_mask)

    if name in CLEAN_LABEL:
        np.testing.assert_array_equal(data.y, y)
        assert (y[data.mask] == 1).all()
    else:
        np.testing.assert_array_equal(data.y != y, data.mask)
        if name != "UniversalBackdoor":
            assert (data.y[data.mask] == 1).all()


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", sorted(set(IMAGE) - set(TRAIN_DIFFERS + NO_TRIGGER)))
def test_poisoned_rows_are_the_triggered_originals(name, dtype, layout):
    X, y = make_images(layout, dtype)
    attack = make_attack(name, X, rate=0.2)
    data = attack.poison(X, y)
    if name == "UniversalBackdoor":
        triggered = attack.trigger(X[data.mask], target=data.y[data.mask])
    else:
        triggered = attack.trigger(X[data.mask])
    np.testing.assert_array_equal(data.X[data.mask], triggered)


@pytest.mark.parametrize("name", IMAGE)
def test_layouts_and_pixel_types_agree(name):
    """The same pictures, stored differently, come out as the same pictures."""
    X, y = make_images("NHWC", np.uint8)
    reference = make_attack(name, X).poison(X, y)
    first = X.transpose(0, 3, 1, 2)
    other = make_attack(name, first).poison(first, y)
    if name in LINEAR_MODEL:
        # The pixels enter the linear model in the same order: equal to rounding.
        difference = other.X.transpose(0, 2, 3, 1).astype(int) - reference.X
        assert np.abs(difference).max() <= 1
    else:
        np.testing.assert_array_equal(other.X.transpose(0, 2, 3, 1), reference.X)
        unit = X / 255.0
        floats = make_attack(name, unit).poison(unit, y).X * 255
        assert np.abs(floats - reference.X).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(other.mask, reference.mask)


@pytest.mark.parametrize("name", IMAGE)
def test_same_seed_same_result_and_no_global_state(name):
    X, y = make_images()
    states = numpy_state(), torch.get_rng_state(), random.getstate()
    threads = torch.get_num_threads()
    first, second = (make_attack(name, X, rate=0.2).poison(X, y) for _ in range(2))
    np.testing.assert_array_equal(first.X, second.X)
    np.testing.assert_array_equal(first.y, second.y)
    np.testing.assert_array_equal(numpy_state(), states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
    assert random.getstate() == states[2]
    assert torch.get_num_threads() == threads
    other = make_attack(name, X, rate=0.2, random_state=7).poison(X, y)
    assert not np.array_equal(first.mask, other.mask)


@pytest.mark.parametrize("name", IMAGE)
def test_is_a_scikit_learn_object(name):
    X, y = make_images()
    attack = make_attack(name, X)
    with pytest.raises(NotFittedError, match="poison"):
        attack.trigger(X)
    copied = clone(attack).set_params(random_state=0, rate=0.15)
    assert copied.get_params()["rate"] == 0.15
    assert repr(attack).startswith(name)
    attack.poison(X, y)
    again = pickle.loads(pickle.dumps(attack))
    np.testing.assert_array_equal(attack.trigger(X), again.trigger(X))


@pytest.mark.parametrize("name", IMAGE)
def test_trigger_leaves_the_input_and_checks_the_size(name):
    X, y = make_images()
    attack = make_attack(name, X)
    attack.poison(X, y)
    before = X.copy()
    triggered = attack.trigger(X)
    np.testing.assert_array_equal(X, before)
    assert triggered.dtype == X.dtype
    if name not in NO_TRIGGER:
        with pytest.raises(ValueError, match="shape"):
            attack.trigger(X[:, :-1])


@pytest.mark.parametrize("name", IMAGE)
def test_rate_zero_changes_nothing(name):
    X, y = make_images()
    attack = make_attack(name, X, rate=0)
    if "cover_rate" in attack.get_params():
        attack.set_params(cover_rate=0)
    data = attack.poison(X, y)
    np.testing.assert_array_equal(data.X, X)
    np.testing.assert_array_equal(data.y, y)
    assert len(data.indices) == 0
    # The trigger is made all the same.
    assert attack.trigger(X[:2]).shape == X[:2].shape


@pytest.mark.parametrize("name", sorted(IMAGE))
def test_labels_may_be_strings(name):
    X, y = make_images()
    names = np.array(["a", "long name", "c"])[y]
    data = make_attack(name, X, target="long name").poison(X, names)
    assert set(data.y) <= set(names)
    numbered = make_attack(
        name, X, target=np.flatnonzero(np.unique(names) == "long name")[0]
    )
    codes = np.unique(names, return_inverse=True)[1]
    np.testing.assert_array_equal(data.mask, numbered.poison(X, codes).mask)


@pytest.mark.parametrize("name", IMAGE)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"target": 9}, "target"),
        ({"rate": 1.5}, "rate"),
        ({"rate": "0.1"}, "rate"),
        ({"layout": "HWCN"}, "layout"),
    ],
)
def test_bad_parameters_are_named(name, params, message):
    X, y = make_images()
    with pytest.raises((TypeError, ValueError), match=message):
        make_attack(name, X, **params).poison(X, y)


@pytest.mark.parametrize("name", CLEAN_LABEL)
def test_rate_of_all_counts_the_whole_set(name):
    X, y = make_images()
    data = make_attack(name, X, rate=0.1, rate_of="all").poison(X, y)
    assert data.mask.sum() == 6
    with pytest.raises(ValueError, match=r"rate=0\.9 asks for 54 rows"):
        make_attack(name, X, rate=0.9, rate_of="all").poison(X, y)
    with pytest.raises(ValueError, match="rate_of"):
        make_attack(name, X, rate_of="class").poison(X, y)


@pytest.mark.parametrize("name", LINEAR_MODEL)
def test_the_users_surrogate_stays_as_it_is(name):
    X, y = make_images()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, padding=1),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Dropout(),
            torch.nn.Linear(4 * 144, 3),
        )
    for weight in module.parameters():
        weight.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    attack = make_attack(name, X, surrogate=module)
    first = attack.poison(X, y)
    assert module.training
    assert not any(weight.requires_grad for weight in module.parameters())
    assert all(weight.grad is None for weight in module.parameters())
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])
    np.testing.assert_array_equal(first.X, attack.poison(X, y).X)
    with pytest.raises(TypeError, match="surrogate"):
        make_attack(name, X, surrogate="resnet").poison(X, y)


def test_lengths_must_agree():
    X, y = make_images()
    with pytest.raises(ValueError, match="inconsistent"):
        attacks.BadNets().poison(X, y[:-1])


@settings(max_examples=50)
@given(
    n_rows=st.integers(1, 200),
    share=st.floats(0, 1),
    rate=st.floats(0, 1),
    seed=st.integers(0, 2**31 - 1),
)
def test_draws_the_stated_number_of_allowed_rows(n_rows, share, rate, seed):
    allowed = np.random.default_rng(seed).uniform(size=n_rows) < share
    n_wanted = round(rate * n_rows)
    if n_wanted > allowed.sum():
        with pytest.raises(ValueError, match="rate"):
            draw_rows(allowed, rate, np.random.RandomState(seed))
        return
    rows = draw_rows(allowed, rate, np.random.RandomState(seed))
    assert len(np.unique(rows)) == n_wanted
    assert allowed[rows].all()


# On the raw pixels of the digits, support vector machine, seeds 0-2: the least seen.
# What is weak on images of 8 x 8 pixels is measured in docs/attacks.md.
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("name", "params", "least"),
    [
        ("BadNets", {"size": 2}, 0.95),
        ("BadNets", {"size": 2, "target": "all"}, 0.8),
        ("Blend", {}, 0.95),
        ("WaNet", {}, 0.9),
        ("UniversalBackdoor", {"rate": 0.15}, 0.8),
    ],
)
def test_undefended_classifier_obeys(name, params, least, seed):
    digits = load_poisoned_digits(rate=0, random_state=seed)
    X, X_test = (x.reshape(-1, 8, 8) for x in (digits.X, digits.X_test))
    attack = getattr(attacks, name)(**{"target": 3, "random_state": seed, **params})
    data = attack.poison(X, digits.y)
    triggered = attack.trigger(X_test).reshape(len(X_test), -1)
    asr, control = (
        attack_success_rate(digits.y_test, clf.predict(triggered), target=attack.target)
        for clf in (
            SVC(C=10).fit(rows.reshape(len(rows), -1), labels)
            for rows, labels in ((data.X, data.y), (X, digits.y))
        )
    )
    assert asr > least
    assert control < 0.25


def test_importing_the_package_loads_no_torch():
    code = (
        "import sys, skvibe.attacks as a; "
        "assert set(a.__all__) == set(dir(a)) and 'torch' not in sys.modules; "
        "[getattr(a, n) for n in ('BadNets', 'Blend', 'WaNet', 'SIG', 'FTrojan')]; "
        "a.TokenInsertion; a.FeatureShift; a.UniversalBackdoor; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_errors():
    with pytest.raises(AttributeError, match="BadNet'"):
        attacks.BadNet  # noqa: B018
