"""The undefended model: cross entropy, everything trained, resumed where it stopped."""

import copy

import numpy as np
import torch

from skvibe.encoders._checkpoint import (
    describe_images,
    load_checkpoint,
    save_checkpoint,
)

_CHECKPOINTS = 25


def train_cross_entropy(encoder, X, y, scale, *, seed, augment, device, checkpoint):
    """Train a linear head on an encoder, and the encoder with it.

    Every epoch draws its random numbers from a seed of its own, so a checkpoint holds
    weights and the optimiser's state, and training ends as if never interrupted.

    Parameters
    ----------
    encoder : torch.nn.Module
        Copied, never changed.
    X : ndarray
        Images.
    y : ndarray of int
        Labels given.
    scale : Scale
        Iterations, batch size and learning rate.
    seed : int
        Of head, order and augmentation.
    augment : callable
        Random view of a batch.
    device : torch.device
        Where to train.
    checkpoint : Path
        File of the state.

    Returns
    -------
    torch.nn.Module
        From images to logits, in evaluation mode.
    """
    rows, given = torch.from_numpy(X).to(device), torch.from_numpy(y).to(device)
    model, optimizer = _start(encoder, int(y.max()) + 1, scale, seed, device)
    description = _describe(X, y, scale, seed)
    state = load_checkpoint(checkpoint, description, device)
    epoch = done = 0
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        epoch, done = state["epoch"], state["done"]
    saved = done
    with torch.random.fork_rng():
        while done < scale.iterations:
            torch.manual_seed(_epoch_seed(seed, epoch))
            batches = torch.randperm(len(rows)).split(scale.batch_size)
            # Batch norm cannot train on one image.
            batches = [batch for batch in batches if len(batch) > 1]
            for batch in batches[: scale.iterations - done]:
                _step(model, optimizer, augment, rows, given, batch.to(device))
                done += 1
            epoch += 1
            if done - saved >= scale.iterations / _CHECKPOINTS or done == (
                scale.iterations
            ):
                state = {"model": model.state_dict(), "epoch": epoch, "done": done}
                state["optimizer"] = optimizer.state_dict()
                save_checkpoint(checkpoint, description, state)
                saved = done
    return model.eval()


def _start(encoder, n_classes, scale, seed, device):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = torch.nn.Linear(encoder.n_features_out, n_classes)
    model = torch.nn.Sequential(copy.deepcopy(encoder), head).to(device).train()
    optimizer = torch.optim.SGD(
        model.parameters(), scale.lr, momentum=0.9, weight_decay=5e-4
    )
    return model, optimizer


def _step(model, optimizer, augment, rows, given, batch):
    logits = model(augment(rows[batch].float()))
    loss = torch.nn.functional.cross_entropy(logits, given[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _epoch_seed(seed, epoch):
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def _describe(X, y, scale, seed):
    return {
        "X": describe_images(X),
        "y": describe_images(y),
        "scale": repr(scale),
        "seed": str(seed),
    }
