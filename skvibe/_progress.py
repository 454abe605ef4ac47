"""One place where progress is printed; quiet unless asked for."""

import time


class Progress:
    """Print how far a long job is, with the time left.

    Parameters
    ----------
    name : str
        What is under way.
    total : int
        Number of units of work.
    enabled : bool
        False prints nothing.
    """

    def __init__(self, name, total, enabled=False):
        self.name = name
        self.total = total
        self.enabled = enabled
        self._start = time.monotonic()

    def update(self, done, **values):
        """Say that ``done`` of ``total`` units are finished; ``values`` are shown."""
        if not self.enabled:
            return
        spent = time.monotonic() - self._start
        text = f"[{self.name}] {done}/{self.total}"
        for key, value in values.items():
            text += f"  {key}={value:.4g}"
        if 0 < done < self.total:
            text += f"  {spent * (self.total - done) / done:.0f} s left"
        print(f"{text}  ({spent:.1f} s)", flush=True)  # noqa: T201
