"""All that a training EM net is, in the middle of it, as plain values and back.

What a net needs to go on as if nothing had happened: weights, the optimiser's state,
what the E-steps know, the place in the epoch, random states, history and callbacks.
Nothing here holds a training row.
"""

import itertools

import numpy as np
import torch
from skorch.history import History

from skvibe._fingerprint import tensor_bytes

_EM_FIELDS = (
    "iteration",
    "calm_e_steps",
    "labels",
    "responsibilities",
    "potentials",
    "lower_bounds",
    "label_changes",
)
# It only measures seconds, of this process.
_NOT_KEPT = ("epoch_timer",)


def capture_training(net):
    """State of a net between two batches.

    Parameters
    ----------
    net : VIBENet
        In training.

    Returns
    -------
    dict
        Numbers, strings, arrays and containers of these only.
    """
    em = net.em_
    return to_plain(
        {
            "em": {name: getattr(em, name) for name in _EM_FIELDS},
            "order": em.order,
            "losses": em.losses,
            "weights": _weights(net),
            "optimizer": net.optimizer_.state_dict(),
            "history": list(net.history),
            "callbacks": [
                {} if name in _NOT_KEPT else _callback_state(callback)
                for name, callback in net.callbacks_
            ],
            "random": _random_state(net),
        }
    )


def resume_training(net, state, iterator):
    """Put a net, at the start of its first epoch, where another one was.

    Parameters
    ----------
    net : VIBENet
        Built with the same parameters and notified of the epoch's start.
    state : dict
        From `capture_training`.
    iterator : iterable
        Batches of the epoch.

    Returns
    -------
    iterator
        The batches that the epoch has left.
    """
    state = from_plain(state)
    em = net.em_
    for name, value in state["em"].items():
        on_device = isinstance(value, torch.Tensor)
        setattr(em, name, value.to(em.given.device) if on_device else value)
    em.order = state["order"]
    em.losses = [loss.to(em.given.device) for loss in state["losses"]]
    generator = getattr(iterator, "generator", None)
    if generator is not None:
        generator.set_state(em.order)
    batches = itertools.islice(iter(iterator), len(em.losses), None)
    # Drawn now: the order comes before the random numbers of the next batch.
    first = list(itertools.islice(batches, 1))
    with torch.no_grad():
        for name, values in _weights(net).items():
            values.copy_(state["weights"][name])
    net.optimizer_.load_state_dict(state["optimizer"])
    net.history_ = History(state["history"])
    for (_, callback), kept in zip(net.callbacks_, state["callbacks"], strict=True):
        _restore_callback(callback, kept)
    _set_random_state(net, state["random"])
    return itertools.chain(first, batches)


def order_state(iterator):
    """State of the generator that will draw the order of an epoch, or None."""
    generator = getattr(iterator, "generator", None)
    return None if generator is None else generator.get_state()


def _weights(net):
    """Parameters and all buffers, those too that a state_dict leaves out."""
    module = net.module_
    return dict([*module.named_parameters(), *module.named_buffers()])


# -- random numbers ------------------------------------------------------------------


def _random_state(net):
    """States of torch's own generators; only an encoder's training may draw there."""
    if net.module_.encoder is None:
        return None
    device = net.em_.given.device
    on_gpu = device.type == "cuda"
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if on_gpu else None,
    }


def _set_random_state(net, state):
    if state is None:
        return
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], net.em_.given.device)


# -- callbacks -----------------------------------------------------------------------


def _callback_state(callback):
    """Attributes that are plain values, or that state themselves as torch's do."""
    kept = {}
    for name, value in vars(callback).items():
        if isinstance(value, type):
            continue
        if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            inner = {key: v for key, v in value.state_dict().items() if is_plain(v)}
            kept[name] = {"state_dict": inner}
        elif is_plain(value):
            kept[name] = {"value": value}
    return kept


def _restore_callback(callback, kept):
    for name, state in kept.items():
        if "value" in state:
            setattr(callback, name, state["value"])
        else:
            getattr(callback, name).load_state_dict(state["state_dict"])


# -- plain values --------------------------------------------------------------------


def is_plain(value):
    """Whether `to_plain` has nothing to object to."""
    if isinstance(value, dict):
        return all(is_plain(item) for pair in value.items() for item in pair)
    if type(value) in (list, tuple):
        return all(is_plain(item) for item in value)
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    plain = (bool, int, float, str, np.generic, torch.Tensor)
    return value is None or isinstance(value, plain)


def to_plain(value):
    """The same with tensors as bytes; every type of torch's is kept exactly."""
    if isinstance(value, torch.Tensor):
        name = str(value.dtype).removeprefix("torch.")
        return {"tensor": name, "bytes": tensor_bytes(value)}
    if isinstance(value, dict):
        return {"dict": {key: to_plain(item) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return type(value)(to_plain(item) for item in value)
    return value


def from_plain(value):
    """Undo `to_plain`; tensors come to the CPU."""
    if isinstance(value, dict) and "tensor" in value:
        dtype = getattr(torch, value["tensor"])
        values = torch.from_numpy(np.array(value["bytes"]))
        if not values.numel():  # it has no strides to be viewed by
            return torch.empty(values.shape[:-1], dtype=dtype)
        return values.view(dtype)[..., 0].clone()
    if isinstance(value, dict):
        return {key: from_plain(item) for key, item in value["dict"].items()}
    if isinstance(value, (list, tuple)):
        return type(value)(from_plain(item) for item in value)
    return value
