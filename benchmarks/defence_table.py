"""Table of defences against backdoor attacks, on real data, peers in the same run.

Usage
-----
python benchmarks/defence_table.py --quick    # a few minutes
python benchmarks/defence_table.py            # everything, about an hour
python benchmarks/defence_table.py --report   # docs and figure from the results

One line of JSON for each cell and method goes to ``benchmarks/results``; a line of the
same version of a method is not run again (``--redo METHOD`` drops it first).
``--cells`` and ``--methods`` take patterns such as ``trec/word/*`` and ``vibe*``. The
data directory is ``SKVIBE_DATA``, by default ``../shared/data``. Definitions are in
``cells.py`` and ``peers.py``.
"""

import argparse
import fnmatch
import importlib
import json
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import _stamp
import cells
import defence_report
import numpy as np
import peers
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from skvibe.metrics import attack_success_rate
from skvibe.verdict import fill_clean_labels, merge_poison_scores

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    name: str
    title: str
    run: Callable
    told_rate: bool = False
    own: bool = False  # skvibe's
    version: int = 1


# Steps fitted on the current cell, by name and by the rows removed before: a step that
# several methods share is fitted once, and its time counts for each of them.
_FITTED: dict = {}


def _skvibe(*steps):
    """A method that fits skvibe's estimators, all at their defaults."""

    def run(X, y, *, rate, seed):
        seconds, notes, fitted, after = 0.0, set(), [], X
        for name, maker in steps:
            key = (name, np.isnan(after[:, 0]).tobytes())
            if key not in _FITTED:
                estimator = maker()(random_state=seed)
                _FITTED[key] = (estimator, *_timed(_fit_step, estimator, after, y))
            estimator, (after, messages), took = _FITTED[key]
            fitted.append((name, estimator))
            seconds += took
            notes |= messages
        pipeline, vibe = Pipeline(fitted), fitted[-1][1]
        return peers.Outcome(
            pipeline,
            merge_poison_scores(pipeline),
            (vibe.clean_labels_ != y) | ~vibe.train_mask_,
            fill_clean_labels(pipeline, X),
            tuple(sorted(notes)),
            seconds,
        )

    return run


def _fit_step(estimator, X, y):
    """The rows after the step (none after the last), and its warnings."""
    import torch

    torch.set_num_threads(1)
    after = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if hasattr(estimator, "predict"):
            estimator.fit(X, y)
        else:
            after = estimator.fit_transform(X, y)
    return after, {str(warning.message) for warning in caught}


def _estimator(module, name):
    return lambda: getattr(importlib.import_module(module), name)


_MANIFOLD = ("manifold", _estimator("skvibe.filters", "OffManifoldFilter"))
_TRIGGER = ("trigger", _estimator("skvibe.trigger_filter", "TriggerFilter"))
_VIBE = ("vibe", _estimator("skvibe.classifier", "VIBEClassifier"))

METHODS = {
    method.name: method
    for method in (
        Method("none", "no defence", peers.no_defence),
        Method("oracle", "clean oracle", peers.no_defence),
        Method("cleanlab", "cleanlab", peers.cleanlab),
        Method("spectral", "spectral signatures", peers.spectral_signatures, True),
        Method("activation", "activation clustering", peers.activation_clustering),
        Method("spectre", "SPECTRE", peers.spectre, True),
        Method("knn", "k-NN relabelling", peers.knn_relabelling),
        Method("abl", "ABL head", peers.abl_head),
        Method("cbd", "CBD head", peers.cbd_head),
        Method("dbd", "DBD head", peers.dbd_head),
        Method("vibe", "VIBE", _skvibe(_VIBE), own=True),
        Method("manifold+vibe", "manifold + VIBE", _skvibe(_MANIFOLD, _VIBE), own=True),
        Method("trigger+vibe", "trigger + VIBE", _skvibe(_TRIGGER, _VIBE), own=True),
        Method(
            "manifold+trigger+vibe",
            "manifold + trigger + VIBE",
            _skvibe(_MANIFOLD, _TRIGGER, _VIBE),
            own=True,
        ),
    )
}


# -- one cell --------------------------------------------------------------------------

_ORACLES: dict = {}


def run_cell(cell, names):
    """Yield one record for each of the methods."""
    arrays = cells.load(cell)
    _FITTED.clear()
    oracle, oracle_seconds = _oracle(arrays)
    # The unit of time is measured again in every run: it must come from the same one.
    plain, plain_seconds = _timed(peers.no_defence, arrays.X, arrays.y)
    for name in names:
        method = METHODS[name]
        if name == "none":
            outcome, seconds = plain, plain_seconds
        elif name == "oracle":
            outcome, seconds = oracle, oracle_seconds
        else:
            rate = float(arrays.poison_mask.mean()) if method.told_rate else None
            outcome, seconds = _timed(
                method.run, arrays.X, arrays.y, rate=rate, seed=cell.seed
            )
            seconds = outcome.seconds or seconds
        yield {
            "cell": cell.key,
            **asdict(cell),
            "group": cell.group,
            "method": name,
            "version": method.version,
            "told_rate": method.told_rate,
            **_measure(arrays, oracle, outcome),
            "cpu_seconds": round(seconds, 3),
            "ratio": round(seconds / plain_seconds, 2),
        }


def _oracle(arrays):
    key = arrays.clean_key
    if key not in _ORACLES:
        _ORACLES[key] = _timed(peers.no_defence, arrays.X_clean, arrays.y_true)
    return _ORACLES[key]


def _timed(run, *args, **kwargs):
    # Processor time: other programs on the machine do not count.
    start = time.process_time()
    outcome = run(*args, **kwargs)
    return outcome, time.process_time() - start


def _measure(arrays, oracle, outcome):
    target, mask = arrays.target, arrays.poison_mask
    counted = arrays.y_test != target

    def success(model):
        predicted = model.predict(arrays.X_triggered)
        return attack_success_rate(arrays.y_test, predicted, target=target)

    record = {
        "acc": np.mean(outcome.model.predict(arrays.X_test) == arrays.y_test),
        "acc_clean": np.mean(oracle.model.predict(arrays.X_test) == arrays.y_test),
        "asr": success(outcome.model),
        "control": success(oracle.model),
    }
    if outcome.flagged is not None:
        record["fpr"] = outcome.flagged[~mask].mean()
    if outcome.labels is not None:
        record["clean_kept"] = np.mean(outcome.labels[~mask] == arrays.y_true[~mask])
    if mask.any():
        if outcome.scores is not None:
            record["auroc"] = roc_auc_score(mask, outcome.scores)
        if outcome.flagged is not None:
            record["tpr"] = outcome.flagged[mask].mean()
        if outcome.labels is not None:
            record["recovered"] = np.mean(outcome.labels[mask] == arrays.y_true[mask])
    record = {name: round(float(value), 4) for name, value in record.items()}
    if outcome.notes:
        record["notes"] = outcome.notes
    return {**record, "n_asr": int(counted.sum()), "n_poison": int(mask.sum())}


# -- the results file ------------------------------------------------------------------


def read_results(path):
    """Stamps by run, and the last record of each cell and method."""
    runs, records = {}, {}
    if path.exists():
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if "stamp" in entry:
                runs[entry["run"]] = entry["stamp"]
            else:
                records[entry["cell"], entry["method"]] = entry
    return runs, records


def append_lines(path, entries):
    """Add entries to the results, one line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for entry in entries:
            file.write(json.dumps(entry) + "\n")


def drop(path, unwanted):
    """Rewrite the results without the records for which ``unwanted`` is true."""
    runs, records = read_results(path)
    kept = [record for record in records.values() if not unwanted(record)]
    used = {record["run"] for record in kept}
    heads = [{"run": run, "stamp": runs[run]} for run in runs if run in used]
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    append_lines(part, [*heads, *kept])
    part.replace(path)


# -- the run ---------------------------------------------------------------------------


def plan(chosen, names, records):
    """The cells, each with the methods still to be run on it."""
    todo = []
    for cell in chosen:
        missing = []
        for name in names:
            done = records.get((cell.key, name))
            if done is None or done["version"] != METHODS[name].version:
                missing.append(name)
        if missing:
            todo.append((cell, missing))
    return todo


def run(todo, path, jobs):
    """Run what is to be run; every record is written as soon as it is there."""
    number = 1 + max(read_results(path)[0], default=-1)
    append_lines(path, [{"run": number, "stamp": _stamp.stamp()}])
    start, total = time.perf_counter(), sum(len(names) for _, names in todo)
    for finished, record in enumerate(_records(todo, jobs), 1):
        append_lines(path, [{**record, "run": number}])
        passed = time.perf_counter() - start
        left = passed / finished * (total - finished)
        print(
            f"[{finished}/{total}, {passed / 60:.1f} min, about {left / 60:.0f} left] "
            f"{record['cell']:26} {record['method']:22} ACC {record['acc']:.3f}  "
            f"ASR {record['asr']:.3f} (control {record['control']:.3f})  "
            f"{record['cpu_seconds']:.1f} s",
            flush=True,
        )


def _records(todo, jobs):
    if jobs == 1:
        # One thread: times are compared, and the machine may be shared.
        with threadpool_limits(1):
            for cell, names in todo:
                yield from run_cell(cell, names)
        return
    with ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_cell_records, cell, names) for cell, names in todo]
        for future in as_completed(waiting):
            yield from future.result()


def _cell_records(cell, names):
    with threadpool_limits(1):
        return list(run_cell(cell, names))


def available(names):
    """The methods whose estimators exist; the others are named on the screen."""
    found = []
    for name in names:
        steps = name.split("+") if METHODS[name].own else []
        makers = {"manifold": _MANIFOLD, "trigger": _TRIGGER, "vibe": _VIBE}
        try:
            for step in steps:
                makers[step][1]()
        except (ImportError, AttributeError) as error:
            print(f"{name}: not in this version of skvibe, left out ({error})")
        else:
            found.append(name)
    return found


def parse(argv=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few cells, minutes")
    parser.add_argument("--cells", default="*", help="patterns, separated by commas")
    parser.add_argument("--methods", default="*", help="patterns, by commas")
    parser.add_argument("--redo", default="", help="methods to be run again, by commas")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--output", type=Path, help="results file")
    parser.add_argument(
        "--report", action="store_true", help="run nothing, write docs and figure"
    )
    return parser.parse_args(argv)


def _matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, part) for part in patterns.split(","))


def main(argv=None):
    """Run, print, and on request write the docs."""
    options = parse(argv)
    name = "defence_table_quick.jsonl" if options.quick else "defence_table.jsonl"
    path = options.output or RESULTS / name
    every = cells.quick_cells() if options.quick else cells.full_cells()
    chosen = [cell for cell in every if _matches(cell.key, options.cells)]
    names = [name for name in METHODS if _matches(name, options.methods)]
    if not options.report:
        keys = {cell.key for cell in chosen}
        if options.redo and path.exists():
            drop(
                path,
                lambda record: (
                    record["cell"] in keys and _matches(record["method"], options.redo)
                ),
            )
        todo = plan(chosen, available(names), read_results(path)[1])
        if todo:
            run(todo, path, options.jobs)
    runs, records = read_results(path)
    shown = [
        record
        for record in records.values()
        if _matches(record["cell"], options.cells)
        and _matches(record["method"], options.methods)
    ]
    print(defence_report.plain_table(shown, METHODS))
    if options.report:
        defence_report.write(runs, shown, METHODS, ROOT / "docs")


if __name__ == "__main__":
    main()
