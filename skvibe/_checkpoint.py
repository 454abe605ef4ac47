"""The file from which a killed fit goes on.

A checkpoint is written like a model file (`skvibe.persistence`): tensors and JSON, no
pickle, whole or not at all. Its name ends in a fingerprint of everything that the
result follows from, so a file can only ever meet the fit that it belongs to: fits of a
grid search may share one path, and another parameter is another file.
"""

import errno
import os
import secrets
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np

from skvibe._atomic_file import write_atomically
from skvibe._fingerprint import fingerprint
from skvibe._portable import Decoder, Encoder, ModelFileError
from skvibe._sealed_file import seal, unseal
from skvibe._version import __version__

_FORMAT = "skvibe checkpoint"
# Others of another version may round differently: not the same fit.
_LIBRARIES = ("numpy", "scikit-learn", "torch", "skorch")
# They say nothing about the result, or only what is done with it afterwards.
_NO_PART = {
    "checkpoint",
    "checkpoint_every",
    "device",
    "random_state",
    "refit",
    "verbose",
}
_PROBE_BLOCK = 1 << 20


def open_checkpoint(vibe, inputs, given, seeds, device, setting=None):
    """The checkpoint of a fit, read if there is one, and sure to be writable.

    Parameters
    ----------
    vibe : VIBEClassifier
        Its parameters.
    inputs : ndarray of shape (n_rows, ...)
        Rows that are trained on.
    given : ndarray of int of shape (n_rows,)
        Codes of their labels.
    seeds : list of int
        Drawn for this fit. One that is resumed keeps those it began with, which
        matters where ``random_state`` is None.
    device : torch.device
        Of the training.
    setting : dict, default=None
        Which of several trials of the fit it is.

    Returns
    -------
    Checkpoint

    Raises
    ------
    OSError
        If the directory cannot be written to, or has no room.
    ValueError
        If the file is damaged.
    """
    if vibe.checkpoint is None:
        return Checkpoint(seeds)
    follows_from = {
        "params": {
            name: value
            for name, value in vibe.get_params(deep=False).items()
            if name not in _NO_PART
        },
        "seeds": None if vibe.random_state in (None, np.random) else seeds,
        "device": device.type,
        "setting": setting,
        "versions": [__version__, *map(version, _LIBRARIES)],
        "y": given,
        "X": inputs,
    }
    mark = fingerprint(follows_from)
    wanted = Path(vibe.checkpoint)
    if wanted.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "checkpoint must name a file, which may be new", str(wanted)
        )
    path = wanted.with_name(f"{wanted.stem}-{mark[:16]}{wanted.suffix}")
    checkpoint = Checkpoint(seeds, path, vibe.checkpoint_every, mark)
    checkpoint.remove_unfinished()
    checkpoint.probe(_largest_size(vibe, given))
    checkpoint.read()
    return checkpoint


def _largest_size(vibe, given):
    """Bytes that a checkpoint will have, roughly; rather too many."""
    size = 100_000 + given.nbytes
    if vibe.pseudo_labels == "soft":
        size += 4 * given.size * (int(given.max()) + 1)
    if vibe.train_encoder:
        weights = [*vibe.encoder.parameters(), *vibe.encoder.buffers()]
        # Adam keeps two numbers more for each.
        size += 3 * sum(values.nbytes for values in weights)
    return size


class Checkpoint:
    """Where a fit keeps how far it is; without a path it keeps nothing.

    Parameters
    ----------
    seeds : list of int
        Of the fit.
    path : pathlib.Path, default=None
        The file.
    every : int
        SGD iterations from one checkpoint to the next.
    mark : str
        Fingerprint of the fit.

    Attributes
    ----------
    stage : dict or None
        What the runs so far have found; `fit_em` says what.
    warned : bool
        Whether the user knows already that files cannot be written.
    """

    def __init__(self, seeds, path=None, every=0, mark=""):
        self.seeds = seeds
        self.path = path
        self.every = every
        self.mark = mark
        self.stage: dict | None = None
        self._training: dict | None = None
        self.warned = False

    # -- what the fit does -------------------------------------------------------

    def enter(self, stage):
        """Another run begins, from what is in ``stage``."""
        self.stage = stage
        self._save(None)

    def begin_training(self):
        """State from which the net is to go on, given out once; None: its start."""
        training, self._training = self._training, None
        return training

    def is_due(self, iteration):
        """Whether the state of this iteration is to be kept."""
        return self.path is not None and iteration > 0 and iteration % self.every == 0

    def keep(self, training):
        """Write the state of a net in training, from `capture_training`."""
        self._save(training)

    def remove(self):
        """The fit is over: the file has done its work."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.remove_unfinished()

    # -- the file ----------------------------------------------------------------

    def probe(self, size):
        """Raise, before there is anything to lose, if the file could not be written.

        There must be room for two: an old one stays until the new one is whole.
        """
        trial = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}.tmp")
        try:
            with open(trial, "xb") as file:
                for _ in range(-(-2 * size // _PROBE_BLOCK)):
                    file.write(bytes(_PROBE_BLOCK))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise type(error)(
                error.errno,
                "The checkpoint cannot be written: give checkpoint a file name in a "
                f"directory that exists, is writable and has {2 * size / 1e6:.1f} MB "
                f"left, or None ({error.strerror})",
                str(self.path),
            ) from error
        finally:
            with suppress(OSError):
                trial.unlink()

    def read(self):
        """Take over what the file says, if there is one."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        try:
            content = _from_bytes(data, self.mark)
        except ModelFileError as error:
            raise ValueError(
                f"The checkpoint {str(self.path)!r} cannot be read: {error}. Delete it "
                "to begin anew."
            ) from error
        self.seeds, self.stage = content["seeds"], content["stage"]
        self._training = content["training"]

    def _save(self, training):
        if self.path is None:
            return
        content = {"seeds": self.seeds, "stage": self.stage, "training": training}
        try:
            write_atomically(self.path, _to_bytes(content, self.mark))
        except (OSError, TypeError) as error:
            # The training is worth more than its checkpoint, and the next may succeed.
            if not self.warned:
                self.warned = True
                warnings.warn(
                    f"The checkpoint {str(self.path)!r} could not be written; training "
                    f"goes on, an older checkpoint stays ({error}).",
                    UserWarning,
                    stacklevel=2,
                )

    def remove_unfinished(self):
        """Delete what fits that were killed while they wrote have left."""
        with suppress(OSError):
            for path in self.path.parent.iterdir():
                if path.name.startswith(f".{self.path.name}."):
                    path.unlink()


def _to_bytes(content, mark):
    encoder = Encoder()
    state = encoder.encode(content, "")
    return seal({"format": _FORMAT, "mark": mark, "state": state}, encoder.arrays)


def _from_bytes(data, mark):
    document, arrays = unseal(data)
    try:
        if (document["format"], document["mark"]) != (_FORMAT, mark):
            raise ModelFileError("it is not the checkpoint of this fit")
        content = Decoder(arrays, None).decode(document["state"])
        return {name: content[name] for name in ("seeds", "stage", "training")}
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"it is malformed ({error!r})") from error
