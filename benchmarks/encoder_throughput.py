"""Pretraining and end-to-end M-step against bare PyTorch loops that do the same work.

    python benchmarks/encoder_throughput.py [--device cuda] [--encoder resnet18]

Prints images a second and the ratio of times (1 = as fast as the bare loop), and writes
``benchmarks/results/encoder_throughput.json``. Loop and library take turns, the median
of the rounds counts. Both make the same views of the same images with the same
augmentation, encoder, loss and optimiser.
"""

import argparse
import copy
import json
import statistics
import time
import warnings

import numpy as np
import torch
from _stamp import ROOT, stamp
from sklearn.exceptions import ConvergenceWarning

from skvibe import VIBEClassifier
from skvibe._device import resolve_device
from skvibe.encoders import (
    CropFlip,
    SelfSupervisedEncoder,
    SimCLRAugmentation,
    make_encoder,
    nt_xent_loss,
)


def time_pretraining(X, module, args):
    """Seconds of one epoch: bare loop, library."""
    device = resolve_device(args.device)
    encoder = copy.deepcopy(module).to(device, memory_format=torch.channels_last)
    size = encoder.n_features_out
    head = torch.nn.Sequential(
        torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, 128)
    ).to(device)
    model, augment = torch.nn.Sequential(encoder, head).train(), SimCLRAugmentation()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    rows = torch.from_numpy(X).to(device)
    full = len(X) // args.batch_size

    def bare():
        for batch in torch.randperm(len(X)).split(args.batch_size)[:full]:
            images = rows[batch.to(device)]
            with torch.autocast(device.type, torch.bfloat16, enabled=args.half):
                first, second = model(
                    torch.cat([augment(images), augment(images)])
                ).chunk(2)
            loss = nt_xent_loss(first, second)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _wait(device)

    library = SelfSupervisedEncoder(
        module,
        max_epochs=1,
        batch_size=args.batch_size,
        recalibrate=False,
        mixed_precision=args.half,
        device=args.device,
        random_state=0,
    )
    return _take_turns(bare, lambda: library.fit(X) and None, args.rounds)


def time_m_step(X, y, module, args):
    """Seconds of one epoch of the M-step: bare loop, library."""
    device = resolve_device(args.device)
    encoder = copy.deepcopy(module).to(device, memory_format=torch.channels_last)
    head = torch.nn.Linear(encoder.n_features_out, 10, bias=False).to(device)
    model, augment = torch.nn.Sequential(encoder, head).train(), CropFlip()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-2, momentum=0.9, weight_decay=5e-4
    )
    rows, given = torch.from_numpy(X).to(device), torch.from_numpy(y).to(device)

    def bare():
        for batch in torch.randperm(len(X)).split(args.batch_size):
            batch = batch.to(device)
            logits = model(augment(rows[batch].float()))
            loss = torch.nn.functional.cross_entropy(logits, given[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _wait(device)

    batches = -(-len(X) // args.batch_size)
    library = VIBEClassifier(
        copy.deepcopy(module).to(memory_format=torch.channels_last),
        train_encoder=True,
        augment=augment,
        prior="uniform",
        refit=False,
        batch_size=args.batch_size,
        e_step_period=10**6,
        tol=0.0,
        device=args.device,
        random_state=0,
    )

    library.set_params(max_iter=4 * batches)

    def epoch():
        # What a fit does besides (features before, judging after) is no M-step; the
        # first epoch has the only E-step.
        library.fit(X, y)
        return statistics.median(library.history_[1:, "dur"])

    return _take_turns(bare, epoch, args.rounds)


def _take_turns(bare, library, rounds):
    """Medians of the seconds; work may say itself how many count."""
    bare(), library()
    seconds = ([], [])
    for _ in range(rounds):
        for work, spent in zip((bare, library), seconds, strict=True):
            start = time.perf_counter()
            counted = work()
            taken = time.perf_counter() - start
            spent.append(taken if counted is None else counted)
    return tuple(statistics.median(spent) for spent in seconds)


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--half", action="store_true", help="bfloat16")
    args = parser.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    rng = np.random.default_rng(0)
    shape = (args.images, args.side, args.side, 3)
    X, y = rng.integers(0, 256, shape, dtype=np.uint8), rng.integers(10, size=shape[0])
    module = make_encoder(args.encoder, random_state=0)
    results = {}
    pairs = {
        "pretraining": time_pretraining(X, module, args),
        "m_step": time_m_step(X, y, module, args),
    }
    for name, (bare, library) in pairs.items():
        results[name] = {
            "images_per_second": round(args.images / library, 1),
            "bare_images_per_second": round(args.images / bare, 1),
            "ratio": round(library / bare, 3),
        }
        print(name, results[name])
    content = {"settings": vars(args), "results": results, "stamp": stamp()}
    (ROOT / "benchmarks" / "results").mkdir(exist_ok=True)
    file = ROOT / "benchmarks" / "results" / "encoder_throughput.json"
    file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
