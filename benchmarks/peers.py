"""Other people's defences on feature vectors, in one interface.

Each peer is a function ``peer(X, y, *, rate, seed) -> Outcome``. It sees what a
defender sees, the rows and the labels given; ``rate`` is the true share of poisoned
rows for the few that ask for it, and None for the others. What follows each of them is
the same ``LogisticRegression(C=10, max_iter=1000)``. Written from the publications,
with their parameters wherever these mean anything for a linear head.

What the published methods train by back-propagation through a whole network is here a
softmax head on frozen features: that is what ABL, CBD and DBD can do in this setting,
and it says nothing about them end to end.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

_CHUNK = 2000


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a defence gives back.

    Parameters
    ----------
    model : object
        Has ``predict``.
    scores : ndarray of shape (n_samples,), default=None
        How suspect each training row is, the higher the more.
    flagged : ndarray of bool of shape (n_samples,), default=None
        Rows left out, relabelled or unlearnt.
    labels : ndarray of shape (n_samples,), default=None
        Labels the method puts in place of the given ones.
    notes : tuple of str, default=()
        Warnings of the method, kept with the results.
    seconds : float, default=None
        Processor time, where the method has its own account of it.
    """

    model: Any
    scores: np.ndarray | None = None
    flagged: np.ndarray | None = None
    labels: np.ndarray | None = None
    notes: tuple = ()
    seconds: float | None = None


def fit_logistic(X, y, sample_weight=None):
    """The classifier that follows every peer."""
    model = LogisticRegression(C=10, max_iter=1000)
    return model.fit(X, y, sample_weight=sample_weight)


def no_defence(X, y, *, rate=None, seed=0):
    """Train on everything."""
    return Outcome(fit_logistic(X, y))


def cleanlab(X, y, *, rate=None, seed=0):
    """Confident learning (Northcutt, Jiang and Chuang, 2021), ``CleanLearning``."""
    from cleanlab.classification import CleanLearning

    classes, codes = np.unique(y, return_inverse=True)
    learner = CleanLearning(
        LogisticRegression(C=10, max_iter=1000),
        seed=seed,
        cv_n_folds=5,
        find_label_issues_kwargs={"n_jobs": 1},
    )
    learner.fit(X, codes)
    issues = learner.get_label_issues()
    flagged = issues["is_label_issue"].to_numpy()
    labels = np.where(flagged, issues["predicted_label"].to_numpy(), codes)
    return Outcome(
        _Relabelled(learner, classes),
        scores=1 - issues["label_quality"].to_numpy(),
        flagged=flagged,
        labels=classes[labels],
    )


@dataclass(frozen=True, eq=False)
class _Relabelled:
    """A model of label codes that predicts labels."""

    model: Any
    classes: np.ndarray

    def predict(self, X):
        return self.classes[self.model.predict(X)]


def spectral_signatures(X, y, *, rate, seed=0):
    """Squared projection on the top direction of each class (Tran, Li, Madry, 2018).

    In every class 1.5 times the number of poisoned rows is left out, at most half.
    """
    scores = np.empty(len(y))
    for rows in _class_rows(y):
        centred = X[rows] - X[rows].mean(axis=0)
        scores[rows] = (centred @ _top_directions(centred, 1)[:, 0]) ** 2
    return _leave_out_highest(X, y, scores, rate)


def spectre(X, y, *, rate, seed=0):
    """Robustly whitened class, then QUE scores (Hayase, Kong, Somani and Oh, 2021).

    The class is projected on its top 4 directions; of 2, 4, 8, 16 and 32 this number
    served the method best on five cells of the table, so it is chosen in its favour.
    Mean and covariance come from concentration steps (the rows of least Mahalanobis
    distance, over and over) instead of the publication's filter, which did no better.
    alpha = 4; as many rows are left out as by spectral signatures.
    """
    scores = np.empty(len(y))
    for rows in _class_rows(y):
        centred = (X[rows] - X[rows].mean(axis=0)).astype(np.float64)
        n_components = max(1, min(4, len(rows) // 4))
        Z = centred @ _top_directions(centred, n_components)
        scores[rows] = _que_scores(Z, _n_left_out(len(rows), len(y), rate))
    return _leave_out_highest(X, y, scores, rate)


def activation_clustering(X, y, *, rate=None, seed=0):
    """Two clusters in each class (Chen et al., 2018).

    The class is reduced to 10 principal components and split by 2-means; the smaller
    cluster is left out if it holds less than 35 % of the class. Score: one minus the
    share of the row's cluster.
    """
    scores, flagged = np.zeros(len(y)), np.zeros(len(y), dtype=bool)
    for rows in _class_rows(y):
        if len(rows) < 4:
            continue
        n_components = min(10, len(rows) - 1, X.shape[1])
        Z = PCA(n_components, random_state=seed).fit_transform(X[rows])
        cluster = KMeans(2, n_init=10, random_state=seed).fit_predict(Z)
        share = np.bincount(cluster, minlength=2) / len(rows)
        scores[rows] = 1 - share[cluster]
        if share.min() < 0.35:
            flagged[rows] = cluster == share.argmin()
    return Outcome(fit_logistic(X[~flagged], y[~flagged]), scores, flagged)


def knn_relabelling(X, y, *, rate=None, seed=0, n_neighbors=50):
    """The label most common among the 50 nearest rows by cosine, for every row.

    Score: the share of neighbours with another label than the row's.
    """
    classes, codes = np.unique(y, return_inverse=True)
    votes = np.empty((len(y), len(classes)))
    neighbours = _cosine_neighbours(X, min(n_neighbors, len(y) - 1))
    for code in range(len(classes)):
        votes[:, code] = (codes[neighbours] == code).mean(axis=1)
    own = votes[np.arange(len(y)), codes]
    # A tie keeps the label given.
    labels = np.where(own < votes.max(axis=1), votes.argmax(axis=1), codes)
    flagged = labels != codes
    labels = classes[labels]
    return Outcome(fit_logistic(X, labels), 1 - own, flagged, labels)


def abl_head(X, y, *, rate=None, seed=0):
    """Anti-backdoor learning (Li et al., 2021).

    A head is trained for 20 epochs with the loss ``sign(L - 0.5) L``; the 1 % of rows
    of least loss are isolated; the logistic regression is fitted to all rows and then
    climbs the loss of the isolated ones until it is at the level of guessing. Score:
    minus the loss.
    """
    head = _SoftmaxHead("gradient ascent", seed).fit(X, y, epochs=20)
    losses = head.losses(X, y)
    isolated = np.zeros(len(y), dtype=bool)
    isolated[np.argsort(losses, kind="stable")[: max(1, round(0.01 * len(y)))]] = True
    model = fit_logistic(X, y)
    _unlearn(model, X[isolated], y[isolated])
    return Outcome(model, -losses, isolated)


def cbd_head(X, y, *, rate=None, seed=0):
    """Causality-inspired backdoor defence (Zhang et al., 2023).

    A head stopped after 5 epochs stands for the backdoor; a second one is trained for
    20 epochs with weights L_b / (L_b + L_c) renewed at every epoch (L_b, L_c: losses of
    the first and the second head). The logistic regression uses the last weights.
    Score: minus the weight. The mutual information term, off in the authors' code, is
    left out.
    """
    biased = _SoftmaxHead("cross-entropy", seed).fit(X, y, epochs=5).losses(X, y)
    clean = _SoftmaxHead("cross-entropy", seed + 1)
    weights = np.ones(len(y))
    for _ in range(20):
        clean.fit(X, y, epochs=1, weights=weights)
        weights = biased / (biased + clean.losses(X, y))
        weights /= weights.mean()
    return Outcome(fit_logistic(X, y, sample_weight=weights), -weights)


def dbd_head(X, y, *, rate=None, seed=0):
    """Decoupling-based backdoor defence (Huang et al., 2022).

    A head is trained for 10 epochs with symmetric cross-entropy (0.1 and 1); the half
    of the rows of least loss keeps its labels, the other half is unlabelled. Instead
    of MixMatch: self-training, three rounds in which unlabelled rows predicted with at
    least 0.95 join with the predicted label. Score: the loss.
    """
    head = _SoftmaxHead("symmetric cross-entropy", seed).fit(X, y, epochs=10)
    losses = head.losses(X, y)
    trusted = np.zeros(len(y), dtype=bool)
    trusted[np.argsort(losses, kind="stable")[: len(y) // 2]] = True
    model = fit_logistic(X[trusted], y[trusted])
    for _ in range(3):
        proba = model.predict_proba(X)
        labels = np.where(trusted, y, model.classes_[proba.argmax(axis=1)])
        used = trusted | (proba.max(axis=1) >= 0.95)
        model = fit_logistic(X[used], labels[used])
    return Outcome(model, losses, ~trusted, labels)


# -- shared parts ----------------------------------------------------------------------


def _class_rows(y):
    return [np.flatnonzero(y == label) for label in np.unique(y)]


def _top_directions(centred, k):
    """Columns: eigenvectors of the covariance, greatest eigenvalue first."""
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return vectors[:, ::-1][:, :k]


def _n_left_out(n_class, n_rows, rate):
    return min(round(1.5 * rate * n_rows), n_class // 2)


def _leave_out_highest(X, y, scores, rate):
    flagged = np.zeros(len(y), dtype=bool)
    for rows in _class_rows(y):
        n_out = _n_left_out(len(rows), len(y), rate)
        order = np.argsort(-scores[rows], kind="stable")
        flagged[rows[order[:n_out]]] = True
    return Outcome(fit_logistic(X[~flagged], y[~flagged]), scores, flagged)


def _que_scores(Z, n_out, alpha=4.0, n_steps=10):
    """Quantum entropy scores of the rows of Z after robust whitening."""
    kept = np.arange(len(Z))
    for _ in range(n_steps):
        whitened = _whiten(Z, Z[kept])
        distance = (whitened**2).sum(axis=1)
        kept = np.argsort(distance, kind="stable")[: len(Z) - n_out]
    whitened = _whiten(Z, Z[kept])
    second = whitened.T @ whitened / len(Z)
    values, vectors = np.linalg.eigh(second)
    # exp(alpha (S - I) / (||S|| - 1)) up to a factor, which changes no order.
    spread = max(values[-1] - 1, 1e-6)
    weights = np.exp(alpha * (values - values[-1]) / spread)
    return (whitened @ vectors) ** 2 @ weights / weights.sum()


def _whiten(Z, reference):
    centre = reference.mean(axis=0)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(reference, rowvar=False)))
    scale = 1 / np.sqrt(np.maximum(values, 1e-6 * values[-1]))
    return (Z - centre) @ (vectors * scale)


def _cosine_neighbours(X, k):
    """Row numbers of the k nearest other rows, (n_samples, k), in no order."""
    norm = np.linalg.norm(X, axis=1, keepdims=True)
    unit = (X / np.maximum(norm, 1e-12)).astype(np.float32)
    neighbours = np.empty((len(X), k), dtype=np.intp)
    for start in range(0, len(X), _CHUNK):
        stop = min(start + _CHUNK, len(X))
        distance = -(unit[start:stop] @ unit.T)
        distance[np.arange(stop - start), np.arange(start, stop)] = np.inf
        neighbours[start:stop] = np.argpartition(distance, k - 1, axis=1)[:, :k]
    return neighbours


def _unlearn(model, X, y, n_steps=1000):
    """Climb the loss of the rows until its mean is that of guessing; in place."""
    n_classes = len(model.classes_)
    wanted = (y[:, None] == model.classes_).astype(float)
    step = 1 / np.mean((X.astype(float) ** 2).sum(axis=1))
    for _ in range(n_steps):
        proba = model.predict_proba(X)
        loss = -np.log(np.maximum((proba * wanted).sum(axis=1), 1e-300))
        if loss.mean() >= np.log(n_classes):
            return
        residual = (proba - wanted) / len(X)
        model.coef_ = model.coef_ + step * residual.T @ X
        model.intercept_ = model.intercept_ + step * residual.sum(axis=0)


class _SoftmaxHead:
    """Softmax regression by SGD, whose epochs and loss can be chosen.

    The gradient of every loss used here is a factor of its own for each row times that
    of the cross-entropy. Inputs are centred and scaled to a mean squared norm of one,
    so that one step size serves all data sets.
    """

    _LR, _MOMENTUM, _BATCH = 1.0, 0.9, 128

    def __init__(self, loss, seed):
        self.loss = loss
        self.rng = np.random.default_rng(seed)
        self.weights = None

    def fit(self, X, y, *, epochs, weights=None):
        """Go on for some epochs."""
        if self.weights is None:
            self._start(X, y)
        inputs, codes = self._inputs(X), np.searchsorted(self.classes, y)
        weights = np.ones(len(y)) if weights is None else weights
        for _ in range(epochs):
            order = self.rng.permutation(len(y))
            for start in range(0, len(y), self._BATCH):
                rows = order[start : start + self._BATCH]
                self._step(inputs[rows], codes[rows], weights[rows])
        return self

    def losses(self, X, y):
        """Cross-entropy of each row; the symmetric one for a head trained with it."""
        codes = np.searchsorted(self.classes, y)
        proba = _softmax(self._inputs(X) @ self.weights)
        own = np.maximum(proba[np.arange(len(y)), codes], 1e-12)
        if self.loss == "symmetric cross-entropy":
            return -0.1 * np.log(own) + _REVERSE * (1 - own)
        return -np.log(own)

    def _start(self, X, y):
        self.classes = np.unique(y)
        self.centre = X.mean(axis=0)
        self.scale = 1 / np.sqrt(np.mean(((X - self.centre) ** 2).sum(axis=1)))
        self.weights = np.zeros((X.shape[1] + 1, len(self.classes)))
        self.velocity = np.zeros_like(self.weights)

    def _inputs(self, X):
        scaled = (X - self.centre) * self.scale
        return np.column_stack([scaled, np.ones(len(X))])

    def _step(self, inputs, codes, weights):
        residual = _softmax(inputs @ self.weights)
        rows = np.arange(len(codes))
        factor = weights * self._factor(residual[rows, codes])
        residual[rows, codes] -= 1
        gradient = inputs.T @ (residual * factor[:, None]) / len(codes)
        self.velocity = self._MOMENTUM * self.velocity - self._LR * gradient
        self.weights = self.weights + self.velocity

    def _factor(self, own):
        if self.loss == "gradient ascent":
            return np.sign(-np.log(np.maximum(own, 1e-12)) - 0.5)
        if self.loss == "symmetric cross-entropy":
            return 0.1 + _REVERSE * own
        return np.ones(len(own))


# -log of the 1e-4 that stands for the zeros of a one-hot label.
_REVERSE = -np.log(1e-4)


def _softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    proba = np.exp(logits)
    return proba / proba.sum(axis=1, keepdims=True)
