"""Kill fits at random moments, start them again, and compare with unbroken ones.

    python benchmarks/kill_resume.py              # about ten minutes
    python benchmarks/kill_resume.py --kills 12 --cases auto
    python benchmarks/kill_resume.py --overhead --cases  # what checkpoints cost

Every chain is one fit: a process that is killed with SIGKILL after a random time,
started again with the same arguments, killed again, and at last left to end. A kill is
survived if its chain ends with the bits of the fit that nobody interrupted: every
fitted array, every weight and every prediction.
"""

import argparse
import contextlib
import functools
import hashlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _stamp import stamp
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import LRScheduler

from skvibe import VIBEClassifier
from skvibe.datasets import load_poisoned_digits

RESULTS = Path(__file__).resolve().parent / "results" / "kill_resume.json"
KILLS_A_CHAIN = 12


def encoder():
    """A small net whose training draws random numbers and has running statistics."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(64, 32),
            torch.nn.BatchNorm1d(32),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(32, 16),
        )


def cases():
    """Parameters of the fits, by name."""
    common = {
        "batch_size": 100,  # 14 batches an epoch: kills fall in the midst of one
        "checkpoint_every": 7,
        "e_step_period": 10,
        "tol": 0.0,
        "max_iter": 600,
        "random_state": 0,
    }
    schedule = LRScheduler("StepLR", step_size=40, gamma=0.7, step_every="batch")
    return {
        "auto": common,
        "soft, learned prior": {
            **common,
            "pseudo_labels": "soft",
            "prior": "learned",
            "max_iter": 1200,
        },
        "trained encoder, Adam, schedule": {
            **common,
            "encoder": encoder(),
            "train_encoder": True,
            "lr": 0.01,
            "net_params": {
                "optimizer": torch.optim.AdamW,
                "callbacks": [schedule],
            },
        },
        "no seed": {**common, "random_state": None},
    }


def digest(vibe, X):
    """One text for everything that a fit has found."""
    found = {name: getattr(vibe, name) for name in sorted(vars(vibe))}
    arrays = [v for k, v in found.items() if k.endswith("_") and _is_plain(v)]
    arrays += [weight.numpy() for weight in vibe.net_.module_.state_dict().values()]
    arrays += [vibe.predict_proba(X), np.array(vibe.history_[:, "train_loss"])]
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.asarray(array).tobytes())
    return total.hexdigest()


def _is_plain(value):
    return isinstance(value, (np.ndarray, int, bool))


def start(params, data, folder, number):
    """A process that fits; its result goes to a file when it is through."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        # Where there is no seed, every start draws another one.
        np.random.seed(number)  # noqa: NPY002
        vibe = VIBEClassifier(**params, checkpoint=folder / "fit.checkpoint")
        vibe.fit(data.X, data.y)
        (folder / "result").write_text(digest(vibe, data.X_test))
        code = 0
    except BaseException as error:  # the parent must hear of it
        (folder / "error").write_text(repr(error))
    finally:
        os._exit(code)


def run_chain(params, data, kills, longest, rng, folder):
    """Kill one fit ``kills`` times, then let it end; what it gave and when it fell."""
    done = 0
    for number in itertools.count():
        process = start(params, data, folder, number)
        if done < kills:
            time.sleep(rng.uniform(0, longest))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if os.WIFSIGNALED(status):
            done += 1
            continue
        failed = folder / "error"
        if failed.exists():
            return done, failed.read_text()
        left = sorted(path.name for path in folder.iterdir())
        assert left == ["result"], left
        return done, (folder / "result").read_text()


def fit_unbroken(params, data, number):
    """Digest of the fit that nobody interrupts, and its seconds."""
    started = time.perf_counter()
    np.random.seed(number)  # noqa: NPY002
    vibe = VIBEClassifier(**params).fit(data.X, data.y)
    return digest(vibe, data.X_test), time.perf_counter() - started


def run_case(name, kills, seed):
    """Chains of one kind of fit, until enough kills are made."""
    params, rng = cases()[name], np.random.default_rng(seed)
    data = load_poisoned_digits(random_state=0)
    unbroken = functools.cache(functools.partial(fit_unbroken, params, data))
    fit_unbroken({**params, "max_iter": 10}, data, 0)  # the first fit takes longer
    seconds = unbroken(0)[1]
    outcome = {"tried": 0, "survived": 0, "chains": 0, "seconds_of_a_fit": seconds}
    while outcome["tried"] < kills:
        wanted = min(KILLS_A_CHAIN, kills - outcome["tried"])
        with tempfile.TemporaryDirectory() as folder:
            # On the average a fit gets through a sixth of its work before it falls.
            killed, result = run_chain(
                params, data, wanted, seconds / 3, rng, Path(folder)
            )
        outcome["tried"] += killed
        outcome["chains"] += 1
        # Without a seed: the fit of the start that wrote the first checkpoint.
        starts = killed + 1 if params["random_state"] is None else 1
        equal = any(result == unbroken(number)[0] for number in range(starts))
        outcome["survived"] += killed * equal
        if not equal:
            outcome["failure"] = result
            break
    return outcome


def overhead(repeats=5):
    """Time of a fit with checkpoints over that of the same fit without."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 384)).astype(np.float32)
    y = rng.integers(4, size=len(X))
    X[np.arange(len(X)), y] += 3
    params = {"max_iter": 200, "tol": 0.0, "prior": "uniform", "refit": False}
    seconds = {"wall": [], "cpu": []}
    for _ in range(repeats):
        for path in (None, "fit.checkpoint"):
            with tempfile.TemporaryDirectory() as folder:
                vibe = VIBEClassifier(**params, random_state=0)
                vibe.checkpoint = path and Path(folder) / path
                started = time.perf_counter(), time.process_time()
                vibe.fit(X, y)
                seconds["wall"].append(time.perf_counter() - started[0])
                seconds["cpu"].append(time.process_time() - started[1])
    result = {"run": stamp(), "rows": len(X), "iterations": 200, "repeats": repeats}
    for clock, spent in seconds.items():
        # Of fits that follow one another: other users of the machine change.
        ratios = sorted(b / a for a, b in zip(spent[::2], spent[1::2], strict=True))
        result[f"{clock}_seconds_without"] = sorted(spent[::2])[repeats // 2]
        result[f"{clock}_ratio"] = ratios[repeats // 2]
        result[f"{clock}_ratios"] = ratios
    return result


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=120, help="of every case")
    parser.add_argument("--cases", nargs="*", default=list(cases()))
    parser.add_argument("--overhead", action="store_true", help="measure it too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    if arguments.cases:
        result = run_cases(arguments)
        print(f"kills survived: {result['survived']} of {result['tried']} tried")
    else:  # only the overhead is measured anew
        result = json.loads(arguments.output.read_text())
    if arguments.overhead:
        result["overhead"] = one = overhead()
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
        print(
            f"with checkpoints: {one['wall_ratio']:.3f} x the time of a fit without, "
            f"{one['cpu_ratio']:.3f} x the CPU time"
        )
    return int(result["survived"] < result["tried"])


def run_cases(arguments):
    """All kills that are asked for; what came of them is written after every case."""
    found, result = {}, {"run": stamp()}
    for name in arguments.cases:
        found[name] = run_case(name, arguments.kills, arguments.seed)
        one = found[name]
        print(f"{name}: {one['survived']} of {one['tried']} kills survived", flush=True)
        tried = sum(one["tried"] for one in found.values())
        survived = sum(one["survived"] for one in found.values())
        result |= {"survived": survived, "tried": tried, "cases": found}
        # After each case: a benchmark about kills should not lose its own results.
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    sys.exit(main())
