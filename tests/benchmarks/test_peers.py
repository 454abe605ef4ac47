import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

peers = pytest.importorskip("peers", reason="benchmarks are not in this copy")

ALL = [
    peers.no_defence,
    peers.spectral_signatures,
    peers.spectre,
    peers.activation_clustering,
    peers.knn_relabelling,
    peers.abl_head,
    peers.cbd_head,
    peers.dbd_head,
]


@pytest.mark.parametrize("peer", ALL, ids=lambda peer: peer.__name__)
def test_answers_for_every_row_and_leaves_the_data_alone(peer, poisoned):
    X, y, y_true, _ = poisoned
    before = X.copy(), y.copy()
    outcome = peer(X, y, rate=0.06, seed=0)
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(y, before[1])
    for values in (outcome.scores, outcome.flagged, outcome.labels):
        assert values is None or values.shape == y.shape
    if outcome.scores is not None:
        assert np.isfinite(outcome.scores).all()
    assert np.mean(outcome.model.predict(X) == y_true) > 0.6


@pytest.mark.parametrize("peer", ALL, ids=lambda peer: peer.__name__)
def test_same_seed_same_outcome(peer, poisoned):
    X, y, _, _ = poisoned
    first, second = (peer(X, y, rate=0.06, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.model.predict(X), second.model.predict(X))
    if first.scores is not None:
        np.testing.assert_array_equal(first.scores, second.scores)


@pytest.mark.parametrize(
    "peer", [peers.spectral_signatures, peers.spectre, peers.activation_clustering]
)
def test_detectors_find_a_displaced_group(peer, poisoned):
    X, y, _, mask = poisoned
    outcome = peer(X, y, rate=0.06, seed=0)
    target = y == 0
    assert roc_auc_score(mask[target], outcome.scores[target]) > 0.95
    assert outcome.flagged[mask].mean() > 0.9


def test_filters_leave_out_half_again_as_many_as_there_are(poisoned):
    X, y, _, _ = poisoned
    flagged = peers.spectral_signatures(X, y, rate=0.06).flagged
    for label in range(3):
        assert flagged[y == label].sum() == 54  # 1.5 * 0.06 * 600
    assert not peers.spectral_signatures(X, y, rate=0.0).flagged.any()


def test_neighbours_are_those_of_a_full_sort():
    X = np.random.default_rng(0).normal(size=(50, 4))
    cosine = X @ X.T
    cosine /= np.linalg.norm(X, axis=1) * np.linalg.norm(X, axis=1)[:, None]
    np.fill_diagonal(cosine, -np.inf)
    expected = np.argsort(-cosine, axis=1)[:, :5]
    found = peers._cosine_neighbours(X, 5)
    np.testing.assert_array_equal(np.sort(found, 1), np.sort(expected, 1))


def test_relabelling_restores_scattered_wrong_labels(poisoned):
    X, _, y_true, _ = poisoned
    wrong = np.random.default_rng(1).random(len(y_true)) < 0.1
    y = np.where(wrong, (y_true + 1) % 3, y_true)
    outcome = peers.knn_relabelling(X, y, n_neighbors=20)
    assert np.mean(outcome.labels == y_true) > 0.97


@pytest.mark.parametrize(
    "loss", ["cross-entropy", "gradient ascent", "symmetric cross-entropy"]
)
def test_head_follows_the_gradient_of_its_loss(loss):
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(6, 3)), np.arange(6) % 3

    def value(logits):
        own = peers._softmax(logits)[np.arange(6), y]
        entropy = -np.log(own)
        if loss == "cross-entropy":
            return entropy.sum()
        if loss == "symmetric cross-entropy":
            return (0.1 * entropy - np.log(1e-4) * (1 - own)).sum()
        return (np.sign(entropy - 0.5) * entropy).sum()

    residual = peers._softmax(logits)
    factor = peers._SoftmaxHead(loss, 0)._factor(residual[np.arange(6), y])
    residual[np.arange(6), y] -= 1
    for place in np.ndindex(6, 3):
        step = np.zeros((6, 3))
        step[place] = 1e-6
        slope = (value(logits + step) - value(logits - step)) / 2e-6
        assert slope == pytest.approx(factor[place[0]] * residual[place], abs=1e-6)


def test_unlearning_stops_at_the_level_of_guessing(poisoned):
    X, y, _, mask = poisoned
    model = peers.fit_logistic(X, y)
    peers._unlearn(model, X[mask], y[mask])
    own = model.predict_proba(X[mask])[:, 0]
    assert np.log(3) <= -np.log(own).mean() < 2 * np.log(3)


def test_cleanlab_finds_scattered_wrong_labels(poisoned):
    pytest.importorskip("cleanlab")
    X, _, y_true, _ = poisoned
    wrong = np.random.default_rng(1).random(len(y_true)) < 0.05
    names = np.array(["a", "b", "c"])
    y = names[np.where(wrong, (y_true + 1) % 3, y_true)]
    outcome = peers.cleanlab(X, y, seed=0)
    assert roc_auc_score(wrong, outcome.scores) > 0.95
    assert np.mean(outcome.labels == names[y_true]) > 0.95
    assert set(outcome.model.predict(X)) == set(names)
