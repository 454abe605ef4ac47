"""Fitted estimators in files that cannot run code.

A model file is one safetensors file: arrays and weights as tensors, everything else
as JSON in its header. Nothing in it is pickled. Reading one builds only the classes on
a fixed list and fills them with data, so a file from a stranger may hold a bad model
but no program. It may still be a *poisoned model*: a check sum guards against damage,
not against malice.
"""

import functools
import platform
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sklearn.base import BaseEstimator

from skvibe._atomic_file import write_atomically
from skvibe._portable import Decoder, Encoder, ModelFileError
from skvibe._sealed_file import seal, unseal
from skvibe._version import __version__

__all__ = ["ModelFileError", "load", "save"]

FORMAT = "skvibe model"
FORMAT_VERSION = 1
_LIBRARIES = ("scikit-learn", "numpy", "torch", "skorch")


def save(estimator, path):
    """Write an estimator, or a Pipeline of them, to a model file.

    The file appears whole or not at all: it is written under another name and then
    renamed, so an older file of the same name survives a crash or a full disk. It
    holds the parameters, weights, scores and labels, but no training row. A
    Pipeline's ``memory`` and a ``checkpoint`` path are left out.

    Parameters
    ----------
    estimator : estimator
        `VIBEClassifier`, the filters, `SelfSupervisedEncoder`, or a Pipeline of these
        and of scikit-learn's common scalers and maps; fitted or not.
    path : str or path-like
        File to write; its directory must exist.

    Raises
    ------
    TypeError
        If the estimator holds something that cannot be stored without code, such as
        callbacks or a class that is not on the list.
    OSError
        If the file cannot be written; an older one is then untouched.

    See Also
    --------
    load : Read a model file.

    Notes
    -----
    The weights of an encoder of `skvibe.encoders` are stored with what is needed to
    build it. Of any other module the weights alone are stored, and of other encoders
    nothing: give them again to `load`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import skvibe.persistence
    >>> from skvibe import VIBEClassifier
    >>> from skvibe.datasets import load_poisoned_digits
    >>> data = load_poisoned_digits(random_state=0)
    >>> vibe = VIBEClassifier(max_iter=50, random_state=0).fit(data.X, data.y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "digits.skvibe"
    ...     skvibe.persistence.save(vibe, path)
    ...     loaded = skvibe.persistence.load(path)
    >>> proba = vibe.predict_proba(data.X_test)
    >>> bool((loaded.predict_proba(data.X_test) == proba).all())
    True
    """
    write_atomically(path, dumps(estimator))


def load(path, *, device=None, encoder=None):
    """Read a model file written by `save`.

    Parameters
    ----------
    path : str or path-like
        Model file.
    device : str or torch.device, default=None
        Where encoders go; also becomes the ``device`` parameter. None: the CPU,
        whatever the model was trained on, and the parameter stays as it was.
    encoder : torch.nn.Module, callable or dict, default=None
        The encoder, if it is not one of `skvibe.encoders`; its weights are replaced
        by those in the file, in a copy. A dict gives one for each parameter name,
        such as ``{"vibe__encoder": module}``.

    Returns
    -------
    estimator
        Predicts and scores bit for bit as the one that was saved.

    Raises
    ------
    ModelFileError
        If the file is damaged, is no model file, was written by a newer version, or
        asks for anything but data and known classes.
    OSError
        If the file cannot be read.

    Warns
    -----
    UserWarning
        If the file was written with another version of scikit-learn.
    """
    data = Path(path).read_bytes()
    try:
        estimator = loads(data, encoder=encoder)
    except ModelFileError as error:
        raise ModelFileError(f"{str(path)!r} cannot be loaded: {error}.") from error
    if device is not None:
        _move(estimator, device)
    return estimator


def dumps(estimator):
    """Bytes of the model file of an estimator; see `save`.

    Parameters
    ----------
    estimator : estimator
        As in `save`.

    Returns
    -------
    bytes
    """
    encoder = Encoder()
    model = encoder.encode(estimator, "")
    if not isinstance(model, dict) or model.get("is") != "estimator":
        raise TypeError(
            f"save takes an estimator of skvibe or a Pipeline of them, got "
            f"{type(estimator).__name__}."
        )
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": _versions(),
        "model": model,
    }
    return seal(document, encoder.arrays)


def loads(data, *, encoder=None):
    """Estimator from the bytes of a model file; see `load`.

    Parameters
    ----------
    data : bytes
        From `dumps` or a file.
    encoder : torch.nn.Module, callable or dict, default=None
        As in `load`.

    Returns
    -------
    estimator

    Raises
    ------
    ModelFileError
        As in `load`.
    """
    document, arrays = unseal(data)
    _check_document(document)
    try:
        estimator = Decoder(arrays, encoder).decode(document["model"])
    except ModelFileError:
        raise
    except Exception as error:
        # Whatever a malformed file makes a constructor raise: it is the file's fault.
        raise ModelFileError(
            f"it is damaged or malformed ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(estimator, BaseEstimator):
        raise ModelFileError("it holds no estimator")
    return estimator


def _check_document(document):
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ModelFileError("it is not one of skvibe's models")
    format_version = document.get("format_version")
    if not isinstance(format_version, int) or format_version < 1:
        raise ModelFileError(f"its format version is {format_version!r}")
    versions = document.get("versions")
    if not isinstance(versions, dict) or "model" not in document:
        raise ModelFileError("parts of its description are missing")
    if format_version > FORMAT_VERSION:
        raise ModelFileError(
            f"it was written by skvibe {versions.get('skvibe')}, in format "
            f"{format_version}; this is skvibe {__version__}, which reads formats up "
            f"to {FORMAT_VERSION}. Upgrade skvibe"
        )
    ours, theirs = _versions()["scikit-learn"], versions.get("scikit-learn")
    if ours != theirs:
        warnings.warn(
            f"The model was saved with scikit-learn {theirs} and this is {ours}: "
            "steps of scikit-learn may behave differently.",
            UserWarning,
            stacklevel=4,
        )


@functools.cache
def _versions():
    found: dict[str, str | None] = {
        "skvibe": __version__,
        "python": platform.python_version(),
    }
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = None
    return found


def _move(estimator, device):
    """Put the encoders of an estimator and of its steps on a device."""
    import torch

    from skvibe._device import resolve_device

    resolved = resolve_device(device)
    for part in _parts(estimator):
        for value in vars(part).values():
            if isinstance(value, torch.nn.Module):
                value.to(resolved)
        if "device" in part.get_params(deep=False):
            part.device = device
        if hasattr(part, "net_"):
            part.net_.module_.to(resolved)
            part.net_.device = resolved


def _parts(estimator):
    """The estimator and all those inside it."""
    yield estimator
    for _, step in getattr(estimator, "steps", ()):
        if hasattr(step, "get_params"):
            yield from _parts(step)
