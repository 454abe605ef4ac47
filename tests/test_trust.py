import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skvibe.planted import SharedDisplacement
from skvibe.trust import (
    EQUAL_SHARES_FACTOR,
    JUDGE_ROWS,
    KEEP_SCORE,
    RELABEL_SCORE,
    Doubts,
    class_shares,
    judge_rows,
    look_into_doubts,
    refit_labels,
    relabelling_gain,
    trusted_rows,
)


def test_trust_needs_both_the_same_label_and_a_low_score():
    given_codes = np.array([0, 0, 0, 0, 1])
    clean = np.array([0, 1, 0, 1, 1])
    scores = np.array([0.1, 0.1, 0.9, 0.9, 0.49])
    expected = [True, False, False, False, True]
    np.testing.assert_array_equal(trusted_rows(given_codes, clean, scores), expected)


def test_a_tie_is_not_trusted():
    # At 0.5 another class is exactly as probable.
    one = np.array([0])
    assert not trusted_rows(one, one, np.array([0.5]))[0]
    assert trusted_rows(one, one, np.array([np.nextafter(0.5, 0)]))[0]


def doubts_of(n_rows, suspicious=True, plausible=False, planted=False):
    """The same for all rows."""
    parts = (np.full(n_rows, part) for part in (suspicious, plausible, planted))
    return Doubts(*parts, np.zeros((n_rows, 2)))


def test_refit_of_a_suspicious_class_uses_certain_rows_only():
    given_codes = np.array([0, 0, 0, 0, 0, 0])
    clean = np.array([0, 0, 1, 1, 2, 0])
    scores = np.array([0.1, 0.45, 0.81, 0.79, 1.0, 0.99])
    mask, labels = refit_labels(given_codes, clean, scores, doubts_of(6))
    np.testing.assert_array_equal(mask, [True, False, True, False, True, False])
    np.testing.assert_array_equal(labels[mask], [0, 1, 2])


def test_refit_of_other_classes_uses_all_trusted_rows():
    codes, scores = np.array([0, 0, 0]), np.array([0.1, 0.45, 0.5])
    mask, _ = refit_labels(codes, codes, scores, doubts_of(3, suspicious=False))
    np.testing.assert_array_equal(mask, [True, True, False])


def test_plausible_rows_keep_their_label_and_planted_ones_stay_out():
    given_codes, clean = np.array([0, 0, 0]), np.array([0, 1, 0])
    scores = np.array([0.9, 0.9, 0.1])
    doubts = doubts_of(3, plausible=True)
    doubts.planted[2] = True
    mask, labels = refit_labels(given_codes, clean, scores, doubts)
    np.testing.assert_array_equal(mask, [True, True, False])
    np.testing.assert_array_equal(labels[mask], [0, 0])


def test_refit_leaves_out_scores_at_its_limits():
    codes, other = np.array([0]), np.array([1])

    def enters(clean, score):
        return refit_labels(codes, clean, np.array([score]), doubts_of(1))[0][0]

    assert not enters(codes, KEEP_SCORE)
    assert enters(codes, np.nextafter(KEEP_SCORE, 0))
    assert not enters(other, RELABEL_SCORE)
    assert enters(other, np.nextafter(RELABEL_SCORE, 1))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(0, 1))))
def test_refit_keeps_trusted_labels_and_changes_the_others(rows):
    given_codes, clean, scores = (
        (np.array(part) for part in zip(*rows, strict=True))
        if rows
        else (np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    )
    mask, labels = refit_labels(given_codes, clean, scores, doubts_of(len(rows)))
    np.testing.assert_array_equal(labels[mask], clean[mask])
    kept = mask & (given_codes == clean)
    # Stricter than trusted_rows.
    assert not (kept & ~trusted_rows(given_codes, clean, scores)).any()
    assert (scores[mask & (given_codes != clean)] > RELABEL_SCORE).all()


def look(X, labels, trusted, seed=0):
    rng = np.random.default_rng(seed)
    return look_into_doubts(X.__getitem__, labels, trusted, 1 + labels.max(), rng)


def make_doubts(rng, n_triggered):
    """Two classes; hard rows of both are doubted, some rows of class 0 planted."""
    labels = np.repeat([0, 1], 500)
    X = rng.normal(size=(1000, 20))
    X[labels == 1, 0] += 8
    hard = np.r_[0:20, 500:520]
    X[hard, 0] = 4 + 0.5 * rng.normal(size=40)
    triggered = np.arange(20, 20 + n_triggered)
    X[triggered, 0] += 8  # rows of class 1
    X[triggered, 1] += 9
    trusted = np.ones(1000, dtype=bool)
    trusted[hard] = trusted[triggered] = False
    return X, labels, trusted, hard, triggered


def test_hard_rows_are_plausible_where_no_trigger_is():
    X, labels, trusted, hard, _ = make_doubts(np.random.default_rng(0), 0)
    doubts = look(X, labels, trusted)
    assert not doubts.suspicious.any()
    assert doubts.plausible[hard].mean() > 0.5
    assert not doubts.planted.any()


def test_a_trigger_is_told_from_hard_rows_also_where_it_was_trusted():
    X, labels, trusted, hard, triggered = make_doubts(np.random.default_rng(0), 60)
    trusted[triggered[:10]] = True
    doubts = look(X, labels, trusted)
    np.testing.assert_array_equal(doubts.suspicious, labels == 0)
    assert not doubts.plausible[triggered[10:]].any()
    assert doubts.plausible[hard[20:]].mean() > 0.5
    np.testing.assert_array_equal(np.flatnonzero(doubts.planted), triggered[:10])


class Judge:
    """Says of every row what it was told."""

    def __init__(self, proba):
        self.classes_ = np.array([0, 2])
        self.proba = proba

    def predict_proba(self, rows):
        return self.proba[rows]


def test_what_is_made_of_judge_and_displacement(monkeypatch):
    of_class_2 = np.array([0.1, 0.09, 0.49, 0.51, 0.8, 0.8, 0.8, 0.1, 0.1])
    proba = np.column_stack([1 - of_class_2, of_class_2])
    labels = np.array([2] * 7 + [0] * 2)
    trusted = np.isin(np.arange(9), [4, 5, 7])
    projections = np.array([0.9, 0.9, 1.0, 1.0, 4.0, 4.1, 4.1, 9.0, 9.0])
    shared = SharedDisplacement(np.zeros(3), np.array([False, True, True]), projections)
    monkeypatch.setattr("skvibe.trust.fit_judge", lambda X, y: Judge(proba))
    monkeypatch.setattr("skvibe.trust.shared_displacement", lambda *args: shared)
    for block in (1, 4, 100):
        monkeypatch.setattr("skvibe.trust._BLOCK", block)
        doubts = look_into_doubts(
            lambda rows: rows, labels, trusted, 3, np.random.default_rng(0)
        )
        np.testing.assert_array_equal(doubts.suspicious, labels == 2)
        # A tenth of the best (0.9 and 0.1) counts, less does not; from a displacement
        # of 1 only the best counts, above 4 nothing; class 0 is not suspicious.
        expected = [True, False, False, True, True, False, False, True, True]
        np.testing.assert_array_equal(doubts.plausible, expected)
        np.testing.assert_array_equal(np.flatnonzero(doubts.planted), [5])
        np.testing.assert_array_equal(doubts.proba[:, [0, 2]], proba[[5]])
        assert (doubts.proba[:, 1] == 0).all()


def test_nothing_is_plausible_without_two_trusted_classes():
    X, labels, _, _, _ = make_doubts(np.random.default_rng(0), 0)
    doubts = look(X, labels, labels == 0)
    assert doubts.suspicious.all()
    assert not doubts.plausible.any()
    assert not doubts.planted.any()


def test_judge_rows_are_bounded_and_ascending():
    rng = np.random.default_rng(0)
    rows = judge_rows(np.arange(3 * JUDGE_ROWS), rng)
    assert len(rows) == JUDGE_ROWS
    assert (np.diff(rows) > 0).all()
    few = np.arange(10)
    assert judge_rows(few, rng) is few


def test_thresholds_leave_a_doubtful_band():
    assert 0 < KEEP_SCORE < 0.5 < RELABEL_SCORE < 1


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_nearly_equal_shares_count_as_equal(n_classes):
    predicted = np.repeat(np.arange(n_classes), 100)
    np.testing.assert_array_equal(class_shares(predicted, n_classes), 1 / n_classes)


def test_shares_are_counted_where_they_differ():
    predicted = np.repeat([0, 1, 2], [97, 49, 0])
    # One more of each class, so that none is zero.
    np.testing.assert_allclose(
        class_shares(predicted, 4), np.array([98, 50, 1, 1]) / 150
    )


def test_the_limit_of_equality_holds_above_and_below():
    def factor(counts):
        shares = class_shares(np.repeat([0, 1, 2], counts), 3)
        return None if (shares == 1 / 3).all() else shares

    # The largest share over the equal one: 1.29 and 1.31 (counts are raised by one).
    below, above = 1.29, 1.31
    assert below < EQUAL_SHARES_FACTOR < above
    for ratio, equal in ((below, True), (above, False)):
        first = round(3000 * ratio / 3)
        counts = [first - 1, (3000 - first) // 2 - 1, (3000 - first + 1) // 2 - 1]
        assert (factor(counts) is None) == equal
        low = round(3000 / ratio / 3)
        counts = [low - 1, (3000 - low) // 2 - 1, (3000 - low + 1) // 2 - 1]
        assert (factor(counts) is None) == equal


@given(st.lists(st.integers(0, 4), max_size=60))
def test_shares_are_positive_and_sum_to_one(predicted):
    shares = class_shares(np.array(predicted, dtype=int), 5)
    assert shares.shape == (5,)
    assert (shares > 0).all()
    assert shares.sum() == pytest.approx(1)


# -- relabelling gain ----------------------------------------------------------------


def make_judged(n_changed=12, seed=0):
    """Trusted rows of three classes, and rows whose true class is known."""
    rng = np.random.default_rng(seed)
    trusted = np.repeat(np.arange(3), 20)
    true = np.arange(n_changed) % 3
    rows = [
        np.eye(3)[codes] + 0.1 * rng.normal(size=(len(codes), 3))
        for codes in (trusted, true)
    ]
    return rows[0], trusted, rows[1], true


def gain(clean, given, n_samples=72, **changes):
    trusted_X, trusted, X, _ = make_judged(len(clean))
    parts = {"trusted_X": trusted_X, "trusted_labels": trusted, "changed_X": X}
    return relabelling_gain(
        **(parts | changes), given=given, clean=clean, n_samples=n_samples
    )


def test_a_right_relabelling_is_confirmed_and_a_wrong_one_denied():
    true = make_judged()[3]
    wrong = (true + 1) % 3
    right = gain(true, wrong)
    assert 0 < right <= 5 * 12 / 72
    # What is said for a change is said against its contrary.
    assert gain(wrong, true) == pytest.approx(-right)
    # Half of each is between them.
    mixed = gain(np.where(true == 0, true, wrong), np.where(true == 0, wrong, true))
    assert -right < mixed < right


def test_a_gain_is_a_share_of_all_rows():
    true = make_judged()[3]
    given_codes = (true + 1) % 3
    assert gain(true, given_codes, 720) == pytest.approx(gain(true, given_codes) / 10)
    # Rows add up, each by itself.
    X = make_judged()[2]
    parts = [
        gain(true[:k], given_codes[:k], changed_X=X[:k])
        - (gain(true[: k - 1], given_codes[: k - 1], changed_X=X[: k - 1]))
        for k in (1, 5, 12)
    ]
    for part in parts:
        assert 0 < part <= 5 / 72 + 1e-12


def test_no_row_counts_for_more_than_five():
    trusted_X, trusted, X, true = make_judged()
    far = 1000 * X
    for sign, clean, given_codes in (
        (1, true, (true + 1) % 3),
        (-1, (true + 1) % 3, true),
    ):
        value = relabelling_gain(trusted_X, trusted, far, given_codes, clean, len(true))
        assert value == pytest.approx(5 * sign)


def test_gains_where_there_is_nothing_to_judge():
    trusted_X, trusted, _, true = make_judged()
    none = np.zeros(0, dtype=int)
    assert gain(none, none, changed_X=np.zeros((0, 3))) == 0
    other = (true + 1) % 3
    one = {"trusted_X": trusted_X[:20], "trusted_labels": trusted[:20]}
    assert gain(true, other, **one) == -5
    # Two classes are enough to judge by.
    two = {"trusted_X": trusted_X[:40], "trusted_labels": trusted[:40]}
    assert abs(gain(true, other, **two)) < 5


@pytest.mark.parametrize("unseen", [0, 1, 2])
def test_a_class_that_the_judge_never_saw_is_denied_and_stays_finite(unseen):
    trusted_X, trusted, X, true = make_judged()
    seen = trusted != unseen
    judge = {"trusted_X": trusted_X[seen], "trusted_labels": trusted[seen]}
    rows = true != unseen
    clean = np.full(rows.sum(), unseen)
    denied = gain(clean, true[rows], changed_X=X[rows], **judge)
    assert denied < -0.5 * 5 * rows.sum() / 72
    assert np.isfinite(denied)
    confirmed = gain(true[rows], clean, changed_X=X[rows], **judge)
    assert confirmed == pytest.approx(-denied)
