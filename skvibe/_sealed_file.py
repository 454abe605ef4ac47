"""JSON and arrays in one safetensors file, with a check sum over both.

Model files and checkpoints are written so. The check sum guards against damage, not
against malice: whoever writes a file can write its check sum too.
"""

import hashlib
import json

import numpy as np

from skvibe._portable import ModelFileError

_KEY = "skvibe"


def seal(document, arrays):
    """Bytes of a file.

    Parameters
    ----------
    document : dict
        JSON; NaN and infinity are not.
    arrays : dict of str to ndarray
        By name.

    Returns
    -------
    bytes
    """
    text = json.dumps(document, allow_nan=False)
    # One entry only: safetensors writes several in no fixed order.
    return _safetensors().save(arrays, {_KEY: f"{check_sum(text, arrays)} {text}"})


def unseal(data):
    """Undo `seal`, check sum verified.

    Parameters
    ----------
    data : bytes
        Of a file, whoever wrote it.

    Returns
    -------
    document : object
        Whatever JSON the file holds.
    arrays : dict of str to ndarray
        By name.

    Raises
    ------
    ModelFileError
        If the file is damaged, or was not written by `seal`.
    """
    safetensors = _safetensors()
    try:
        views = safetensors.load(data)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        metadata = header.get("__metadata__") or {}
    except Exception as error:
        raise ModelFileError(
            f"it is truncated, damaged or no model file ({error})"
        ) from error
    if _KEY not in metadata:
        raise ModelFileError("it is a safetensors file, but not one of skvibe's models")
    arrays = {name: np.array(view) for name, view in views.items()}
    digest, _, text = metadata[_KEY].partition(" ")
    if digest != check_sum(text, arrays):
        raise ModelFileError("it is damaged: its check sum does not match")
    try:
        return json.loads(text), arrays
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"its description is malformed ({error})") from error


def check_sum(text, arrays):
    """SHA-256 over the description and every array with its name, type and shape."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {arrays[name].shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "Model files need safetensors: pip install safetensors."
        ) from error
    return safetensors.numpy
