"""The transport solver against POT, OTT, geomloss and the published loop, in one run.

    python benchmarks/bench_transport.py [--quick]

Every figure is a ratio of processor times of this one run, on one thread. Writes
benchmarks/results/transport.json (transport_quick.json with --quick) and, in a full
run, docs/figures/transport.png.

Costs are log-posteriors of N unit vectors round K prototypes (the argmax is right for
85 %), 10 % of the labels turned to class 0, lam = 25. "fit": the corrupted posterior
has learnt the wrong labels; "sharp": it trusts the labels, which is nearly a linear
programme and far from balanced.

Sinkhorn's algorithm needs hundreds to tens of thousands of iterations here. The number
to a column error (L1) of 1e-6 is counted with its cheapest form (a scaled kernel and
two matrix-vector products, "scaling"); the other solvers make the same iterations, so
their time is that number times their measured time per iteration. Where the count was
stopped by the clock, the figures are lower bounds and marked so. The published loop
("reference") makes 10,001 iterations whatever the error; its time is 10,001 times its
measured time per iteration.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import numpy as np
import torch
from _stamp import describe, stamp
from sklearn.exceptions import ConvergenceWarning

from skvibe.transport import RowSweep, solve_transport

ROOT = Path(__file__).resolve().parents[1]
LAM = 25.0
REFERENCE_ITERATIONS = 10_001
ANCHORS = [
    ("fit", 10_000, 10),
    ("fit", 50_000, 10),
    ("sharp", 50_000, 10),
    ("fit", 50_000, 100),
    ("sharp", 20_000, 100),
]
GROWTH = [("fit", n, 10) for n in (10_000, 31_623, 100_000, 316_228, 1_000_000)]
GROWTH += [("fit", n, 100) for n in (10_000, 31_623, 100_000)]
CLASSES = [("fit", 20_000, k) for k in (3, 10, 30, 100, 300, 1_000)]
# Whole solves of a thousand classes take minutes with the peers: rows enough for each.
CLASSES += [("fit", 100_000, 1_000)]
DRIFT = [*ANCHORS, ("fit", 10_000, 100), ("sharp", 50_000, 100)]
QUICK_ANCHORS = ANCHORS[:2]
QUICK_GROWTH = [("fit", n, 10) for n in (10_000, 31_623, 100_000)]
QUICK_CLASSES = [("fit", 5_000, k) for k in (10, 100)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, two minutes")
    parser.add_argument(
        "--add",
        choices=["drift", "thousand"],
        help="measure this alone and put it into the result of the last full run",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = stamp()
    if options.add:
        add(options.add, run)
        return
    for name in ("POT", "ott-jax", "geomloss"):
        try:
            run["versions"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            run["versions"][name] = "absent"
    results = {"run": run, "lam": LAM}
    seconds = 5.0 if options.quick else 60.0
    results["anchors"] = [
        anchor(*case, seconds) for case in (QUICK_ANCHORS if options.quick else ANCHORS)
    ]
    results["growth"] = [
        growth(*case) for case in (QUICK_GROWTH if options.quick else GROWTH)
    ]
    results["classes"] = [
        growth(*case) for case in (QUICK_CLASSES if options.quick else CLASSES)
    ]
    results["drift"] = [drift(*c) for c in (QUICK_ANCHORS if options.quick else DRIFT)]
    name = "transport_quick.json" if options.quick else "transport.json"
    path = ROOT / "benchmarks/results" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{describe(run)}\nwrote {path.relative_to(ROOT)}")
    if not options.quick:
        plot(results)


def add(what, run):
    """One part of a full run, with a stamp of its own."""
    path = ROOT / "benchmarks/results/transport.json"
    results = json.loads(path.read_text())
    if what == "drift":
        results["drift"] = [drift(*case) for case in DRIFT]
    else:
        results["thousand"] = [growth(*CLASSES[-1])]
    results[f"{what} run"] = run
    path.write_text(json.dumps(results, indent=1) + "\n")


# -- problems ----------------------------------------------------------------------


def problem(kind, n_rows, n_classes, seed=0, n_features=32, moved=0.0):
    """Log-probabilities (float32) and prior, as in the module's text.

    ``moved`` shifts the prototypes of the model, not the rows, by this part of their
    length, as the M-step between two E-steps does.
    """
    rng = np.random.default_rng(seed)
    kappa = 10.0 if n_classes <= 30 else 20.0
    centres = rng.standard_normal((n_classes, n_features))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    y = rng.integers(n_classes, size=n_rows)
    noise = _noise_for_accuracy(centres, rng, 0.85)
    given = np.where(rng.random(n_rows) < 0.1, 0, y)
    shift = np.random.default_rng(seed + 1).standard_normal(centres.shape)
    shift /= np.linalg.norm(shift, axis=1, keepdims=True)
    model = centres + moved * shift
    model /= np.linalg.norm(model, axis=1, keepdims=True)
    if kind == "fit":
        rule = np.full((n_classes, n_classes), 0.003 / n_classes)
        rule += 0.9 * np.eye(n_classes)
        rule[:, 0] += 0.1
        rule = np.log(rule / rule.sum(axis=1, keepdims=True))
    else:
        rule = _log_softmax(kappa * model @ model.T)
    log_p = np.empty((n_rows, n_classes), dtype=np.float32)
    for start in range(0, n_rows, 100_000):
        rows = slice(start, start + 100_000)
        x = centres[y[rows]]
        x = x + noise * rng.standard_normal(x.shape)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        log_p[rows] = _log_softmax(kappa * x @ model.T) + rule[:, given[rows]].T
    prior = np.exp(0.02 * rng.standard_normal(n_classes))
    return log_p, prior / prior.sum()


def _noise_for_accuracy(centres, rng, accuracy):
    y = rng.integers(len(centres), size=5000)
    direction = rng.standard_normal((5000, centres.shape[1]))
    low, high = 0.05, 5.0
    for _ in range(20):
        middle = (low * high) ** 0.5
        right = ((centres[y] + middle * direction) @ centres.T).argmax(axis=1) == y
        low, high = (middle, high) if right.mean() > accuracy else (low, middle)
    return low


def _log_softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


# -- measurements ------------------------------------------------------------------


def cpu_seconds(run, repeats=5):
    """Median processor time of a call."""
    run()
    return statistics.median(_once(run) for _ in range(repeats))


def _once(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def per_iteration(run, few, many):
    """Processor time an iteration takes, set-up taken out; ``run(n)`` makes n."""
    run(few)
    rises = [_once(lambda: run(many)) - _once(lambda: run(few)) for _ in range(3)]
    return max(statistics.median(rises), 1e-9) / (many - few)


def anchor(kind, n_rows, n_classes, seconds):
    """One problem: skvibe to 1e-6 and 1e-9, warm and cold, and every peer."""
    log_p, prior = problem(kind, n_rows, n_classes)
    tensor = torch.from_numpy(log_p)
    row = {"kind": kind, "N": n_rows, "K": n_classes}
    for tol in (1e-6, 1e-9):
        found = solve_transport(tensor, prior, tol=tol)
        exact = _exact_error(log_p, prior, found.potentials.numpy())
        row[f"skvibe {tol:g}"] = {
            "s": cpu_seconds(lambda tol=tol: solve_transport(tensor, prior, tol=tol)),
            "passes": found.n_iter,
            "whole passes": found.n_passes,
            "error": exact,
            "converged": found.converged,
        }
    row["warm"] = warm(log_p, prior)
    row["pass"] = passes(tensor, found.potentials.numpy())
    count, reached, scaling = count_sinkhorn(log_p, prior, seconds)
    row["sinkhorn iterations to 1e-6"] = count
    row["lower bound"] = not reached
    few, many = (10, 40) if n_rows * n_classes <= 500_000 else (4, 12)
    steps = {"scaling": scaling, **peers(log_p, prior, few, many)}
    row["per iteration"] = steps
    ours = row["skvibe 1e-06"]["s"]
    row["times skvibe"] = {name: count * step / ours for name, step in steps.items()}
    row["times skvibe"]["reference"] = REFERENCE_ITERATIONS * steps["reference"] / ours
    _show(row)
    return row


def growth(kind, n_rows, n_classes):
    """How the time grows: skvibe whole, the others by iteration."""
    log_p, prior = problem(kind, n_rows, n_classes)
    tensor = torch.from_numpy(log_p)
    found = solve_transport(tensor, prior, tol=1e-6)
    cold = cpu_seconds(lambda: solve_transport(tensor, prior, tol=1e-6), 3)
    row = {
        "kind": kind,
        "N": n_rows,
        "K": n_classes,
        "skvibe": cold,
        "ns per row": 1e9 * cold / n_rows,
        "passes": found.n_iter,
        "error": found.error,
        "warm": warm(log_p, prior),
        "pass": passes(tensor, found.potentials.numpy()),
        "reference": REFERENCE_ITERATIONS
        * per_iteration(lambda n: reference(tensor, prior, n), 1, 3),
    }
    big = n_rows * n_classes > 10_000_000
    row["per iteration"] = {} if big else peers(log_p, prior, 2, 6)
    print(
        f"{kind} {n_rows:>9,} x {n_classes:<5} {1e3 * cold:9.1f} ms "
        f"{row['ns per row']:8.0f} ns a row, {found.n_iter:3} passes; a pass is "
        f"{row['pass']['with curvature'] / row['pass']['logsumexp']:.2f} logsumexp; "
        f"reference {row['reference'] / cold:,.0f} times",
        flush=True,
    )
    return row


def warm(log_p, prior):
    """After a drift as between two E-steps."""
    before = solve_transport(torch.from_numpy(log_p), prior)
    rng = np.random.default_rng(1)
    drift = 0.05 * rng.standard_normal(log_p.shape[1], dtype=np.float32)
    moved = torch.from_numpy(1.05 * log_p + drift)
    found = solve_transport(moved, prior, init=before.potentials)
    again = cpu_seconds(
        lambda: solve_transport(moved, prior, init=before.potentials), 3
    )
    return {
        "s": again,
        "passes": found.n_iter,
        "whole passes": found.n_passes,
        "converged": found.converged,
    }


def drift(kind, n_rows, n_classes):
    """Passes after the prototypes moved by 1, 5 and 20 % of their length."""
    log_p, prior = problem(kind, n_rows, n_classes)
    before = solve_transport(torch.from_numpy(log_p), prior)
    row = {"kind": kind, "N": n_rows, "K": n_classes, "cold": before.n_iter}
    row |= {"cold whole passes": before.n_passes, "warm": {}}
    for moved in (0.01, 0.05, 0.2):
        later, prior = problem(kind, n_rows, n_classes, moved=moved)
        later = torch.from_numpy(later)
        found = solve_transport(later, prior, init=before.potentials)
        cold = solve_transport(later, prior)
        row["warm"][f"{moved:g}"] = {
            "passes": found.n_iter,
            "whole passes": found.n_passes,
            "cold": cold.n_iter,
        }
    print(
        f"{kind} {n_rows:,} x {n_classes}: passes cold {row['cold']}, after a drift "
        + ", ".join(
            f"{k}: {v['passes']} ({v['whole passes']} whole)"
            for k, v in row["warm"].items()
        ),
        flush=True,
    )
    return row


def passes(log_p, potentials):
    """One whole pass of ours beside plain ones of the library over the same array."""
    sweep = RowSweep(lambda: [log_p], n_rows=len(log_p), lam=LAM, precision=1e-6 / 64)
    scaled, small = LAM * log_p, log_p.clamp(min=-40.0)

    def whole(curvature):
        sweep.settled = None
        sweep(potentials, curvature=curvature)

    return {
        "plain": cpu_seconds(lambda: whole(False)),
        "with curvature": cpu_seconds(lambda: whole(True)),
        "logsumexp": cpu_seconds(lambda: torch.logsumexp(scaled, dim=1), 3),
        "logsumexp of small numbers": cpu_seconds(
            lambda: torch.logsumexp(small, dim=1), 3
        ),
        "read": cpu_seconds(lambda: log_p.sum()),
    }


def _exact_error(log_p, prior, potentials):
    columns = np.zeros(len(prior))
    for start in range(0, len(log_p), 50_000):
        s = LAM * log_p[start : start + 50_000].astype(np.float64) + potentials
        q = np.exp(s - s.max(axis=1, keepdims=True))
        columns += (q / q.sum(axis=1, keepdims=True)).sum(axis=0)
    return float(np.abs(columns / len(log_p) - prior).sum())


# -- peers -------------------------------------------------------------------------


def peers(log_p, prior, few, many):
    """Processor time of an iteration of each."""
    tensor = torch.from_numpy(log_p)
    cost = (log_p.max(axis=1, keepdims=True) - log_p).astype(np.float64)
    steps = {
        "reference": per_iteration(lambda n: reference(tensor, prior, n), few, many),
        "POT sinkhorn": per_iteration(
            lambda n: pot("sinkhorn", cost, prior, n), 4 * few, 4 * many
        ),
        "POT sinkhorn_log": per_iteration(
            lambda n: pot("sinkhorn_log", cost, prior, n), few, many
        ),
    }
    for name, solver in (("OTT", ott_solver), ("geomloss", geomloss_solver)):
        solve = solver(cost, prior)
        if solve is not None:
            steps[name] = per_iteration(solve, few, many)
    return steps


def reference(log_p, prior, n_iterations):
    """The loop as published: two vectors, single precision, no test of the error."""
    scaled = LAM * log_p
    b = torch.as_tensor(prior, dtype=torch.float32).log()
    a = -float(np.log(len(log_p)))
    f, g = torch.zeros(len(log_p), 1), torch.zeros(1, len(prior))
    for _ in range(n_iterations):
        f = a - torch.logsumexp(scaled + g, dim=1, keepdim=True)
        g = b - torch.logsumexp(scaled + f, dim=0, keepdim=True)
    return g


def pot(method, cost, prior, n_iterations):
    from ot.bregman import sinkhorn

    rows = np.full(len(cost), 1.0 / len(cost))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sinkhorn(
            rows,
            prior,
            cost,
            1.0 / LAM,
            method=method,
            numItermax=n_iterations,
            stopThr=0.0,
            warn=False,
        )


def ott_solver(cost, prior):
    """A function of the number of iterations, or None without OTT."""
    try:
        import jax
        from ott.geometry.geometry import Geometry
        from ott.problems.linear.linear_problem import LinearProblem
        from ott.solvers.linear.sinkhorn import Sinkhorn
    except ImportError:
        return None
    jax.config.update("jax_enable_x64", True)
    rows = np.full(len(cost), 1.0 / len(cost))
    linear = LinearProblem(Geometry(cost_matrix=cost, epsilon=1.0 / LAM), rows, prior)
    compiled = {}

    def run(n_iterations):
        if n_iterations not in compiled:
            solver = Sinkhorn(
                threshold=0.0,
                inner_iterations=1,
                min_iterations=n_iterations,
                max_iterations=n_iterations,
            )
            compiled[n_iterations] = jax.jit(solver)
        compiled[n_iterations](linear).f.block_until_ready()

    return run


def geomloss_solver(cost, prior):
    """A function of the number of iterations, or None without geomloss.

    Its iteration averages both updates: it needs more of them than are counted here.
    """
    try:
        from geomloss import ot
    except ImportError:
        return None
    rows = torch.full((len(cost),), 1.0 / len(cost), dtype=torch.float64)
    matrix, columns = torch.from_numpy(cost), torch.from_numpy(prior)

    def run(n_iterations):
        ot.solve(matrix, reg=1.0 / LAM, a=rows, b=columns, max_iter=n_iterations)

    return run


def count_sinkhorn(log_p, prior, seconds):
    """Iterations to an error of 1e-6, whether they got there, seconds for one."""
    kernel = np.exp(LAM * (log_p.astype(np.float64) - log_p.max(axis=1, keepdims=True)))
    v = np.ones(len(prior))
    count, best = 0, np.inf
    start = time.process_time()
    while best > 1e-6 and time.process_time() - start < seconds:
        for _ in range(20):
            u = 1.0 / (kernel @ v)
            columns = v * (u @ kernel) / len(kernel)
            v *= prior / columns
        count += 20
        best = np.abs(columns - prior).sum()
    return count, bool(best <= 1e-6), (time.process_time() - start) / count


# -- output ------------------------------------------------------------------------


def _show(row):
    ours, tight = row["skvibe 1e-06"], row["skvibe 1e-09"]
    print(
        f"{row['kind']} {row['N']:,} x {row['K']}: {1e3 * ours['s']:.1f} ms, "
        f"{ours['passes']} passes, error {ours['error']:.1g}; to 1e-9 "
        f"{1e3 * tight['s']:.1f} ms, {tight['passes']} passes, {tight['error']:.1g}; "
        f"warm {1e3 * row['warm']['s']:.1f} ms, {row['warm']['passes']} passes"
    )
    bound = "at least " if row["lower bound"] else ""
    print(f"  Sinkhorn to 1e-6: {bound}{row['sinkhorn iterations to 1e-6']:,} times")
    for name, ratio in row["times skvibe"].items():
        mark = "" if name == "reference" else bound
        print(f"  {name:<17} {mark}{ratio:,.0f} times skvibe")
    step = row["pass"]
    print(
        "  a pass / logsumexp: "
        f"{step['plain'] / step['logsumexp']:.2f} plain, "
        f"{step['with curvature'] / step['logsumexp']:.2f} with curvature "
        f"(to logsumexp of small numbers: "
        f"{step['with curvature'] / step['logsumexp of small numbers']:.2f})",
        flush=True,
    )


def plot(results):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts = {
        (row["N"], row["K"]): row["sinkhorn iterations to 1e-6"]
        for row in results["anchors"]
        if row["kind"] == "fit"
    }
    count = counts[50_000, 10]
    rows = [row for row in results["growth"] if row["K"] == 10]
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
    lines = {
        "published loop (10,001 iterations)": lambda row: row["reference"],
        "POT sinkhorn_log": lambda row: (
            count * row["per iteration"].get("POT sinkhorn_log", np.nan)
        ),
        "OTT": lambda row: count * row["per iteration"].get("OTT", np.nan),
        "geomloss": lambda row: count * row["per iteration"].get("geomloss", np.nan),
        "POT sinkhorn": lambda row: (
            count * row["per iteration"].get("POT sinkhorn", np.nan)
        ),
        "skvibe": lambda row: row["skvibe"],
        "skvibe, warm start": lambda row: row["warm"]["s"],
        "one torch.logsumexp": lambda row: row["pass"]["logsumexp"],
    }
    colours = ["0.55", "#0072B2", "#009E73", "#CC79A7", "#56B4E9"]
    colours += ["#D55E00", "#E69F00", "0.2"]
    styles = ["-", "-", "-", "-", "-", "-", "--", ":"]
    for (name, value), colour, style in zip(
        lines.items(), colours, styles, strict=True
    ):
        axes[0].plot(
            [row["N"] for row in rows],
            [value(row) for row in rows],
            style,
            marker="o",
            markersize=3.5,
            color=colour,
            label=name,
        )
    axes[0].set(xlabel="rows N (10 classes)", ylabel="processor seconds")
    axes[0].set_title(f"To a column error of 1e-6 ({count:,} Sinkhorn iterations)")
    n_rows = results["classes"][0]["N"]
    by_class = [row for row in results["classes"] if row["N"] == n_rows]
    for (name, value), colour, style in zip(
        lines.items(), colours, styles, strict=True
    ):
        if name.startswith(("POT", "OTT", "geomloss")):
            continue  # the number of iterations changes with K
        axes[1].plot(
            [row["K"] for row in by_class],
            [value(row) for row in by_class],
            style,
            marker="o",
            markersize=3.5,
            color=colour,
            label=name,
        )
    axes[1].set(xlabel=f"classes K ({n_rows:,} rows)", ylabel="processor seconds")
    axes[1].set_title("Growth with the number of classes")
    for axis in axes:
        axis.set(xscale="log", yscale="log")
        axis.title.set_fontsize(10)
        axis.grid(True, which="major", linewidth=0.4, alpha=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
    path = ROOT / "docs/figures/transport.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    warnings.simplefilter("error", ConvergenceWarning)
    main()
