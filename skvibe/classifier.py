"""The classifier: variational inference of clean labels, then of the class."""

import copy
import warnings

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import TransformerTags, check_array, check_random_state
from skorch.utils import to_device

from skvibe._callbacks import CallbackSupportMixin, FitTasks, with_callbacks
from skvibe._device import resolve_device
from skvibe._fit_data import (
    check_fit_data,
    check_predict_data,
    input_dtypes,
)
from skvibe._net_state import describe_net, restore_net
from skvibe._parameters import NET_PREFIXES, check_parameters
from skvibe._prediction import (
    latent_features,
    log_posterior,
    predicted_log_proba,
    score_rows,
)
from skvibe._publishing import publish_refit
from skvibe._trials import fit_trials, open_checkpoints

_INTERRUPTED = (
    "The fit was interrupted: the model is usable, but the clean labels may not have "
    "settled (converged_ is False). A checkpoint stays, so that the same fit goes on."
)

_NOT_SETTLED = (
    "EM did not converge within max_iter={} iterations: the last E-step changed {:.2%} "
    "of the clean labels, and two in a row must change at most {:.2%} (tol). Raise "
    "max_iter or tol, or lower lr. tol=0 asks for no such warning."
)


class VIBEClassifier(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    ClassifierMixin,
    TransformerMixin,
    BaseEstimator,
):
    """Classifier that finds the clean labels of poisoned training data by EM.

    Every row has a hidden clean label. The E-step infers them for all rows at once,
    as an entropic optimal transport problem that keeps the classes in balance; the
    M-step fits clean and corrupted class prototypes on the unit sphere by SGD. Only
    the clean prototypes predict, so what an attacker wrote into the labels stays
    behind.

    Rows of ``X`` that are NaN in every feature (removed by a filter earlier in the
    pipeline) are left out of training; all attributes keep their place for them.

    Parameters
    ----------
    encoder : torch.nn.Module, default=None
        Maps a batch of inputs to feature vectors. None: ``X`` holds the feature
        vectors. The module given is copied, never changed.
    train_encoder : bool, default=False
        Train the copy of ``encoder`` together with the prototypes. False: its
        features are computed once and kept fixed.
    encoder_lr : float, default=None
        Learning rate of a trained encoder, > 0, which has a parameter group of its own.
        None: `lr`.
    augment : torch.nn.Module or callable, default=None
        Random view of a batch, such as `skvibe.encoders.CropFlip`: float inputs to
        float inputs, on the device. Used in the M-step with ``train_encoder=True``;
        E-steps, scores and predictions see rows as they are.
    lam : float, default=25.0
        Sharpness of the transport problem, > 0; a large value makes the clean labels
        nearly hard.
    kappa : float or "auto", default="auto"
        Concentration of the clean posterior, > 0. Features are unit vectors, so
        logits lie in [-kappa, kappa]. "auto": three settings of `whitening`, kappa
        and nu are tried, and the one whose relabelling an independent classifier
        confirms best is kept (`skvibe.trust.relabelling_gain`); what is given as a
        number stays fixed. Features that are not whitened take the paper's value, 10
        up to 30 classes and 20 above.
    nu : float or "auto", default="auto"
        Concentration of the corrupted posterior, >= 0: how far given labels are
        trusted. "auto": as for `kappa`.
    whitening : float, "auto" or None, default="auto"
        Shrinkage, > 0, of the whitening of fixed features, see `skvibe.whitening`. It
        looks at no label, and makes very different feature spaces comparable. None:
        unit vectors as they are, as in the paper. A trained encoder is never
        whitened.
    corrupted_posterior : {"full", "approximate"}, default="full"
        Whether p(y | l, x) depends on the row ("full") or only on the clean label.
    pseudo_labels : {"hard", "soft"}, default="hard"
        Whether the M-step uses the most probable clean label or its distribution.
    first_e_step : {"joint", "clean"}, default="joint"
        Whether the first E-step uses both posteriors or, as the paper does, only the
        clean one. The latter disregards the given labels: where classes overlap, most
        change at once and do not come back.
    prior : {"auto", "uniform", "empirical", "learned"} or array of shape \
(n_classes,), default="auto"
        Class shares to which the clean labels are balanced. "auto": equal shares
        first, then shares counted from the rows that could be trusted, until they
        settle; they stay equal where they are nearly so, and are those of the given
        labels where a class would vanish otherwise. "empirical": shares of the
        given labels; on poisoned data it lets the backdoor through. "learned":
        ``softmax(prior_temperature * theta)``, as in the paper.
    prior_temperature : float, default=0.02
        Used by ``prior="learned"``, > 0.
    max_iter : int, default=1000
        Largest number of SGD iterations (mini-batches); `tol` usually ends earlier.
    e_step_period : int or "auto", default="auto"
        SGD iterations from one E-step to the next. "auto": as many as one pass over
        the rows has, at least 20 and at most a twentieth of `max_iter`. That is 20 up
        to 20 mini-batches of rows.
    batch_size : int, default=1024
        Rows of a mini-batch.
    lr : float, default=0.003
        Learning rate of SGD (momentum 0.9, weight decay 5e-4).
    tol : float, default=1e-3
        Training stops when two E-steps in a row change at most this share of the
        clean labels; if `max_iter` ends it first, a `ConvergenceWarning` says so. 0:
        only when they change none, and without the warning.
    refit : bool or classifier, default=True
        After EM, fit an ordinary classifier on the unit features of the rows whose
        labels are trusted, of doubted rows that are merely hard
        (`skvibe.trust.look_into_doubts`), and of rows relabelled beyond reasonable
        doubt; it then makes the predictions. True: logistic regression with C=10.
        False: the clean prototypes predict, as in the paper, and no doubted row is
        looked into.
    solver : {"torch", "pot"}, default="torch"
        Who solves the transport problem: this package, to 1e-6 of the class shares,
        or POT's Sinkhorn in the log domain, to 1e-3 (slow; for comparison).
    device : str or torch.device, default="auto"
        "auto" takes CUDA where there is one.
    net_params : dict, default=None
        More parameters of the inner `skorch.NeuralNetClassifier`, such as
        ``{"callbacks": [...], "optimizer__momentum": 0.8}``. They are also reached by
        ``set_params(optimizer__momentum=0.8)``, hence by a grid search.
    checkpoint : str or path, default=None
        File in which the state of a fit is kept, its name extended by a fingerprint
        of the data, the parameters and the library versions. A killed `fit` that is
        started again with the same ones goes on from it, and ends as if it had never
        been interrupted, bit for bit on the CPU; any other fit has a file of its own.
        The file holds no training row and no code. It is removed when `fit` is
        through, and stays after an interruption. See Notes.
    checkpoint_every : int, default=100
        SGD iterations from one checkpoint to the next.
    random_state : int, RandomState instance or None, default=None
        Order of the mini-batches, and start of a learned prior.
    verbose : int, default=0
        1 prints a line for each E-step.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels, removed rows included.
    clean_labels_ : ndarray of shape (n_samples,)
        Inferred clean labels. Removed rows keep the label given.
    clean_proba_ : ndarray of shape (n_samples, n_classes)
        q(l | x, y) of the last E-step; its argmax is ``clean_labels_``. One-hot at
        the given label for removed rows; for rows that EM trusted although they carry
        a displacement which the doubted rows of their class share, what a classifier
        of trusted rows says of the other classes.
    poison_scores_ : ndarray of shape (n_samples,)
        In [0, 1], the higher the more suspect; see `poison_score`. 1 for removed
        rows, and for rows that carry such a displacement.
    train_mask_ : ndarray of bool of shape (n_samples,)
        True for rows that were trained on, False for removed rows.
    n_removed_rows_ : int
        Number of removed rows.
    trusted_mask_ : ndarray of bool of shape (n_samples,)
        Rows whose given label is believed: it is the clean label, and its poison
        score is under 0.5. False for removed rows.
    refit_classifier_ : classifier or None
        What makes the predictions; None where the prototypes do, because of
        ``refit=False`` or because rows of one class only were trusted.
    kappa_, nu_ : float
        Concentrations used.
    whitening_ : float or None
        Shrinkage used; None without whitening.
    relabelling_gain_ : float
        By how much an independent classifier confirms ``clean_labels_``, see
        `skvibe.trust.relabelling_gain`.
    prior_ : ndarray of shape (n_classes,)
        Class shares pi.
    whitening_mean_ : ndarray of shape (n_features,) or None
        What the whitening subtracts from a unit vector; None without whitening.
    whitening_directions_ : ndarray of shape (n_directions, n_features) or None
        Directions that it scales.
    whitening_scales_ : ndarray of shape (n_directions,) or None
        Factor along each direction.
    prototypes_ : ndarray of shape (n_classes, n_features_out)
        Clean prototypes mu, unit vectors.
    corrupted_prototypes_ : ndarray of shape (n_classes, n_features_out)
        Corrupted prototypes eta, unit vectors.
    poisoning_rule_ : ndarray of shape (n_classes, n_classes)
        p(y | l) at [l, y]: how often clean class l was labelled y.
    lower_bounds_ : ndarray of shape (n_e_steps,)
        Evidence lower bound, per row, at each E-step.
    label_changes_ : ndarray of shape (n_e_steps,)
        Share of the clean labels changed by each E-step.
    converged_ : bool
        Whether training stopped because the clean labels no longer changed (of the
        setting that was kept).
    n_iter_ : int
        SGD iterations made.
    n_features_in_ : int
        Number of features seen in `fit`.
    net_ : skorch.NeuralNetClassifier
        The fitted net. Without a trained encoder its input is `transform` of X.
    history_ : skorch.history.History
        Losses by epoch and batch.

    See Also
    --------
    OffManifoldFilter : Removes rows that lie off the manifold of all others.
    skvibe.model_selection.suspect_scorer : Scoring for a search on poisoned data.

    Notes
    -----
    Ctrl-C, or a callback that ends the training, leaves a fitted model that is marked
    by ``converged_ == False`` and a `ConvergenceWarning`.

    Checkpoints need `safetensors`. That a file can be written, and that there is room
    for it, is tried before training begins; if a later one fails, a warning is given
    and training goes on. Of callbacks in ``net_params``, attributes that are numbers,
    strings, arrays or lists and dicts of these are kept, and those with a
    ``state_dict``, such as a scheduler's; what a callback has done outside is not
    undone. Of functions and callbacks the fingerprint compares names and attributes,
    not code. An iterator or ``train_split`` of your own must draw from a seed.

    References
    ----------
    .. [1] I. Sabolic, M. Grcic, S. Segvic, "Seal Your Backdoor with Variational
       Defense", ICCV 2025.

    Examples
    --------
    >>> from skvibe import VIBEClassifier
    >>> from skvibe.datasets import load_poisoned_digits
    >>> data = load_poisoned_digits(random_state=0)
    >>> vibe = VIBEClassifier(random_state=0).fit(data.X, data.y)
    >>> not_target = data.y_test != data.target
    >>> obeyed = vibe.predict(data.X_triggered[not_target]) == data.target
    >>> bool(obeyed.mean() < 0.02)
    True
    """

    def __init__(
        self,
        encoder=None,
        *,
        train_encoder=False,
        encoder_lr=None,
        augment=None,
        lam=25.0,
        kappa="auto",
        nu="auto",
        whitening="auto",
        corrupted_posterior="full",
        pseudo_labels="hard",
        first_e_step="joint",
        prior="auto",
        prior_temperature=0.02,
        max_iter=1000,
        e_step_period="auto",
        batch_size=1024,
        lr=0.003,
        tol=1e-3,
        refit=True,
        solver="torch",
        device="auto",
        net_params=None,
        checkpoint=None,
        checkpoint_every=100,
        random_state=None,
        verbose=0,
    ):
        self.encoder = encoder
        self.train_encoder = train_encoder
        self.encoder_lr = encoder_lr
        self.augment = augment
        self.lam = lam
        self.kappa = kappa
        self.nu = nu
        self.whitening = whitening
        self.corrupted_posterior = corrupted_posterior
        self.pseudo_labels = pseudo_labels
        self.first_e_step = first_e_step
        self.prior = prior
        self.prior_temperature = prior_temperature
        self.max_iter = max_iter
        self.e_step_period = e_step_period
        self.batch_size = batch_size
        self.lr = lr
        self.tol = tol
        self.refit = refit
        self.solver = solver
        self.device = device
        self.net_params = net_params
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.random_state = random_state
        self.verbose = verbose

    # -- parameters --------------------------------------------------------------

    def get_params(self, deep=True):
        """Get the parameters, those of the inner net included.

        Parameters
        ----------
        deep : bool, default=True
            Include what ``net_params`` holds under its own names.

        Returns
        -------
        dict
            Parameter names and values.
        """
        params = super().get_params(deep=deep)
        if deep and isinstance(self.net_params, dict):
            params.update(self.net_params)
        return params

    def set_params(self, **params):
        """Set parameters; ``optimizer__momentum=...`` and the like reach the net.

        Parameters
        ----------
        **params : dict
            Parameter names and values.

        Returns
        -------
        self
            With the new parameters.
        """
        own = {}
        for name, value in params.items():
            if name.partition("__")[0] in NET_PREFIXES:
                # A copy: the dict may be shared with the user or with a clone.
                self.net_params = {**(self.net_params or {}), name: value}
            else:
                own[name] = value
        return super().set_params(**own)

    # -- fit ---------------------------------------------------------------------

    @with_callbacks
    def fit(self, X, y):
        """Find the clean labels and fit the classifier to them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Feature vectors; with an encoder, its inputs. Rows that are NaN in every
            feature are left out.
        y : array-like of shape (n_samples,)
            Given labels, of any type that scikit-learn accepts.

        Returns
        -------
        self
            Fitted estimator.

        Raises
        ------
        ValueError
            For NaN or infinity other than whole removed rows, fewer than 2 rows,
            features or classes left, for parameters out of range, and for a damaged
            checkpoint.
        OSError
            Before training begins, if a checkpoint cannot be written.

        Warns
        -----
        ConvergenceWarning
            If the fit was interrupted; the model is usable.
        """
        self._tasks = FitTasks(self, X, y, n_steps=None)
        try:
            self._fit(X, y)
            self._tasks.end()
        finally:
            del self._tasks
        return self

    def _fit(self, X, y):
        check_parameters(self)
        self._forget()
        device = resolve_device(self.device)
        X, given = check_fit_data(self, X, y)
        keep = self.train_mask_
        inputs = X if keep.all() else X[keep]
        trials = open_checkpoints(self, inputs, given[keep], self._draw_seeds(), device)
        refit_seed = trials[0][1].seeds[1]

        self._encoder = _copy_encoder(self.encoder, device)
        whole = fit_trials(self, inputs, given, trials, device)
        whole &= publish_refit(self, inputs, given, refit_seed)
        if whole:
            for _, checkpoint in trials:
                checkpoint.remove()
        else:
            warnings.warn(_INTERRUPTED, ConvergenceWarning, stacklevel=4)
        if whole and not self.converged_ and self.tol > 0:
            change = self.label_changes_[-1]
            message = _NOT_SETTLED.format(self.max_iter, change, self.tol)
            warnings.warn(message, ConvergenceWarning, stacklevel=4)

    def _draw_seeds(self):
        """Of the training and of the refit; an integer gives both the same one."""
        return [
            int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
            for _ in range(2)
        ]

    def _forget(self):
        """Drop what an earlier fit left: a fit that fails must not keep half of it."""
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    def __sklearn_is_fitted__(self):
        # The last thing that fit sets.
        return hasattr(self, "refit_classifier_")

    # -- predict -----------------------------------------------------------------

    def decision_function(self, X):
        """Confidence of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Feature vectors, or inputs of the encoder. NaN is not accepted.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples,)
            Logarithm of `predict_proba`; with two classes the difference of the two,
            that of ``classes_[1]`` minus that of ``classes_[0]``.
        """
        logits = predicted_log_proba(self, check_predict_data(self, X))
        if logits.shape[1] == 2:
            return logits[:, 1] - logits[:, 0]
        return logits

    def predict_proba(self, X):
        """Probability of each class, by the refitted classifier where there is one.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Feature vectors, or inputs of the encoder. NaN is not accepted.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Rows sum to 1; columns in the order of ``classes_``. Without ``refit`` it
            is `clean_posterior`.
        """
        return np.exp(predicted_log_proba(self, check_predict_data(self, X)))

    def predict(self, X):
        """Most probable class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Feature vectors, or inputs of the encoder. NaN is not accepted.

        Returns
        -------
        ndarray of shape (n_samples,)
            Class labels.
        """
        log_proba = predicted_log_proba(self, check_predict_data(self, X))
        return self.classes_[log_proba.argmax(axis=1)]

    def clean_posterior(self, X):
        """Clean posterior p(l | x) of the prototypes, whether or not there is a refit.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Feature vectors, or inputs of the encoder. NaN is not accepted.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            ``softmax_l(kappa mu_l . v + log pi_l)``; rows sum to 1.
        """
        return np.exp(log_posterior(self, check_predict_data(self, X)))

    def transform(self, X):
        """Unit feature vectors, the space in which the prototypes lie.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Feature vectors, or inputs of the encoder. NaN is not accepted.

        Returns
        -------
        ndarray of float32 or float64 of shape (n_samples, n_features_out)
            In float64 only where X is float64 and there is no encoder.
        """
        return latent_features(self, check_predict_data(self, X))

    def fit_transform(self, X, y=None, **fit_params):
        """Fit, then return the unit feature vectors of the rows given.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            As in `fit`.
        y : array-like of shape (n_samples,)
            Given labels.
        **fit_params : dict
            None are known.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out)
            Removed rows are NaN in every feature.
        """
        self.fit(X, y, **fit_params)
        X = check_array(
            X,
            dtype=input_dtypes(self),
            ensure_all_finite=False,
            allow_nd=self.encoder is not None,
        )
        if self.train_mask_.all():
            return latent_features(self, X)
        kept = latent_features(self, X[self.train_mask_])
        features = np.full((len(X), kept.shape[1]), np.nan, dtype=kept.dtype)
        features[self.train_mask_] = kept
        return features

    def poison_score(self, X, y):
        """How suspect labelled rows are.

        The score is ``sigmoid(max_{l != y} log p(l | x) - log p(y | x))`` with the
        clean posterior p(l | x): 0.5 where the label given ties with the best other
        one, above it where another label is more probable. On the training rows it
        equals ``poison_scores_`` (removed rows excepted, which have 1).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Rows to judge.
        y : array-like of shape (n_samples,)
            Labels given to them, all in ``classes_``.

        Returns
        -------
        ndarray of shape (n_samples,)
            In [0, 1], the higher the more suspect.

        Raises
        ------
        ValueError
            If ``y`` holds a class not seen in fit, or lengths differ.
        """
        X = check_predict_data(self, X)
        y = np.asarray(y)
        if y.shape != (len(X),):
            raise ValueError(
                f"y must have shape ({len(X)},), one label for each row of X; got "
                f"{y.shape}."
            )
        known = np.isin(y, self.classes_)
        if not known.all():
            raise ValueError(
                f"y holds {y[~known].tolist()[0]!r}, which is not in classes_: "
                "poison_score judges labels that were seen in fit."
            )
        return score_rows(self, X, np.searchsorted(self.classes_, y))

    def score(self, X, y, sample_weight=None):
        """Accuracy against the labels given: do not select models by it.

        On poisoned data this *rewards the backdoor*, since the poisoned rows of ``y``
        carry the attacker's label: of twelve settings on poisoned digits it picks one
        that obeys the trigger in 99 % of cases (``examples/grid_search.py``). It is
        right for a clean test set. For `GridSearchCV` on poisoned data pass
        ``scoring=skvibe.model_selection.suspect_scorer(X, y)``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Test rows.
        y : array-like of shape (n_samples,)
            Their labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights.

        Returns
        -------
        float
            Mean accuracy.
        """
        return super().score(X, y, sample_weight)

    def save(self, path):
        """Write the fitted classifier to a file that cannot run code when loaded.

        Parameters
        ----------
        path : str or path-like
            File to write; read it back with `skvibe.load`.

        See Also
        --------
        skvibe.save : The same for any estimator of this package, and for Pipelines.
        """
        from skvibe.persistence import save

        save(self, path)

    def __getstate__(self):
        # skorch pickles its own pickle inside; plain arrays say all there is to say,
        # load on any device and hold no code.
        state = dict(super().__getstate__())
        net = state.pop("net_", None)
        if net is not None:
            state["_net_state"] = describe_net(net)
            state.pop("history_", None)  # part of the net's state
        if state.get("_encoder") is not None:
            state["_encoder"] = copy.deepcopy(state["_encoder"]).cpu()
        if _is_on_gpu(state.get("encoder")):
            state["encoder"] = copy.deepcopy(state["encoder"]).cpu()
        return state

    def __setstate__(self, state):
        state = dict(state)
        description = state.pop("_net_state", None)
        super().__setstate__(state)
        if description is not None:
            encoder = self._encoder if self.train_encoder else None
            self.net_ = restore_net(self, description, encoder)
            self.history_ = self.net_.history

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.input_tags.allow_nan = False
        tags.transformer_tags = TransformerTags(preserves_dtype=["float64", "float32"])
        return tags


def _is_on_gpu(encoder):
    """Whether the weights of an encoder lie where another machine may have nothing."""
    if not hasattr(encoder, "parameters"):  # None, or no encoder at all
        return False
    return any(weight.device.type == "cuda" for weight in encoder.parameters())


def _copy_encoder(encoder, device):
    return None if encoder is None else to_device(copy.deepcopy(encoder), device)
