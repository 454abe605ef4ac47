"""Inputs that break things: a right answer or a clear error, and nothing else.

Never a hang, a crash, NaN in an output, a change to the input, a warning about
arithmetic, or an answer that is silently wrong.
"""

import signal
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.exceptions import ConvergenceWarning

from skvibe import OffManifoldFilter, OffManifoldSampler, VIBEClassifier
from skvibe.trigger_filter import TriggerFilter

SECONDS, WAITED = 120, 1200
N = 90
# What an estimator may say of an odd input; arithmetic warnings are not among them.
ALLOWED_WARNINGS = (UserWarning, ConvergenceWarning)


def base(n=N, d=6, n_classes=3, seed=0):
    """Directions that any sound method tells apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = 3 * np.eye(n_classes, d)[y] + 0.2 * rng.normal(size=(n, d))
    return X, y


X, Y = base()


# -- the inputs ------------------------------------------------------------------------


def readable(X):
    """The same numbers in every type and layout: all must give the right answer."""
    small = np.rint(20 * (X + 1)).clip(0, 120)
    for kind in ("u1", "u2", "u4", "u8"):
        yield f"type {kind}", small.astype(kind)
    for kind in ("i1", "i2", "i4", "i8"):
        yield f"type {kind}", small.astype(kind) - np.array(20, dtype=kind)
    for kind in ("f2", "f4", "f8", "g", ">f4", ">f8"):
        yield f"type {kind}", X.astype(kind)
    yield "objects", X.astype(object)
    yield "bool", X > 1.5
    yield "column-major", np.asfortranarray(X)
    yield "strided", np.repeat(X, 2, axis=1)[:, ::2]
    yield "backwards", X[::-1][::-1]
    yield "backwards columns", np.ascontiguousarray(X[:, ::-1])[:, ::-1]
    yield "transposed", np.ascontiguousarray(X.T).T
    frozen = X.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    yield "read-only f4", np.frombuffer(X.astype("f4").tobytes(), "f4").reshape(X.shape)
    yield "list", X.tolist()
    yield "tuple", tuple(map(tuple, X))
    yield "list of arrays", list(X)
    yield "frame", pd.DataFrame(X)
    yield "frame with names", pd.DataFrame(X, columns=list("abcdef"))
    yield "frame of f4", pd.DataFrame(X.astype("f4"))
    yield "nullable frame", pd.DataFrame(X).convert_dtypes()
    yield "masked, nothing hidden", np.ma.masked_array(X)
    yield "view of a record", X.view(type("Sub", (np.ndarray,), {}))


def scaled(X):
    """Only directions count, so any scale that the type can hold must do."""
    for power in (-300, -160, -150, -100, -40, -20, -12, -6, 6, 20, 40, 150, 160, 300):
        yield f"f8 x 1e{power}", X * 10.0**power
    for power in (-36, -30, -20, -12, -6, 6, 12, 18, 19, 20, 30, 37):
        yield f"f4 x 1e{power}", (X * 10.0**power).astype("f4")
    powers = np.random.default_rng(1).uniform(-30, 30, size=(len(X), 1))
    yield "f8, every row its own scale", X * 10**powers
    yield "f4, every row its own scale", (X * 10**powers).astype("f4")


def degenerate():
    """Geometry in which there is nothing to find: any answer that is one."""
    rng = np.random.default_rng(2)
    yield "all rows equal", np.ones((N, 6)), Y
    yield "all zero", np.zeros((N, 6)), Y
    yield "minus zero", -np.zeros((N, 6)), Y
    yield "one row not zero", np.eye(N, 6), Y
    yield "two points", np.where((Y == 0)[:, None], 1.0, -1.0) * np.ones((N, 6)), Y
    yield "one feature varies", np.c_[np.ones((N, 5)), rng.normal(size=N)], Y
    yield "two features", rng.normal(size=(N, 2)), Y
    yield "rank one", np.outer(rng.normal(size=N), np.ones(6)), Y
    yield "opposite rows", X * np.where(rng.random(N) < 0.5, 1, -1)[:, None], Y
    yield "noise", rng.normal(size=(N, 6)), Y
    yield "zero rows among others", X * (np.arange(N) % 9 > 0)[:, None], Y
    yield "one row is huge", X * np.where(np.arange(N) == 5, 1e30, 1)[:, None], Y
    yield "one row is tiny", X * np.where(np.arange(N) == 5, 1e-30, 1)[:, None], Y
    yield "one feature is huge", X * np.r_[1e30, np.ones(5)], Y
    yield "one feature is tiny", X * np.r_[1e-30, np.ones(5)], Y
    yield "denormals", np.full((N, 6), 5e-324) * (rng.random((N, 6)) < 0.5), Y
    yield "denormal f4", np.full((N, 6), 1e-45, "f4") * (rng.random((N, 6)) < 0.5), Y
    yield "largest f8", np.full((N, 6), np.finfo("f8").max) * np.sign(X), Y
    yield "largest f4", (np.finfo("f4").max * np.sign(X)).astype("f4"), Y
    yield "largest f2", (np.finfo("f2").max * np.sign(X)).astype("f2"), Y
    yield "largest i8", np.iinfo("i8").max * np.sign(X).astype("i8"), Y
    yield "largest u8", np.full((N, 6), np.iinfo("u8").max, "u8") * (X > 1), Y
    yield "too large for f4", X * 1e60, Y
    extremes = rng.choice([1e300, -1e300, 1e-300, 0.0, 1.0], size=(N, 6))
    yield "extremes", extremes, Y
    yield "many duplicates", np.repeat(X[:3], 2000, axis=0), np.repeat(Y[:3], 2000)
    yield (
        "duplicates and others",
        np.r_[X, np.tile(X[0], (3000, 1))],
        np.r_[Y, np.zeros(3000, int)],
    )
    yield "duplicates with every label", np.tile(X[0], (N, 1)), Y
    yield "many features", rng.normal(size=(20, 3000)), np.arange(20) % 3
    for n in (2, 3, 4, 5, 7, 10, 12, 20):
        yield f"{n} rows", rng.normal(size=(n, 6)), np.arange(n) % 2
        yield f"{n} rows, {n} classes", rng.normal(size=(n, 6)), np.arange(n)


def labels():
    """Labels of any kind that scikit-learn takes: the right answer under any name."""
    for name, values in {
        "strings": ["a", "b", "c"],
        "strings with NUL": ["a\0b", "a\0c", "\0a"],
        "empty string": ["", "b", "c"],
        "blanks": [" ", "  ", "\t\n"],
        "emoji": ["\U0001f600", "\U0001f601", "é"],
        "right to left": ["\u202eabc", "\u202ecba", "\u202e"],
        "markup": ["<script>", "{{x}}", "%s%n"],
        "long strings": ["a" * 10_000, "b" * 10_000, "a" * 9_999],
        "numbers as strings": ["1", "01", "1.0"],
        "nan as a string": ["nan", "None", "inf"],
        "negative": [-1, -2, -3],
        "extreme integers": [-(2**63), 2**63 - 1, 0],
        "floats that are integers": [1.0, 2.0, -3.0],
        "large floats": [1e15, -1e15, 0.0],
        "bool of two": [True, False, True],
        "unsigned": np.array([255, 0, 7], dtype=np.uint8),
        "objects of one kind": np.array(["u", "v", "w"], dtype=object),
        "small integers": np.array([1, 2, 3], dtype=np.int8),
    }.items():
        yield name, np.asarray(values)[Y]
    yield "list", Y.tolist()
    yield "tuple", tuple(Y.tolist())
    yield "series", pd.Series(Y, index=np.arange(N)[::-1])
    yield "categories", pd.Series(np.array(list("abc"))[Y], dtype="category")
    yield "one row in a class", np.where(np.arange(N) == 3, 3, Y)
    yield "one row in two classes", np.where(np.arange(N) < 2, 7 + np.arange(N), Y)
    yield "strided", np.repeat(Y, 3)[::3]


def poisoned():
    """Flipped labels up to 60 % of a class, and shares as uneven as can be."""
    rng = np.random.default_rng(3)
    for percent in (5, 10, 20, 30, 40, 50, 60):
        flipped = rng.random(N) < percent / 100
        yield f"{percent} % turned to 0", X, np.where(flipped, 0, Y)
        yield f"{percent} % at random", X, np.where(flipped, rng.integers(3, size=N), Y)
    yield "no label right", X, (Y + 1) % 3
    yield "labels at random", X, rng.integers(3, size=N)
    for k in (1, 2, 5):
        yield f"uneven {k}", X, np.where(np.arange(N) < N - 3 * k, 0, Y)


def many_classes():
    rng = np.random.default_rng(4)
    yield "100 classes", rng.normal(size=(300, 20)), np.arange(300) % 100
    yield "as many classes as rows", rng.normal(size=(60, 20)), np.arange(60)


def removed_rows():
    for name, keep in {
        "one removed": np.arange(N) != 4,
        "every second": np.arange(N) % 2 == 0,
        "one left of a class": (Y > 0) | (np.arange(N) == 0),
        "a class gone": Y > 0,
        "two left": np.isin(np.arange(N), [0, 1]),
    }.items():
        yield name, np.where(keep[:, None], X, np.nan), Y
        yield f"{name} f4", np.where(keep[:, None], X, np.nan).astype("f4"), Y


def refused():
    """What has no right answer must be refused in words."""
    nan, inf = np.full((N, 6), np.nan), np.full((N, 6), np.inf)
    one = np.where(np.arange(6) == 2, np.nan, X[:1])
    yield "NaN", nan, Y
    yield "infinity", inf, Y
    yield "minus infinity", -inf, Y
    yield "one NaN", np.r_[one, X[1:]], Y
    yield "one infinity", np.where(np.isnan(np.r_[one, X[1:]]), np.inf, X), Y
    yield "one left", np.where((np.arange(N) == 0)[:, None], X, np.nan), Y
    yield "one class left", np.where((Y == 0)[:, None], X, np.nan), Y
    yield "no rows", X[:0], Y[:0]
    yield "no features", X[:, :0], Y
    yield "one row", X[:1], Y[:1]
    yield "one feature", X[:, :1], Y
    yield "vector", X[:, 0], Y
    yield "cube", X.reshape(N, 2, 3), Y
    yield "scalar", 3.0, Y
    yield "None", None, Y
    yield "text", np.full((N, 6), "a"), Y
    yield "complex", X + 1j, Y
    yield "records", np.zeros(N, dtype=[("a", float), ("b", float)]), Y
    yield "ragged", [[1.0, 2.0], [1.0]] * (N // 2), Y
    yield "objects inside", np.full((N, 6), object()), Y
    yield "dict", {"a": X}, Y
    yield "generator", (row for row in X), Y
    yield "string", "X", Y
    yield "matrix", np.matrix(X), Y
    yield "integers too large", np.full((N, 6), 10**400), Y
    yield "shorter y", X, Y[:-1]
    yield "longer y", X, np.r_[Y, 0]
    yield "no y", X, None
    yield "scalar y", X, 3
    yield "one class", X, np.zeros(N)
    yield "one class of text", X, np.full(N, "a")
    yield "y of NaN", X, np.where(Y == 0, np.nan, Y)
    yield "y of infinity", X, np.where(Y == 0, np.inf, Y)
    yield "y of None", X, np.where(Y == 0, None, Y)
    yield "mixed y", X, np.where(Y == 0, "a", Y.astype(object))
    yield "y of fractions", X, Y + 0.5
    yield "y complex", X, Y + 1j
    yield "y of two columns", X, np.c_[Y, Y]
    yield "one-hot y", X, np.eye(3)[Y]
    yield "y of integers as objects", X, Y.astype(object)
    yield "y of lists", X, [[k] * (1 + k) for k in Y]
    yield "y of objects", X, np.array([object() for _ in Y])
    yield "y of dicts", X, [{} for _ in Y]


def parameters():
    """Numerics over six decades, and settings at the ends of their ranges."""
    for posterior in ("full", "approximate"):
        for name in ("lam", "kappa", "nu"):
            for power in range(-3, 4):
                params = {name: 10.0**power, "corrupted_posterior": posterior}
                yield f"{posterior} {name} 1e{power}", params
    for lam in (1e-3, 1e3):
        for kappa in (1e-3, 1e3):
            for nu in (0.0, 1e-3, 1e3):
                yield (
                    f"lam {lam} kappa {kappa} nu {nu}",
                    {"lam": lam, "kappa": kappa, "nu": nu},
                )
    for name, params in {
        "batches of one": {"batch_size": 1},
        "a huge batch": {"batch_size": 10**12},
        "one iteration": {"max_iter": 1},
        "one E-step": {"e_step_period": 10**12},
        "an E-step each time": {"e_step_period": 1},
        "huge steps": {"lr": 1e6},
        "tiny steps": {"lr": 1e-12},
        "never calm": {"tol": 0},
        "always calm": {"tol": 1e9},
        "uneven prior": {"prior": [1e-12, 1.0, 1.0]},
        "prior in the thousands": {"prior": [1e6, 2e6, 1e6]},
        "learned, cold": {"prior": "learned", "prior_temperature": 1e-6},
        "learned, hot": {"prior": "learned", "prior_temperature": 100.0},
        "empirical": {"prior": "empirical"},
        "soft and sharp": {"pseudo_labels": "soft", "lam": 1e4},
        "soft and blunt": {"pseudo_labels": "soft", "lam": 1e-3},
        "integers for floats": {"lam": 25, "kappa": 20, "nu": 20, "lr": 1, "tol": 0},
        "numpy scalars": {"lam": np.float32(25), "max_iter": np.int64(40)},
        "largest seed": {"random_state": 2**32 - 1},
    }.items():
        yield name, params


RIGHT = {
    **{f"X: {name}": (rows, Y) for name, rows in readable(X)},
    **{f"scale: {name}": (rows, Y) for name, rows in scaled(X)},
    **{f"y: {name}": (X, given) for name, given in labels()},
}
ANY = {
    f"any: {name}": (rows, given)
    for cases in (degenerate, poisoned, many_classes, removed_rows)
    for name, rows, given in cases()
}
REFUSED = {name: (rows, given) for name, rows, given in refused()}
PARAMETERS = dict(parameters())


def test_there_are_many():
    n = len(RIGHT) + len(ANY) + len(REFUSED) + len(PARAMETERS)
    assert n >= 200


# -- what is asked of every one --------------------------------------------------------


@pytest.fixture(autouse=True)
def no_hang():
    """A hang becomes a failure."""

    def late(signum, frame):
        raise TimeoutError(f"not done after {SECONDS} s of CPU time, or {WAITED} s")

    # CPU time: beside other jobs a fit of seconds has taken minutes by the clock.
    kinds = signal.SIGPROF, signal.SIGALRM
    before = [signal.signal(kind, late) for kind in kinds]
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAITED)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    for kind, handler in zip(kinds, before, strict=True):
        signal.signal(kind, handler)


def content(value):
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


def fit(estimator, rows, given):
    """Fit; None if it was refused in words. The input must stay as it was."""
    before = content(rows), content(given)
    refusal = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(rows, given)
        except (ValueError, TypeError, OverflowError) as error:
            refusal, estimator = str(error), None
    assert refusal is None or len(refusal) > 15, refusal
    assert (content(rows), content(given)) == before
    for warning in caught:
        assert issubclass(warning.category, ALLOWED_WARNINGS), warning
        assert not issubclass(warning.category, RuntimeWarning), warning
    return estimator


def check_fitted(vibe, rows, n_rows):
    for name in ("clean_proba_", "prior_", "prototypes_", "corrupted_prototypes_"):
        assert np.isfinite(getattr(vibe, name)).all(), name
    assert np.isfinite(vibe.lower_bounds_).all()
    assert np.isfinite(vibe.poisoning_rule_).all()
    assert ((vibe.poison_scores_ >= 0) & (vibe.poison_scores_ <= 1)).all()
    assert len(vibe.clean_labels_) == len(vibe.poison_scores_) == n_rows
    np.testing.assert_allclose(vibe.clean_proba_.sum(axis=1), 1, rtol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        proba = vibe.predict_proba(rows)
        assert np.isfinite(vibe.clean_posterior(rows)).all()
        assert set(vibe.predict(rows)) <= set(vibe.classes_)
        assert not np.isnan(vibe.decision_function(rows)).any()
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)


def rows_left(rows):
    if not (isinstance(rows, np.ndarray) and rows.dtype.kind == "f"):
        return rows
    return rows[~np.isnan(rows.astype(float)).all(axis=1)]


def quick(**params):
    return VIBEClassifier(
        **{"random_state": 0, "max_iter": 40, "e_step_period": 10, **params}
    )


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_answer(name):
    rows, given = RIGHT[name]
    vibe = fit(quick(), rows, given)
    assert vibe is not None, "refused"
    check_fitted(vibe, rows, N)
    assert (vibe.predict(rows) == np.asarray(given)).mean() > 0.9
    assert vibe.transform(rows).shape == (N, 6)
    lengths = np.linalg.norm(vibe.transform(rows).astype(float), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-2)


@pytest.mark.parametrize("name", ANY)
def test_an_answer_or_an_error(name):
    rows, given = ANY[name]
    vibe = fit(quick(), rows, given)
    if vibe is not None:
        check_fitted(vibe, rows_left(rows), len(rows))


@pytest.mark.slow
def test_a_thousand_classes():
    rng = np.random.default_rng(0)
    rows, given = rng.normal(size=(1500, 20)), np.arange(1500) % 1000
    params = {"corrupted_posterior": "approximate", "prior": "uniform", "refit": False}
    vibe = fit(quick(**params), rows, given)
    check_fitted(vibe, rows, 1500)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words(name):
    assert fit(quick(), *REFUSED[name]) is None


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    rows = X.astype(np.float32)
    vibe = fit(quick(**PARAMETERS[name]), rows, Y)
    if vibe is not None:
        check_fitted(vibe, rows, N)


@settings(max_examples=60)
@given(st.data())
def test_arrays_at_random(data):
    n, d = data.draw(st.integers(2, 20)), data.draw(st.integers(2, 5))
    kind = data.draw(st.sampled_from([np.float64, np.float32, np.float16]))
    width = np.dtype(kind).itemsize * 8
    elements = st.floats(
        allow_nan=False, allow_infinity=data.draw(st.booleans()), width=width
    )
    rows = data.draw(hnp.arrays(kind, (n, d), elements=elements))
    given = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, 3)))
    vibe = fit(quick(max_iter=10), rows, given)
    if vibe is not None:
        check_fitted(vibe, rows, n)


# -- the filters -----------------------------------------------------------------------


FILTERS = {
    "off-manifold": lambda: OffManifoldFilter(n_neighbors=10, random_state=0),
    "trigger": lambda: TriggerFilter(random_state=0, min_samples=50),
}


@pytest.mark.parametrize("name", [*RIGHT, *ANY])
@pytest.mark.parametrize("kind", FILTERS)
def test_filters_answer_or_refuse(kind, name):
    rows, given = {**RIGHT, **ANY}[name]
    fitted = fit(FILTERS[kind](), rows, given)
    if fitted is None:
        assert not name.startswith("X: "), "refused"
        return
    removed = fitted.removed_mask_
    assert removed.shape == (len(rows),)
    # An attacker cannot have more rows removed than max_removed allows.
    gone = np.isnan(np.asarray(rows, dtype=float)).all(axis=1)
    assert (removed & ~gone).sum() <= fitted.max_removed * len(rows)
    assert removed[gone].all()


@pytest.mark.parametrize("name", [n for n in REFUSED if n != "one class left"])
@pytest.mark.parametrize("kind", FILTERS)
def test_filters_refuse_in_words(kind, name):
    fitted = fit(FILTERS[kind](), *REFUSED[name])
    if fitted is not None:
        assert not fitted.removed_mask_.all()
        assert np.isfinite(rows_left(np.asarray(REFUSED[name][0], dtype=float))).all()


@pytest.mark.parametrize("name", [*ANY, "y: strings with NUL", "y: one row in a class"])
def test_the_sampler_returns_rows_it_was_given(name):
    rows, given = {**RIGHT, **ANY}[name]
    sampler = OffManifoldSampler(n_neighbors=10, random_state=0)
    if fit(sampler, rows, given) is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        kept, labels = sampler.fit_resample(rows, given)
    np.testing.assert_array_equal(kept, np.asarray(rows)[sampler.support_])
    np.testing.assert_array_equal(labels, np.asarray(given)[sampler.support_])
    assert len(kept) >= (1 - sampler.max_removed) * len(rows_left(rows))
