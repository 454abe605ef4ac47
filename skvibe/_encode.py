"""Run a user's encoder over rows, without changing it."""

import sys

import numpy as np

from skvibe._removed_rows import float_dtype

_BATCH_ROWS = 256


def encode_rows(encoder, X, batch_rows=_BATCH_ROWS):
    """Features of the rows of ``X``, batch by batch.

    Parameters
    ----------
    encoder : torch.nn.Module, object with ``transform``, or callable
        Maps a batch of rows to an array or tensor with as many rows. A module runs
        in evaluation mode, without gradients, on the device of its parameters; its
        mode is restored. An object with ``transform`` must be fitted.
    X : ndarray of shape (n_samples, ...)
        Rows; passed on as float32 or float64.
    batch_rows : int, default=256
        Rows of a batch.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        Trailing dimensions of the encoder's output are flattened.
    """
    encode, restore = _open_encoder(encoder)
    try:
        parts = []
        for start in range(0, len(X), batch_rows):
            batch = X[start : start + batch_rows]
            # A copy: an encoder may work in place.
            part = np.asarray(encode(batch.astype(float_dtype(batch.dtype))))
            if part.ndim == 0 or len(part) != len(batch) or part.size == 0:
                raise ValueError(
                    f"encoder must return one row per row given: {len(batch)} rows in, "
                    f"shape {part.shape} out."
                )
            if part.dtype.kind not in "fiub":
                raise TypeError(f"encoder must return numbers, got {part.dtype}.")
            parts.append(part.reshape(len(part), -1))
    finally:
        restore()
    features = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise ValueError(
            "encoder returned NaN or infinity for some rows: check its weights and "
            "the scale of X."
        )
    return features.astype(float_dtype(features.dtype), copy=False)


def _open_encoder(encoder):
    """A function from a batch to an array, and one that puts the encoder back."""
    # Only if torch is loaded can the encoder be one of its modules.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(encoder, torch.nn.Module):
        return _open_module(encoder, torch)
    if hasattr(encoder, "transform"):
        return encoder.transform, lambda: None
    if callable(encoder):
        return encoder, lambda: None
    raise TypeError(
        "encoder must be a torch.nn.Module, a fitted object with transform, a callable "
        f"or None; got {encoder!r}."
    )


def _open_module(module, torch):
    modes = [(part, part.training) for part in module.modules()]
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)

    def encode(batch):
        # A copy: the batch may be a read-only memory map.
        rows = torch.tensor(batch)
        if weight is not None:
            rows = rows.to(weight.device, weight.dtype)
        with torch.no_grad():
            output = module(rows)
        if not isinstance(output, torch.Tensor) or output.is_complex():
            raise TypeError(
                "encoder must return a tensor of real features, got "
                f"{type(output).__name__}."
            )
        return output.float().cpu().numpy()

    def restore():
        for part, training in modes:
            part.training = training

    module.eval()
    return encode, restore
