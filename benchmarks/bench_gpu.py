"""The E-step and a fit on a GPU; `benchmarks/gpu.sh` runs it with the CUDA tests.

    python benchmarks/bench_gpu.py [--dry-run]

Wall-clock seconds, each call waited for, medians. The problems are like "fit" of
bench_transport.py, made on the device; each is solved with the package's kernels and
with plain operations. The processor has one thread. --dry-run does every step on the
processor at small sizes, plain operations alone: its numbers mean nothing, it shows
that the script runs.
"""

import argparse
import contextlib
import json
import os
import statistics
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from _stamp import describe, stamp
from sklearn.exceptions import ConvergenceWarning

import skvibe._row_sweep
from skvibe import VIBEClassifier
from skvibe._fused_pass import FusedPass, _screen
from skvibe.transport import RowSweep, solve_transport

RESULTS = Path(__file__).resolve().parent / "results"
LAM = 25.0
REFERENCE_ITERATIONS = 10_001
# Rows, classes; the last problem is solved with the package's kernels alone.
FULL = {
    "problems": [(1_280_000, 1_000), (10_000_000, 100), (5_120_000, 1_000)],
    "agreement": (200_000, 100),
    "copy_bytes": 2 << 30,
    "fits": [(200_000, 384, 100, 100), (50_000, 384, 10, None)],
}
DRY = {
    "problems": [(4_000, 20), (3_000, 80)],
    "agreement": (2_000, 30),
    "copy_bytes": 1 << 22,
    "fits": [(600, 16, 5, 20)],
}
KINDS = ("kernels", "plain operations")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--dry-run", action="store_true", help="small sizes, on the processor"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    options = parser.parse_args()
    sizes = DRY if options.dry_run else FULL
    device = torch.device("cpu" if options.dry_run else "cuda")
    run = stamp() | {"device": name_of(device)}
    results = {"run": run, "dry_run": options.dry_run}
    bandwidth = copy_bandwidth(device, sizes["copy_bytes"])
    results["copy_bytes_per_s"] = bandwidth
    print(f"{run['device']}: copies {bandwidth / 1e9:,.0f} GB/s, read and written")
    results["transport"] = []
    for n_rows, n_classes in sizes["problems"]:
        is_last = (n_rows, n_classes) == sizes["problems"][-1]
        record = transport(device, n_rows, n_classes, bandwidth, is_last)
        results["transport"].append(record)
        show(record)
    results["agreement"] = agreement(device, *sizes["agreement"])
    print("against the processor:", results["agreement"])
    suffix = "_dry" if options.dry_run else ""
    keep(results, options.out / f"gpu{suffix}.json")
    results = {"run": run, "dry_run": options.dry_run, "fits": []}
    for case in sizes["fits"]:
        results["fits"].append(fits(device, *case))
        print("fit", results["fits"][-1], flush=True)
    keep(results, options.out / f"gpu_fits{suffix}.json")


def keep(results, path):
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{describe(results['run'])}\nwrote {path}", flush=True)


def name_of(device):
    return torch.cuda.get_device_name() if device.type == "cuda" else "processor"


def seconds(call, device, repeats=5):
    """Median wall-clock seconds of a call, waited for."""
    call()
    taken = []
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def copy_bandwidth(device, n_bytes):
    """Bytes a second, read and written both counted."""
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / seconds(lambda: target.copy_(source), device, 9)


def problem(device, n_rows, n_classes, n_features=32, seed=0):
    """Log-probabilities on the device and the prior, like bench_transport's "fit"."""
    generator = torch.Generator(device).manual_seed(seed)
    place = {"device": device, "generator": generator}
    kappa = 10.0 if n_classes <= 30 else 20.0
    centres = torch.randn(n_classes, n_features, **place)
    centres /= centres.norm(dim=1, keepdim=True)
    log_p = torch.empty(n_rows, n_classes, device=device)
    rule = torch.full((n_classes, n_classes), 0.003 / n_classes, device=device)
    rule += 0.9 * torch.eye(n_classes, device=device)
    rule[:, 0] += 0.1
    rule = (rule / rule.sum(dim=1, keepdim=True)).log()
    for block in log_p.split(100_000):
        y = torch.randint(n_classes, (len(block),), **place)
        given = y.masked_fill(torch.rand(len(block), **place) < 0.1, 0)
        x = centres[y] + 0.2 * torch.randn(len(block), n_features, **place)
        x /= x.norm(dim=1, keepdim=True)
        block.copy_(torch.log_softmax(kappa * x @ centres.T, dim=1) + rule[:, given].T)
    prior = np.exp(0.02 * np.random.default_rng(seed).standard_normal(n_classes))
    return log_p, prior / prior.sum()


def transport(device, n_rows, n_classes, bandwidth, kernels_alone):
    """One problem: cold, warm, by the pass, and the published loop."""
    log_p, prior = problem(device, n_rows, n_classes)
    matrix = log_p.numel() * log_p.element_size()
    one_pass = seconds(lambda: torch.logsumexp(log_p, dim=1), device)
    record = {"N": n_rows, "K": n_classes, "logsumexp_s": one_pass}
    kinds = KINDS[:1] if kernels_alone else KINDS
    for kind in KINDS[1:] if device.type == "cpu" else kinds:
        with plain_operations(kind == "plain operations"):
            record[kind] = solves(device, log_p, prior)
        if kind == "kernels":
            found = solve_transport(log_p, prior)
            alone = screening(log_p, found.potentials)
            record[kind]["pass_s"]["screen alone"] = seconds(alone, device)
        # A pass reads the matrix once; a copy reads and writes.
        record[kind]["share_of_copy_bandwidth"] = {
            name: matrix / taken / bandwidth
            for name, taken in record[kind]["pass_s"].items()
        }
    record["reference_over_cold"] = {}
    if kernels_alone:  # the published loop would need four times the room
        return record
    iteration = reference_iteration(device, log_p, prior)
    record["reference_iteration_s"] = iteration
    record["reference_over_cold"] = {
        kind: REFERENCE_ITERATIONS * iteration / record[kind]["cold_s"]
        for kind in KINDS
        if kind in record
    }
    return record


@contextlib.contextmanager
def plain_operations(alone):
    """Whether the package does without its kernels."""
    original = skvibe._row_sweep.can_fuse
    if alone:
        skvibe._row_sweep.can_fuse = lambda rows: False
    yield
    skvibe._row_sweep.can_fuse = original


def solves(device, log_p, prior):
    """Cold and warm solves, and whole passes at the solution."""
    n_rows, n_classes = log_p.shape
    found = solve_transport(log_p, prior)
    again = solve_transport(log_p, prior)
    drift = 0.05 * np.random.default_rng(1).standard_normal(n_classes)
    start = found.potentials + torch.as_tensor(LAM * drift, device=device)
    warm = solve_transport(log_p, prior, init=start)
    g = found.potentials.cpu().numpy()
    sweep = RowSweep(lambda: [log_p], n_rows=n_rows, lam=LAM, precision=1e-6 / 64)

    def whole(curvature):
        sweep.settled = None
        sweep(g, curvature=curvature)

    pass_s = {
        "plain": seconds(lambda: whole(False), device),
        "with curvature": seconds(lambda: whole(True), device),
    }
    if device.type == "cuda":
        pass_s["plain, on the device"] = busy_seconds(lambda: whole(False))
        pass_s["with curvature, on the device"] = busy_seconds(lambda: whole(True))
    return {
        "cold_s": seconds(lambda: solve_transport(log_p, prior), device, 3),
        "cold": [found.n_iter, found.n_passes],
        "error": found.error,
        "converged": found.converged,
        "repeatable": bool(torch.equal(found.potentials, again.potentials)),
        "warm_s": seconds(lambda: solve_transport(log_p, prior, init=start), device, 3),
        "warm": [warm.n_iter, warm.n_passes],
        "pass_s": pass_s,
        "peak_bytes_over_matrix": peak_over(device, log_p, prior),
    }


def busy_seconds(call, repeats=5):
    """What the device is busy for, without what the host needs in between."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as p:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    busy = sum(event.self_device_time_total for event in p.key_averages())
    return busy / repeats / 1e6


def screening(log_p, potentials):
    """The kernel that reads the matrix, and nothing else of a pass."""
    sweep = RowSweep(lambda: [log_p], n_rows=len(log_p), lam=LAM, precision=1e-6 / 64)
    sweep._kind, g = FusedPass, potentials.cpu().numpy()
    sweep(g)  # a first pass looks at the data as well
    current = FusedPass(sweep, g, LAM, False, False)
    current._start_keeping(log_p.device)
    current._start(log_p.device)
    current.constants = current._constants(log_p.device)
    new = {"device": log_p.device, "dtype": torch.int32}
    codes = torch.empty(len(log_p), **new)
    state = torch.empty_like(codes, dtype=torch.int8)
    return lambda: _screen(log_p, current, state, codes, None)


def reference_iteration(device, log_p, prior):
    """Seconds of one iteration of the published loop."""
    scaled = log_p.clone().mul_(LAM)
    b = torch.as_tensor(prior, dtype=torch.float32, device=device).log()
    g = torch.zeros_like(b)

    def step():
        f = -torch.logsumexp(scaled + g, dim=1, keepdim=True)
        return b - torch.logsumexp(scaled + f, dim=0)

    return seconds(step, device, 3)


def peak_over(device, log_p, prior):
    """Extra memory of a solve, in matrices."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    solve_transport(log_p, prior)
    matrix = log_p.numel() * log_p.element_size()
    return (torch.cuda.max_memory_allocated() - before) / matrix


def agreement(device, n_rows, n_classes):
    """The same problem here and on the processor."""
    log_p, prior = problem(device, n_rows, n_classes)
    here = log_p.cpu()
    there_found = solve_transport(log_p, prior)
    here_found = solve_transport(here, prior)
    equal = (there_found.labels.cpu() == here_found.labels).double().mean().item()
    taken = seconds(lambda: solve_transport(log_p, prior), device, 3)
    taken_here = seconds(lambda: solve_transport(here, prior), device, 2)
    return {
        "N": n_rows,
        "K": n_classes,
        "equal_labels": equal,
        "errors": [there_found.error, here_found.error],
        "iterations": [there_found.n_iter, here_found.n_iter],
        "device_s": taken,
        "processor_s": taken_here,
        "processor_over_device": taken_here / taken,
    }


def fits(device, n_rows, n_features, n_classes, n_iterations):
    """A fit there and on the processor: default, or EM alone of so many iterations."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n_classes, n_features), dtype=np.float32)
    y = rng.integers(n_classes, size=n_rows)
    X = centres[y] + 1.5 * rng.standard_normal((n_rows, n_features), dtype=np.float32)
    y[rng.random(n_rows) < 0.1] = 0
    options = {"random_state": 0}
    if n_iterations is not None:
        options |= {"prior": "uniform", "refit": False, "max_iter": n_iterations}
        options |= {"whitening": 0.1, "kappa": 15, "nu": 10, "tol": 0.0}

    def fit(place):
        model = VIBEClassifier(device=place, **options)
        start = time.perf_counter()
        with warnings.catch_warnings():
            # A tenth of the labels is wrong at random: they never quite settle.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, y)
        return time.perf_counter() - start, model.predict(X)

    few = {"device": device, "max_iter": 20, "random_state": 0}
    VIBEClassifier(**few).fit(X[:2000], y[:2000])  # loads libraries
    there, predicted_there = fit(device)
    here, predicted_here = fit("cpu")
    return {
        "N": n_rows,
        "d": n_features,
        "K": n_classes,
        "iterations": n_iterations,
        "device_s": there,
        "processor_s": here,
        "processor_over_device": here / there,
        "equal_predictions": float(np.mean(predicted_there == predicted_here)),
    }


def show(record):
    print(f"{record['N']:,} x {record['K']}")
    for kind in KINDS:
        if kind not in record:
            continue
        found = record[kind]
        times = record["reference_over_cold"].get(kind)
        print(
            f"  {kind}: cold {1e3 * found['cold_s']:,.1f} ms, {found['cold']} "
            f"iterations and whole passes, error {found['error']:.1g}; warm "
            f"{1e3 * found['warm_s']:,.1f} ms, {found['warm']}"
            + ("" if times is None else f"; published loop {times:,.0f} times as long")
        )
        for name, share in found["share_of_copy_bandwidth"].items():
            taken = 1e3 * found["pass_s"][name]
            print(f"    {name:<30}{taken:8.3f} ms, {share:.0%} of copy bandwidth")


if __name__ == "__main__":
    main()
