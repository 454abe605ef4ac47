"""One place where progress is told; quiet unless asked for.

Lines are printed where ``verbose`` is set. Whether it is or not, they also go to the
logger "skvibe" (progress as DEBUG, what was found as INFO), which is silent until the
user's program configures `logging`.
"""

import logging
import time

_LOGGER = logging.getLogger("skvibe")


class Progress:
    """Tell how far a long job is, with the time left.

    Parameters
    ----------
    name : str
        What is under way.
    total : int or None
        Number of units of work; None if nobody knows, and then no time left is told.
    enabled : bool, default=False
        False prints nothing.
    every : float, default=0.0
        Least seconds from one line to the next, and before the first; the last unit
        is told if any other was.
    """

    def __init__(self, name, total, enabled=False, every=0.0):
        self.name = name
        self.total = total
        self.enabled = enabled
        self.every = every
        self._start = self._told = time.monotonic()

    def update(self, done, **values):
        """Say that ``done`` of ``total`` units are finished; ``values`` are shown."""
        if not (self.enabled or _LOGGER.isEnabledFor(logging.DEBUG)):
            return
        now = time.monotonic()
        last = done == self.total and self._told > self._start
        if now - self._told < self.every and not last:
            return
        self._told = now
        tell(self.name, self._line(done, now - self._start, values), self.enabled)

    def _line(self, done, spent, values):
        text = f"{done}" if self.total is None else f"{done}/{self.total}"
        for key, value in values.items():
            text += f"  {key}={value:.4g}"
        if self.total is not None and 0 < done < self.total:
            text += f"  {spent * (self.total - done) / done:.0f} s left"
        return f"{text}  ({spent:.1f} s)"


def tell(name, message, enabled, level=logging.DEBUG):
    """Print a line if ``enabled``, and log it in any case.

    Parameters
    ----------
    name : str
        What is under way.
    message : str
        What there is to say.
    enabled : bool
        Whether to print.
    level : int, default=logging.DEBUG
        Level of the log record.
    """
    _LOGGER.log(level, "[%s] %s", name, message)
    if enabled:
        print(f"[{name}] {message}", flush=True)  # noqa: T201
