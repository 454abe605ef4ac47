"""Peak memory of an E-step and of a whole fit, each in a process of its own.

    python benchmarks/bench_memory.py [--quick]

Counted is what the process holds at its worst (resident memory) beyond what it held
just before the call, when the features and labels were already there. Beside it stand
the bars: an E-step may take twice the N x K matrix of single precision numbers, a fit
1.5 times the features on top of that. Writes benchmarks/results/memory.json
(memory_quick.json with --quick). Linux only: the peak is read from /proc.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
E_STEP_BAR = 2.0
FEATURES_BAR = 1.5
# rows, classes, features, corrupted posterior, pseudo-labels
CASES = [
    (50_000, 10, 384, "full", "hard"),
    (500_000, 10, 64, "full", "hard"),
    (200_000, 100, 128, "full", "hard"),
    (200_000, 100, 128, "full", "soft"),
    (200_000, 100, 128, "approximate", "hard"),
    (40_000, 1_000, 128, "full", "hard"),
]
QUICK_CASES = [(100_000, 40, 32, "full", "hard"), (30_000, 100, 384, "full", "hard")]


def main():
    from _stamp import describe, stamp

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes only")
    parser.add_argument("--one", help="measure one case (JSON) and print it")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_here(*json.loads(options.one))))
        return
    results = {"run": stamp(), "cases": []}
    name = "memory_quick.json" if options.quick else "memory.json"
    path = ROOT / "benchmarks/results" / name
    path.parent.mkdir(exist_ok=True)
    for case in QUICK_CASES if options.quick else CASES:
        record = measure(*case)
        results["cases"].append(record)
        print(
            f"{record['N']:>9,} x {record['K']:<5} d = {record['d']:<4} "
            f"{record['posterior']}, {record['pseudo_labels']}: E-step "
            f"{record['e_step_share_of_bar']:.2f} of its bar, fit "
            f"{record['fit_share_of_bar']:.2f}",
            flush=True,
        )
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{describe(results['run'])}\nwrote {path.relative_to(ROOT)}")


def measure(*case):
    """One case in a fresh process: memory once freed is often kept by a process."""
    command = [sys.executable, __file__, "--one", json.dumps(case)]
    # What is freed goes back to the system at once, or a later peak hides in it.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **allocator}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure_here(n_rows, n_classes, n_features, posterior, pseudo_labels):
    import warnings

    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression

    from skvibe import VIBEClassifier

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n_classes, n_features), dtype=np.float32)
    y = rng.integers(n_classes, size=n_rows)
    X = np.empty((n_rows, n_features), dtype=np.float32)
    for start in range(0, n_rows, 10_000):
        block = X[start : start + 10_000]
        rng.standard_normal(out=block, dtype=np.float32)
        block += centres[y[start : start + 10_000]]

    def classifier():
        return VIBEClassifier(
            corrupted_posterior=posterior,
            pseudo_labels=pseudo_labels,
            max_iter=20,
            e_step_period=10,
            prior="uniform",
            # The default refit but for the number of its iterations.
            refit=LogisticRegression(C=10, max_iter=3),
            random_state=0,
        )

    few = slice(0, 5 * n_classes)
    classifier().fit(X[few], np.arange(5 * n_classes) % n_classes)  # load everything
    e_step = peak_growth(e_step_of(X, y, n_classes, classifier()))
    model = classifier()
    fit = peak_growth(lambda: model.fit(X, y))
    matrix = 4 * n_rows * n_classes
    e_step_bar = E_STEP_BAR * matrix
    fit_bar = FEATURES_BAR * X.nbytes + e_step_bar
    return {
        "N": n_rows,
        "K": n_classes,
        "d": n_features,
        "posterior": posterior,
        "pseudo_labels": pseudo_labels,
        "matrix_bytes": matrix,
        "features_bytes": X.nbytes,
        "e_step_bytes": e_step,
        "fit_bytes": fit,
        "e_step_share_of_bar": e_step / e_step_bar,
        "fit_share_of_bar": fit / fit_bar,
    }


def e_step_of(X, y, n_classes, settings):
    """A warm E-step of a net that has been trained for a moment."""
    import numpy as np
    import torch

    from skvibe._fitting import run_em
    from skvibe.posteriors import unit_rows

    settings.classes_ = np.arange(n_classes)
    settings.kappa_ = settings.nu_ = 20.0
    features = torch.empty(X.shape)
    for start in range(0, len(X), 10_000):
        block = slice(start, start + 10_000)
        features[block] = unit_rows(torch.from_numpy(X[block]))
    shares = np.full(n_classes, 1 / n_classes)
    net = run_em(settings, features, features, torch.from_numpy(y), shares, 0)
    return net.e_step


def peak_growth(call):
    """Bytes of resident memory at the call's worst, beyond those before it."""
    import gc

    gc.collect()
    # 5 sets the peak back to what is held now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


if __name__ == "__main__":
    main()
