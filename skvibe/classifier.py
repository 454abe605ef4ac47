"""The classifier: variational inference of clean labels, then of the class."""

import copy

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    clone,
    is_classifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.utils import TransformerTags, check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch.utils import to_device

from skvibe._checks import check_integer, check_option, check_real
from skvibe._device import resolve_device
from skvibe._fitting import fit_em
from skvibe._net_state import describe_net, restore_net
from skvibe._removed_rows import check_finite_rows, find_removed
from skvibe._rows import place_rows
from skvibe.posteriors import (
    clean_log_posterior,
    poison_score_from_log_posterior,
    poisoning_log_rule,
    unit_rows,
)
from skvibe.trust import refit_labels, trusted_rows

# set_params("optimizer__momentum") and the like reach the inner skorch net.
_NET_PREFIXES = (
    "optimizer",
    "callbacks",
    "iterator_train",
    "iterator_valid",
    "train_split",
    "dataset",
)
_CHUNK = 4096
_PRIORS = ("auto", "uniform", "empirical", "learned")


class VIBEClassifier(
    ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator
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
    kappa : float, default=20.0
        Concentration of the clean posterior, > 0. Features are unit vectors, so
        logits lie in [-kappa, kappa].
    nu : float, default=20.0
        Concentration of the corrupted posterior, >= 0: how far given labels are
        trusted.
    corrupted_posterior : {"full", "approximate"}, default="full"
        Whether p(y | l, x) depends on the row ("full") or only on the clean label.
    pseudo_labels : {"hard", "soft"}, default="hard"
        Whether the M-step uses the most probable clean label or its distribution.
    prior : {"auto", "uniform", "empirical", "learned"} or array of shape \
(n_classes,), default="auto"
        Class shares to which the clean labels are balanced. "auto": equal shares
        first, then shares counted from the rows that could be trusted, until they
        settle; they stay equal where they are nearly so. "empirical": shares of the
        given labels; on poisoned data it lets the backdoor through. "learned":
        ``softmax(prior_temperature * theta)``, as in the paper.
    prior_temperature : float, default=0.02
        Used by ``prior="learned"``, > 0.
    max_iter : int, default=1000
        Largest number of SGD iterations (mini-batches); `tol` usually ends earlier.
    e_step_period : int, default=20
        SGD iterations from one E-step to the next.
    batch_size : int, default=1024
        Rows of a mini-batch.
    lr : float, default=0.1
        Learning rate of SGD (momentum 0.9, weight decay 5e-4).
    tol : float, default=1e-3
        Training stops when two E-steps in a row change at most this share of the
        clean labels.
    refit : bool or classifier, default=True
        After EM, fit an ordinary classifier on the unit features of the rows whose
        labels are trusted, and of rows relabelled beyond reasonable doubt; it then
        makes the predictions. True: logistic regression with C=10. False: the clean
        prototypes predict, as in the paper.
    solver : {"torch", "pot"}, default="torch"
        Who solves the transport problem: this package, to 1e-6 of the class shares,
        or POT's Sinkhorn in the log domain, to 1e-3 (slow; for comparison).
    device : str or torch.device, default="auto"
        "auto" takes CUDA where there is one.
    net_params : dict, default=None
        More parameters of the inner `skorch.NeuralNetClassifier`, such as
        ``{"callbacks": [...], "optimizer__momentum": 0.8}``. They are also reached by
        ``set_params(optimizer__momentum=0.8)``, hence by a grid search.
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
        the given label for removed rows.
    poison_scores_ : ndarray of shape (n_samples,)
        In [0, 1], the higher the more suspect; see `poison_score`. 1 for removed
        rows.
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
    prior_ : ndarray of shape (n_classes,)
        Class shares pi.
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
        Whether training stopped because the clean labels no longer changed.
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
    skvibe.model_selection.separation_scorer : Scoring for a search on poisoned data.

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
        kappa=20.0,
        nu=20.0,
        corrupted_posterior="full",
        pseudo_labels="hard",
        prior="auto",
        prior_temperature=0.02,
        max_iter=1000,
        e_step_period=20,
        batch_size=1024,
        lr=0.1,
        tol=1e-3,
        refit=True,
        solver="torch",
        device="auto",
        net_params=None,
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
        self.corrupted_posterior = corrupted_posterior
        self.pseudo_labels = pseudo_labels
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
        """
        own = {}
        for name, value in params.items():
            if name.partition("__")[0] in _NET_PREFIXES:
                # A copy: the dict may be shared with the user or with a clone.
                self.net_params = {**(self.net_params or {}), name: value}
            else:
                own[name] = value
        return super().set_params(**own)

    # -- fit ---------------------------------------------------------------------

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
            features or classes left, and for parameters out of range.
        """
        self._check_params()
        self._forget()
        device = resolve_device(self.device)
        X, given = self._check_fit_data(X, y)
        keep = self.train_mask_
        inputs = X if keep.all() else X[keep]
        random_state = check_random_state(self.random_state)
        seed = int(random_state.randint(np.iinfo(np.int32).max))

        self._encoder = _copy_encoder(self.encoder, device)
        rows, features = self._training_rows(inputs, device)
        codes = torch.from_numpy(given[keep]).to(device)
        trained = self._encoder if self.train_encoder else None
        n_classes = len(self.classes_)
        net = fit_em(self, rows, features, codes, n_classes, seed, encoder=trained)
        self._publish(net, inputs, given)
        return self

    def _check_params(self):
        if self.encoder is not None and not isinstance(self.encoder, torch.nn.Module):
            raise TypeError(
                "encoder must be a torch.nn.Module or None, got "
                f"{type(self.encoder).__name__}. Apply other transformers as an "
                "earlier step of the pipeline."
            )
        if self.train_encoder and self.encoder is None:
            raise ValueError("train_encoder=True needs an encoder; got encoder=None.")
        if self.augment is not None and not callable(self.augment):
            raise TypeError(
                "augment must be None, a torch.nn.Module or a callable on batches, got "
                f"{type(self.augment).__name__}."
            )
        if self.augment is not None and not self.train_encoder:
            raise ValueError(
                "augment needs train_encoder=True: the features of a fixed encoder are "
                "computed once."
            )
        if self.encoder_lr is not None:
            check_real("encoder_lr", self.encoder_lr, 0, closed="()")
        check_real("lam", self.lam, 0, closed="()")
        check_real("kappa", self.kappa, 0, closed="()")
        check_real("nu", self.nu, 0)
        check_real("prior_temperature", self.prior_temperature, 0, closed="()")
        check_real("lr", self.lr, 0, closed="()")
        check_real("tol", self.tol, 0)
        check_integer("max_iter", self.max_iter, 1)
        check_integer("e_step_period", self.e_step_period, 1)
        check_integer("batch_size", self.batch_size, 1)
        check_option(
            "corrupted_posterior", self.corrupted_posterior, ("full", "approximate")
        )
        check_option("pseudo_labels", self.pseudo_labels, ("hard", "soft"))
        check_option("solver", self.solver, ("torch", "pot"))
        if not isinstance(self.refit, bool) and not (
            hasattr(self.refit, "predict_proba") and is_classifier(self.refit)
        ):
            raise TypeError(
                "refit must be True, False or a scikit-learn classifier with "
                f"predict_proba, got {self.refit!r}."
            )
        if self.net_params is not None and not isinstance(self.net_params, dict):
            raise TypeError(
                "net_params must be a dict of skorch parameters or None, got "
                f"{type(self.net_params).__name__}."
            )
        for name in self.net_params or {}:
            if name.partition("__")[0] not in _NET_PREFIXES:
                raise ValueError(
                    f"net_params holds {name!r}; it may hold "
                    f"{', '.join(_NET_PREFIXES)} and what they take, such as "
                    "optimizer__momentum. Other settings are parameters of the "
                    "classifier itself."
                )

    def _forget(self):
        """Drop what an earlier fit left: a fit that fails must not keep half of it."""
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    def __sklearn_is_fitted__(self):
        # The last thing that fit sets.
        return hasattr(self, "refit_classifier_")

    def _check_fit_data(self, X, y):
        """Validated X and label codes; sets what is known before training."""
        X, y = validate_data(
            self,
            X,
            y,
            dtype=self._input_dtypes(),
            ensure_all_finite=False,
            allow_nd=self.encoder is not None,
            ensure_min_samples=2,
            ensure_min_features=2 if self.encoder is None else 1,
        )
        check_classification_targets(y)
        removed = find_removed(X)
        check_finite_rows(X, removed, type(self).__name__)
        self.classes_, given = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs labels of at least 2 classes, got 1 "
                f"class ({self.classes_.tolist()[0]!r}) in y."
            )
        _check_prior(self.prior, len(self.classes_))
        self.train_mask_ = ~removed
        self.n_removed_rows_ = int(removed.sum())
        if len(np.unique(given[~removed])) < 2:
            raise ValueError(
                f"Only one class is left in y after {self.n_removed_rows_} removed "
                "rows. Raise the threshold or lower max_removed of the filter."
            )
        return X, given

    def _input_dtypes(self):
        # An encoder's integer inputs (images) stay as small as they are.
        return "numeric" if self.encoder is not None else [np.float64, np.float32]

    def _training_rows(self, inputs, device):
        """What the net iterates over, and the unit features of the same rows."""
        if self._encoder is None:
            features = torch.empty(inputs.shape, dtype=torch.float32, device=device)
            for start in range(0, len(inputs), _CHUNK):
                block = slice(start, start + _CHUNK)
                # A copy: inputs may be read-only, which torch does not know.
                features[block] = unit_rows(torch.from_numpy(np.array(inputs[block])))
            return features, features
        features = self._encode(inputs, device)
        if self.train_encoder:
            return place_rows(inputs, device), features
        return features, features

    def _publish(self, net, inputs, given):
        """Set the fitted attributes, aligned with the rows given to fit."""
        keep, n_classes = self.train_mask_, len(self.classes_)
        module = net.module_
        self.net_ = net
        self.history_ = net.history
        if self.train_encoder:
            self._encoder = module.encoder
        prototypes = unit_rows(module.prototypes.detach().double())
        corrupted = unit_rows(module.corrupted.detach().double())
        log_prior = module.log_prior().detach().double()
        self.prototypes_ = prototypes.cpu().numpy()
        self._n_features_out = self.prototypes_.shape[1]
        self.corrupted_prototypes_ = corrupted.cpu().numpy()
        self.prior_ = torch.softmax(log_prior, dim=0).cpu().numpy()
        rule = poisoning_log_rule(prototypes @ corrupted.T, float(self.nu)).exp()
        self.poisoning_rule_ = rule.cpu().numpy()

        state = net.em_
        self.lower_bounds_ = np.array(state.lower_bounds)
        self.label_changes_ = np.array(state.label_changes)
        self.converged_ = state.converged
        self.n_iter_ = state.iteration
        self.clean_proba_ = np.zeros((len(given), n_classes), dtype=np.float32)
        self.clean_proba_[np.arange(len(given)), given] = 1
        self.clean_proba_[keep] = net.final_e_step()
        self.clean_labels_ = self.classes_[self.clean_proba_.argmax(axis=1)]
        self.poison_scores_ = np.ones(len(given))
        self.poison_scores_[keep] = self._score_rows(inputs, given[keep])
        clean = self.clean_proba_.argmax(axis=1)
        self.trusted_mask_ = keep & trusted_rows(given, clean, self.poison_scores_)
        # The training data do not travel with the model.
        del net.em_
        refit = None
        if self.refit is not False:
            refit = self._fit_refit(inputs, given[keep], clean[keep])
        self.refit_classifier_ = refit

    def _fit_refit(self, inputs, given, clean):
        """An ordinary classifier on the rows whose label is known well enough."""
        scores = self.poison_scores_[self.train_mask_]
        mask, labels = refit_labels(given, clean, scores)
        for missing in np.setdiff1d(given, labels[mask]):
            # A class without one trusted row: its own rows are all there is.
            mask |= given == missing
            labels[given == missing] = missing
        if len(np.unique(labels[mask])) < 2:
            # Every clean label is of one class: nothing for a classifier to learn.
            return None
        if self.refit is True:
            classifier = LogisticRegression(C=10, max_iter=1000)
        else:
            classifier = clone(self.refit)
        if classifier.get_params().get("random_state", 0) is None:
            random_state = check_random_state(self.random_state)
            classifier.set_params(random_state=random_state.randint(2**31 - 1))
        return classifier.fit(self._features(inputs[mask]), labels[mask])

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
        logits = self._predicted_log_proba(self._check_predict_data(X))
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
        return np.exp(self._predicted_log_proba(self._check_predict_data(X)))

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
        log_proba = self._predicted_log_proba(self._check_predict_data(X))
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
        return np.exp(self._log_posterior(self._check_predict_data(X)))

    def transform(self, X):
        """Unit feature vectors, the space in which the prototypes lie.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Feature vectors, or inputs of the encoder. NaN is not accepted.

        Returns
        -------
        ndarray of float32 or float64 of shape (n_samples, n_features_out)
            float64 only where X is float64 and there is no encoder.
        """
        return self._features(self._check_predict_data(X))

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
            dtype=self._input_dtypes(),
            ensure_all_finite=False,
            allow_nd=self.encoder is not None,
        )
        if self.train_mask_.all():
            return self._features(X)
        kept = self._features(X[self.train_mask_])
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
        X = self._check_predict_data(X)
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
        return self._score_rows(X, np.searchsorted(self.classes_, y))

    def score(self, X, y, sample_weight=None):
        """Accuracy against the labels given: do not select models by it.

        On poisoned data this *rewards the backdoor*, since the poisoned rows of ``y``
        carry the attacker's label. It is right for a clean test set. For
        `GridSearchCV` on poisoned data pass
        ``scoring=skvibe.model_selection.separation_scorer``.

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

    def _check_predict_data(self, X):
        check_is_fitted(self)
        # The largest floats overflow in the sum that looks for NaN; they are finite.
        with np.errstate(over="ignore", invalid="ignore"):
            return validate_data(
                self,
                X,
                reset=False,
                dtype=self._input_dtypes(),
                allow_nd=self.encoder is not None,
            )

    def _predicted_log_proba(self, X):
        """Logarithm of what `predict_proba` returns."""
        if self.refit_classifier_ is None:
            return self._log_posterior(X)
        # A class whose rows were all removed is unknown to the refit.
        log_proba = np.full((len(X), len(self.classes_)), -np.inf)
        known = self.refit_classifier_.classes_
        for start in range(0, len(X), _CHUNK):
            block = slice(start, start + _CHUNK)
            # float64, so that a row's result does not depend on its neighbours.
            features = self._features(X[block]).astype(np.float64)
            with np.errstate(divide="ignore"):
                log_rows = np.log(self.refit_classifier_.predict_proba(features))
            log_proba[block, known] = log_rows
        return log_proba

    def _log_posterior(self, X):
        """log p(l | x), float64, in blocks of rows."""
        # Copies: loaded with a memory map, the arrays are read-only.
        prototypes = torch.from_numpy(np.array(self.prototypes_))
        log_prior = torch.log(torch.from_numpy(np.array(self.prior_)))
        blocks = []
        for start in range(0, len(X), _CHUNK):
            block = X[start : start + _CHUNK]
            if self._encoder is None:
                # float64, so that a row's result does not depend on its neighbours.
                features = unit_rows(torch.from_numpy(np.array(block, dtype=float)))
            else:
                features = self._encode(block, self._device()).cpu().double()
            cosines = features @ prototypes.T
            blocks.append(clean_log_posterior(cosines, log_prior, self.kappa))
        return torch.cat(blocks).numpy()

    def _features(self, X):
        """Unit features of validated rows."""
        if self._encoder is None:
            return unit_rows(torch.from_numpy(np.array(X))).numpy()
        return self._encode(X, self._device()).cpu().numpy()

    def _score_rows(self, X, given):
        log_posterior = torch.from_numpy(self._log_posterior(X))
        given = torch.from_numpy(given)
        return poison_score_from_log_posterior(log_posterior, given).numpy()

    @torch.no_grad()
    def _encode(self, X, device):
        """Unit features of encoder inputs, batch by batch, in evaluation mode."""
        was_training = self._encoder.training
        self._encoder.eval()
        blocks = []
        for start in range(0, len(X), self.batch_size):
            rows = np.array(X[start : start + self.batch_size])
            batch = torch.from_numpy(rows).to(device).float()
            blocks.append(unit_rows(torch.flatten(self._encoder(batch), start_dim=1)))
        self._encoder.train(was_training)
        return torch.cat(blocks)

    def _device(self):
        return next(self._encoder.parameters(), torch.empty(0)).device

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


def _check_prior(prior, n_classes):
    if isinstance(prior, str):
        check_option("prior", prior, _PRIORS)
        return
    prior = np.asarray(prior, dtype=float)
    if (
        prior.shape != (n_classes,)
        or not np.isfinite(prior).all()
        or (prior <= 0).any()
    ):
        raise ValueError(
            "prior must be 'auto', 'uniform', 'empirical', 'learned' or an array of "
            f"{n_classes} positive numbers, one for each class; got {prior!r}."
        )


def _copy_encoder(encoder, device):
    return None if encoder is None else to_device(copy.deepcopy(encoder), device)
