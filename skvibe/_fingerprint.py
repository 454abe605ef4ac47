"""One number for everything that a result follows from.

The same values give the same number in every process, so no address, no hash of Python
and no order of a set goes into it. Of functions only the name counts.
"""

import functools
import re
from hashlib import blake2b

import numpy as np
import torch

_BLOCK_ROWS = 4096


def fingerprint(value):
    """Hexadecimal digest of a value, and of all values inside it.

    Parameters
    ----------
    value : object
        Numbers, strings, arrays, tensors, modules, functions, containers of these and
        objects with attributes.

    Returns
    -------
    str
        32 characters.

    Examples
    --------
    >>> from skvibe._fingerprint import fingerprint
    >>> fingerprint({"a": 1, "b": [2.0]}) == fingerprint({"b": [2.0], "a": 1})
    True
    >>> fingerprint(1) == fingerprint("1")
    False
    """
    digest = blake2b(digest_size=16)
    _add(digest, value, ())
    return digest.hexdigest()


def _add(digest, value, inside):
    """Feed a value to the digest; ``inside`` are the ids of what holds it."""
    digest.update(f"{type(value).__module__}.{type(value).__qualname__}:".encode())
    if id(value) in inside:
        return
    inside = (*inside, id(value))
    if value is None or isinstance(value, (bool, int, float, str, bytes, np.generic)):
        digest.update(repr(value).encode("utf-8", "surrogatepass"))
    elif isinstance(value, np.ndarray):
        _add_array(digest, value, inside)
    elif isinstance(value, dict):
        for key in sorted(value, key=repr):
            _add(digest, key, inside)
            _add(digest, value[key], inside)
    elif isinstance(value, (list, tuple)):
        digest.update(f"{len(value)}".encode())
        for item in value:
            _add(digest, item, inside)
    elif isinstance(value, (set, frozenset)):
        _add(digest, sorted(map(_text, value)), inside)
    elif isinstance(value, torch.Tensor):
        _add_tensor(digest, value, inside)
    elif isinstance(value, torch.nn.Module):
        _add_module(digest, value, inside)
    else:
        _add_object(digest, value, inside)


def _add_array(digest, array, inside):
    # Sums over rows in another layout round differently.
    layout = (array.flags.c_contiguous, array.flags.f_contiguous)
    digest.update(f"{array.dtype.str} {array.shape} {layout}".encode())
    if array.dtype.hasobject:
        _add(digest, array.ravel().tolist(), inside)
        return
    for start in range(0, len(array) if array.ndim else 0, _BLOCK_ROWS):
        # A memory map is read block by block.
        block = array[start : start + _BLOCK_ROWS]
        digest.update(np.ascontiguousarray(block).view(np.uint8).data)
    if not array.ndim:
        digest.update(array.tobytes())


def _add_tensor(digest, tensor, inside):
    digest.update(str(tensor.dtype).encode())
    _add(digest, tensor_bytes(tensor), inside)


def tensor_bytes(tensor):
    """The values of a tensor of any type, as an array of uint8 with one more axis."""
    # In memory order of the axes, whatever it was (channels_last, expanded, ...).
    flat = (
        tensor.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
    )
    return flat.view(torch.uint8).reshape(*tensor.shape, tensor.element_size()).numpy()


def _add_module(digest, module, inside):
    digest.update(_text(module).encode())
    for part in module.modules():
        own = {
            name: value
            for name, value in vars(part).items()
            if not name.startswith("_") and name != "training"
        }
        _add(digest, own, inside)
    for name, values in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(name.encode())
        _add_tensor(digest, values, inside)


def _text(value):
    """``repr`` without addresses, which are another one in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _add_object(digest, value, inside):
    if isinstance(value, functools.partial):
        _add(digest, [value.func, value.args, value.keywords], inside)
    elif isinstance(value, np.random.RandomState):
        _add(digest, value.get_state(), inside)
    elif isinstance(value, torch.Generator):
        _add_tensor(digest, value.get_state(), inside)
    elif hasattr(value, "__qualname__"):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
    elif hasattr(value, "__dict__"):
        _add(digest, vars(value), inside)
