"""Where a figure comes from: command, date, versions, machine."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "skorch", "igraph", "cleanlab")


def stamp(argv=None):
    """Facts about this run that a reader of its figures needs.

    Parameters
    ----------
    argv : list of str, default=None
        The command line. Default: the one this process was started with.

    Returns
    -------
    dict
        ``command``, ``date`` (UTC), ``commit``, ``versions``, ``cpu``, ``cores``,
        ``threads`` (``OMP_NUM_THREADS``) and ``platform``; all of it JSON.
    """
    return {
        "command": _command(sys.argv if argv is None else argv),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "platform": platform.system(),
    }


def describe(run):
    """One stamp as a line of text."""
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    return (
        f"`{run['command']}`, {run['date']} UTC, commit {run['commit']}, {run['cpu']} "
        f"({run['cores']} cores, OMP_NUM_THREADS={run['threads']}), {versions}"
    )


def cpu_model():
    """Name of the processor as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _command(argv):
    # Relative, so that it can be typed in another checkout.
    script = Path(argv[0]).resolve()
    if script.is_relative_to(ROOT):
        argv = [str(script.relative_to(ROOT)), *argv[1:]]
    return "python " + shlex.join(argv)


def _commit():
    git = ["git", "-C", str(ROOT)]
    try:
        commit = _output([*git, "rev-parse", "--short", "HEAD"])
        code = ["skvibe", "benchmarks/*.py"]
        changed = _output([*git, "status", "--porcelain", "--", *code])
        return commit + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _output(command):
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _versions():
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
