"""What the frozen encoders share: batches, progress, cache, light pickles."""

import copy
from pathlib import Path

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted, check_memory

from skvibe._checks import check_integer
from skvibe._device import resolve_device
from skvibe._progress import Progress


class FrozenEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base of the transformers that run a pretrained model and never train it.

    A subclass says how the model is loaded (`_load`), how a batch is embedded
    (`_embed_batch`), how input is checked (`_validate`) and what the embeddings depend
    on (`_settings`).
    """

    def fit(self, X, y=None):
        """Load the model and check that it takes such rows; nothing is learned.

        Parameters
        ----------
        X : array-like
            Rows of the kind that `transform` takes.
        y : ignored
            Labels are never read.

        Returns
        -------
        self
            The same object.
        """
        check_integer("batch_size", self.batch_size, 1)
        rows = self._validate(X, fitting=True)
        self._n_features_out = self._embed(rows[:1]).shape[1]
        return self

    def transform(self, X):
        """Embed rows.

        Parameters
        ----------
        X : array-like
            Rows of the kind seen in `fit`.

        Returns
        -------
        ndarray of float32 of shape (n_samples, n_features_out)
            Feature vectors.
        """
        check_is_fitted(self)
        rows = self._validate(X, fitting=False)
        is_path = isinstance(self.memory, Path)
        memory = check_memory(str(self.memory) if is_path else self.memory)
        cached = memory.cache(_embed_rows, ignore=["encoder"])
        return cached(self, rows, self._settings())

    def _embed(self, rows):
        """Batch by batch, on the device."""
        model, blocks = self._loaded(), []
        progress = Progress("embedding", len(rows), self.verbose > 0)
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            blocks.append(self._embed_batch(model, batch))
            progress.update(start + len(batch))
        return np.concatenate(blocks)

    def _loaded(self):
        """The model, loaded at most once, on its device."""
        if self.__dict__.get("_model") is None:
            self._model = self._load(resolve_device(self.device))
        return self._model

    def _settings(self):
        """What the embeddings depend on besides the rows; part of the cache's key."""
        return {"model": str(self.model), "files": _files_of(self.model)}

    def __getstate__(self):
        state = super().__getstate__().copy()
        if not self.keep_weights:
            state.pop("_model", None)
        elif state.get("_model") is not None:
            # Weights pickled on a GPU would not load without one.
            state["_model"] = copy.deepcopy(state["_model"]).to("cpu")
        return state

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_n_features_out")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.sparse = False
        tags.requires_fit = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _embed_rows(encoder, rows, settings):
    """The cached part: depends on ``rows`` and ``settings`` only."""
    return encoder._embed(rows)


def _files_of(model):
    """Sizes and times of a local model's files: another model may take its place."""
    folder = Path(model)
    if not folder.is_dir():
        return []
    return [
        (str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]


def half_type(choice, device):
    """dtype of the weights: bfloat16 if chosen or, by "auto", where GPUs have it."""
    from skvibe.encoders._half import use_bfloat16

    return torch.bfloat16 if use_bfloat16(choice, device) else torch.float32
