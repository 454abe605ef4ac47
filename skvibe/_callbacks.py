"""scikit-learn's callbacks, where the version has them (1.9 and later).

``pipeline.set_callbacks(ProgressBar())`` then reaches the estimators of this package.
Where the version has none, nothing of this is seen.
"""

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""

    def with_callbacks(method):
        """The method as it is."""
        return method


class FitTasks:
    """What a fit tells the callbacks: that it began, each step of it, that it ended.

    Use it in a method decorated with `with_callbacks`.

    Parameters
    ----------
    estimator : estimator
        Whose fit it is; a `CallbackSupportMixin`.
    X, y : array-like
        What fit was given.
    n_steps : int or None, default=0
        Number of steps; None if nobody knows, 0 if the fit has none to tell of.
    """

    def __init__(self, estimator, X, y, n_steps=0):
        self._estimator = estimator
        self._data = {"X": X, "y": y}
        self._context = None
        if hasattr(estimator, "_init_callback_context"):
            self._context = estimator._init_callback_context(max_subtasks=n_steps)
            self._context.call_on_fit_task_begin(estimator=estimator, **self._data)

    def step(self, name):
        """One step is done."""
        if self._context is not None:
            task = self._context.subcontext(task_name=name)
            task.call_on_fit_task_begin(estimator=self._estimator, **self._data)
            task.call_on_fit_task_end(estimator=self._estimator, **self._data)

    def end(self):
        """The fit is done."""
        if self._context is not None:
            self._context.call_on_fit_task_end(estimator=self._estimator, **self._data)
