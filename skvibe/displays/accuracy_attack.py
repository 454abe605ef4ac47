"""Clean accuracy against attack success rate, for several models."""

import numpy as np
from sklearn.metrics import accuracy_score

from skvibe.displays._points import add_legend
from skvibe.displays._style import check_lengths, class_style, figure_and_axes, plain
from skvibe.metrics import attack_success_rate


class AccuracyAttackDisplay:
    """Each model as a point: accuracy on clean rows against attack success rate.

    A good defence is at the upper left: accurate, and deaf to the trigger.

    It is recommended to use `from_estimator` or `from_predictions`.

    Parameters
    ----------
    accuracies : ndarray of shape (n_models,)
        Share of clean test rows that are classified correctly.
    attack_success_rates : ndarray of shape (n_models,)
        Share of triggered rows, not of the target class, classified as the target.
    names : list of str
        Names of the models.
    control : float, default=None
        The attack success rate of a model trained on clean data, without which the
        others mean nothing. Drawn as a dashed line.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the picture.
    figure_ : matplotlib Figure
        Its figure.

    Examples
    --------
    >>> from skvibe.displays import AccuracyAttackDisplay
    >>> display = AccuracyAttackDisplay(
    ...     [0.96, 0.95], [0.99, 0.01], ["no defence", "skvibe"], control=0.01
    ... ).plot()
    >>> display.ax_.get_ylabel()
    'accuracy on clean rows'
    """

    def __init__(self, accuracies, attack_success_rates, names, *, control=None):
        self.accuracies = accuracies
        self.attack_success_rates = attack_success_rates
        self.names = names
        self.control = control

    @classmethod
    def from_estimator(
        cls,
        estimators,
        X,
        y,
        X_triggered,
        *,
        target,
        y_triggered=None,
        control=None,
        ax=None,
        **kwargs,
    ):
        """Judge fitted models and draw them.

        Parameters
        ----------
        estimators : dict of str to estimator, or one estimator
            Fitted classifiers by name.
        X : array-like of shape (n_samples, n_features)
            Clean test rows.
        y : array-like of shape (n_samples,)
            Their true labels.
        X_triggered : array-like of shape (n_triggered, n_features)
            Test rows with the trigger.
        target : label, "all" or array-like
            As in :func:`skvibe.metrics.attack_success_rate`.
        y_triggered : array-like of shape (n_triggered,), default=None
            True labels of the triggered rows. None: `X_triggered` are the rows of `X`
            in the same order.
        control : estimator or float, default=None
            A model trained on clean data, or its attack success rate.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        AccuracyAttackDisplay
            Drawn.
        """
        if not isinstance(estimators, dict):
            estimators = {type(estimators).__name__: estimators}
        if hasattr(control, "predict"):
            control = attack_success_rate(
                y if y_triggered is None else y_triggered,
                control.predict(X_triggered),
                target=target,
                labels=np.unique(y),
            )
        return cls.from_predictions(
            y,
            {name: model.predict(X) for name, model in estimators.items()},
            {name: model.predict(X_triggered) for name, model in estimators.items()},
            target=target,
            y_triggered=y_triggered,
            control=control,
            ax=ax,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true,
        y_pred,
        y_pred_triggered,
        *,
        target,
        y_triggered=None,
        control=None,
        ax=None,
        **kwargs,
    ):
        """Draw models whose predictions are known.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels of the clean test rows.
        y_pred : dict of str to array-like of shape (n_samples,)
            Predictions for them, by name of the model.
        y_pred_triggered : dict of str to array-like of shape (n_triggered,)
            Predictions for the triggered rows, by the same names.
        target : label, "all" or array-like
            As in :func:`skvibe.metrics.attack_success_rate`.
        y_triggered : array-like of shape (n_triggered,), default=None
            True labels of the triggered rows. None: `y_true`.
        control : float, default=None
            Attack success rate of a model trained on clean data.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        **kwargs
            Of `plot`.

        Returns
        -------
        AccuracyAttackDisplay
            Drawn.

        Raises
        ------
        ValueError
            If the two dicts name different models, or lengths differ.
        """
        if set(y_pred) != set(y_pred_triggered):
            different = sorted(set(y_pred) ^ set(y_pred_triggered), key=str)
            raise ValueError(
                "y_pred and y_pred_triggered must name the same models; only one of "
                f"them has {different}."
            )
        y_true = np.asarray(y_true)
        truth = y_true if y_triggered is None else np.asarray(y_triggered)
        accuracies, rates = [], []
        for name, predicted in y_pred.items():
            triggered = np.asarray(y_pred_triggered[name])
            check_lengths(y_true=y_true, y_pred=predicted)
            check_lengths(y_triggered=truth, y_pred_triggered=triggered)
            accuracies.append(accuracy_score(y_true, predicted))
            rates.append(
                attack_success_rate(
                    truth, triggered, target=target, labels=np.unique(y_true)
                )
            )
        display = cls(
            np.array(accuracies), np.array(rates), list(y_pred), control=control
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax=None, *, legend=True):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        legend : bool, default=True
            Name the models beside the picture, with their numbers.

        Returns
        -------
        self
            Drawn.
        """
        check_lengths(
            accuracies=self.accuracies,
            attack_success_rates=self.attack_success_rates,
            names=self.names,
        )
        self.figure_, self.ax_ = figure_and_axes(ax, type(self).__name__, (7.2, 4.4))
        rows = zip(self.names, self.accuracies, self.attack_success_rates, strict=True)
        for code, (name, accuracy, rate) in enumerate(rows):
            self.ax_.scatter(
                rate,
                accuracy,
                s=75,
                edgecolors="black",
                linewidths=0.8,
                # Two models at the same place: the larger sign below stays visible.
                zorder=3 + code,
                clip_on=False,
                alpha=0.9,
                label=f"{plain(name)} ({accuracy:.2f}, {rate:.2f})",
                **class_style(code),
            )
        if self.control is not None:
            self.ax_.axvline(
                self.control,
                color="black",
                ls="--",
                lw=1,
                label=f"trained on clean data ({self.control:.2f})",
            )
        self._name_axes()
        if legend:
            handles, _ = self.ax_.get_legend_handles_labels()
            add_legend(self.ax_, handles, "model (accuracy, success)")
        return self

    def _name_axes(self):
        lowest = min(np.min(self.accuracies), 0.9)
        bottom = max(0.0, np.floor(20 * lowest - 0.5) / 20)
        self.ax_.set(xlim=(-0.03, 1.03), ylim=(bottom, 1.005))
        self.ax_.set_xlabel("attack success rate")
        self.ax_.set_ylabel("accuracy on clean rows")
        self.ax_.grid(alpha=0.3)
        self.ax_.text(
            0.5,
            0.03,
            "better: up and to the left",
            transform=self.ax_.transAxes,
            ha="center",
            fontsize="small",
            color="0.35",
        )
