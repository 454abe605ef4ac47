"""The E-step and a fit on a GPU; `benchmarks/gpu.sh` runs it with the CUDA tests.

    python benchmarks/bench_gpu.py [--dry-run]

Wall-clock seconds, each call waited for, medians. The problems are like "fit" of
bench_transport.py, made on the device. --dry-run does every step on the processor at
small sizes: its numbers mean nothing, it shows that the script runs.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from _stamp import describe, stamp

from skvibe import VIBEClassifier
from skvibe.transport import RowSweep, solve_transport

ROOT = Path(__file__).resolve().parents[1]
LAM = 25.0
REFERENCE_ITERATIONS = 10_001
FULL = {
    "problems": [(1_280_000, 100), (1_280_000, 1_000)],
    "agreement": (50_000, 100),
    "copy_bytes": 2 << 30,
    "fits": [(50_000, 384, 10), (200_000, 384, 100)],
    "iterations": 200,
}
DRY = {
    "problems": [(4_000, 20), (3_000, 80)],
    "agreement": (2_000, 30),
    "copy_bytes": 1 << 22,
    "fits": [(600, 16, 5)],
    "iterations": 20,
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--dry-run", action="store_true", help="small sizes, on the processor"
    )
    parser.add_argument("--out", type=Path, default=None, help="result file")
    options = parser.parse_args(argv)
    sizes = DRY if options.dry_run else FULL
    device = torch.device("cpu" if options.dry_run else "cuda")
    run = stamp() | {"device": name_of(device)}
    results = {"run": run, "dry_run": options.dry_run}
    bandwidth = copy_bandwidth(device, sizes["copy_bytes"])
    results["copy_bytes_per_s"] = bandwidth
    print(f"{run['device']}: copies {bandwidth / 1e9:,.0f} GB/s, read and written")
    results["transport"] = []
    for n_rows, n_classes in sizes["problems"]:
        record = transport(device, n_rows, n_classes, bandwidth)
        results["transport"].append(record)
        show(record)
    results["agreement"] = agreement(device, *sizes["agreement"])
    print("against the processor:", results["agreement"])
    results["fits"] = [fits(device, *c, sizes["iterations"]) for c in sizes["fits"]]
    for record in results["fits"]:
        print("fit", record, flush=True)
    name = "gpu_dry.json" if options.dry_run else "gpu.json"
    path = options.out or ROOT / "benchmarks/results" / name
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{describe(run)}\nwrote {path}")


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


def transport(device, n_rows, n_classes, bandwidth):
    """One problem: cold, warm, by the pass, and the published loop."""
    log_p, prior = problem(device, n_rows, n_classes)
    found = solve_transport(log_p, prior)
    drift = 0.05 * np.random.default_rng(1).standard_normal(n_classes)
    start = found.potentials + torch.as_tensor(LAM * drift, device=device)
    warm = solve_transport(log_p, prior, init=start)
    g = found.potentials.cpu().numpy()
    sweep = RowSweep(lambda: [log_p], n_rows=n_rows, lam=LAM, precision=1e-6 / 64)
    matrix = log_p.numel() * log_p.element_size()
    passes = {
        "plain": seconds(lambda: sweep(g), device),
        "with curvature": seconds(lambda: sweep(g, curvature=True), device),
        "logsumexp": seconds(lambda: torch.logsumexp(log_p, dim=1), device),
    }
    passes |= fused(device, log_p, g)
    cold_s = seconds(lambda: solve_transport(log_p, prior), device, 3)
    iteration = reference_iteration(device, log_p, prior)
    return {
        "N": n_rows,
        "K": n_classes,
        "cold_s": cold_s,
        "cold_passes": found.n_iter,
        "error": found.error,
        "converged": found.converged,
        "warm_s": seconds(lambda: solve_transport(log_p, prior, init=start), device, 3),
        "warm_passes": warm.n_iter,
        "pass_s": passes,
        # A pass reads the matrix once; a copy reads and writes.
        "share_of_copy_bandwidth": {
            name: matrix / taken / bandwidth
            for name, taken in passes.items()
            if isinstance(taken, float)
        },
        "reference_iteration_s": iteration,
        "reference_over_cold": REFERENCE_ITERATIONS * iteration / cold_s,
        "peak_bytes_over_matrix": peak_over(device, log_p, prior, matrix),
    }


def fused(device, log_p, g):
    """The heart of a pass in one kernel (torch.compile), and the same by plain ops.

    For every row: its maximum, the mass of its other classes and the column sums. What
    the package's pass does beyond that (double precision for unclear rows) is left out
    of both, so they bound what a fused kernel could win.
    """
    g = torch.as_tensor(g, dtype=torch.float32, device=device)

    def heart(rows):
        s = LAM * rows + g
        s = s - s.amax(dim=1, keepdim=True)
        q = s.clamp(min=-43.0).exp()
        return (q / q.sum(dim=1, keepdim=True)).sum(dim=0)

    def whole(function):
        total = torch.zeros_like(g)
        for rows in log_p.split(16_384):
            total += function(rows)
        return total

    found = {"heart, plain": seconds(lambda: whole(heart), device)}
    try:
        # Without a device nothing is compiled: the dry run only traces.
        backend = "inductor" if device.type == "cuda" else "eager"
        compiled = torch.compile(heart, dynamic=True, backend=backend)
        torch.testing.assert_close(whole(compiled), whole(heart), rtol=1e-3, atol=1e-2)
        found["heart, fused"] = seconds(lambda: whole(compiled), device)
    except Exception as error:  # a missing compiler must not lose the other figures
        found["heart, fused"] = f"not measured: {type(error).__name__}: {error}"[:200]
    return found


def reference_iteration(device, log_p, prior):
    """Seconds of one iteration of the published loop."""
    scaled = log_p.clone().mul_(LAM)
    b = torch.as_tensor(prior, dtype=torch.float32, device=device).log()
    g = torch.zeros_like(b)

    def step():
        f = -torch.logsumexp(scaled + g, dim=1, keepdim=True)
        return b - torch.logsumexp(scaled + f, dim=0)

    return seconds(step, device, 3)


def peak_over(device, log_p, prior, matrix):
    """Extra memory of a solve, in matrices."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    solve_transport(log_p, prior)
    return (torch.cuda.max_memory_allocated() - before) / matrix


def agreement(device, n_rows, n_classes):
    """The same problem here and on the processor."""
    log_p, prior = problem(device, n_rows, n_classes)
    there = solve_transport(log_p, prior)
    here = solve_transport(log_p.cpu(), prior)
    equal = (there.labels.cpu() == here.labels).double().mean().item()
    return {
        "N": n_rows,
        "K": n_classes,
        "equal_labels": equal,
        "errors": [there.error, here.error],
        "passes": [there.n_iter, here.n_iter],
    }


def fits(device, n_rows, n_features, n_classes, n_iterations):
    """A whole fit there and on the processor, of as many iterations."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n_classes, n_features), dtype=np.float32)
    y = rng.integers(n_classes, size=n_rows)
    X = centres[y] + 1.5 * rng.standard_normal((n_rows, n_features), dtype=np.float32)
    y[rng.random(n_rows) < 0.1] = 0

    def fit(place):
        model = VIBEClassifier(
            device=place,
            prior="uniform",
            refit=False,
            max_iter=n_iterations,
            e_step_period=max(1, n_iterations // 4),
            tol=0.0,
            random_state=0,
        )
        start = time.perf_counter()
        model.fit(X, y)
        return time.perf_counter() - start, model.predict(X)

    fit(device.type)  # start-up of the device's libraries
    there, predicted_there = fit(device.type)
    here, predicted_here = fit("cpu")
    return {
        "N": n_rows,
        "d": n_features,
        "K": n_classes,
        "device_s": there,
        "processor_s": here,
        "processor_over_device": here / there,
        "equal_predictions": float(np.mean(predicted_there == predicted_here)),
    }


def show(record):
    shares = record["share_of_copy_bandwidth"]
    print(
        f"{record['N']:,} x {record['K']}: cold {1e3 * record['cold_s']:,.1f} ms, "
        f"{record['cold_passes']} passes, error {record['error']:.1g}; warm "
        f"{1e3 * record['warm_s']:,.1f} ms, {record['warm_passes']} passes; published "
        f"loop {record['reference_over_cold']:,.0f} times as long"
    )
    for name, share in shares.items():
        taken = record["pass_s"][name]
        print(f"  {name:<16} {1e3 * taken:8.2f} ms, {share:.0%} of copy bandwidth")


if __name__ == "__main__":
    main()
