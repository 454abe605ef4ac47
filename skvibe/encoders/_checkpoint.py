"""Checkpoint files that know what they belong to."""

import io
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from skvibe._atomic_file import write_atomically

_N_HASHED = 1024


def save_checkpoint(path, description, state):
    """Write a state; a reader finds the old file or the new one, never half of one."""
    content = io.BytesIO()
    torch.save({"description": description, "state": state}, content)
    write_atomically(path, content.getbuffer())


def load_checkpoint(path, description, device):
    """The state kept at ``path``, or None if there is no file.

    Raises
    ------
    ValueError
        If the file belongs to other images or other parameters; the message names
        them.
    """
    path = Path(path)
    if not path.exists():
        return None
    content = torch.load(path, map_location=device, weights_only=True)
    kept = content["description"]
    names = sorted(set(kept) | set(description))
    differing = [name for name in names if kept.get(name) != description.get(name)]
    if differing:
        raise ValueError(
            f"The checkpoint {path.name} was made with another {', '.join(differing)}. "
            "Give another file name or delete it."
        )
    return content["state"]


def describe_images(images):
    """Shape, type and a digest of up to 1,024 evenly spaced images."""
    step = max(1, len(images) // _N_HASHED)
    some = np.ascontiguousarray(images[::step])
    digest = blake2b(some.tobytes(), digest_size=16).hexdigest()
    return f"{images.shape} {images.dtype} {digest}"


def describe_parameter(value):
    """Text that is the same in every process for the same setting."""
    if isinstance(value, torch.nn.Module):
        plain = {
            name: item
            for name, item in sorted(vars(value).items())
            if isinstance(item, (bool, int, float, str)) and name != "training"
        }
        return f"{value!r} {plain}"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return getattr(value, "__qualname__", type(value).__qualname__)
