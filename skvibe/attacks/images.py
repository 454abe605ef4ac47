"""Images of any layout and pixel type, seen as NHWC floats in [0, 1]."""

from dataclasses import dataclass

import numpy as np

from skvibe._checks import check_option
from skvibe.attacks.base import BaseAttack, check_poisoned

_LAYOUTS = ("auto", "NHWC", "NCHW", "NHW")
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class ImageFormat:
    """How a batch of images is stored: its layout and its pixel type.

    uint8 pixels are in 0..255, floating pixels in [0, 1].

    Parameters
    ----------
    layout : {"NHWC", "NCHW", "NHW"}
        Order of the axes.
    dtype : dtype
        uint8 or a floating type.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.attacks.images import find_format
    >>> X = np.full((2, 3, 32, 32), 255, dtype=np.uint8)
    >>> image_format = find_format(X)
    >>> image_format.layout, image_format.to_unit(X).shape
    ('NCHW', (2, 32, 32, 3))
    """

    layout: str
    dtype: np.dtype

    def to_unit(self, X):
        """Copy as floats in [0, 1] of shape (n, height, width, channels)."""
        kept = self.dtype in (np.float32, np.float64)
        images = X.astype(self.dtype if kept else np.float32)
        if self.dtype == np.uint8:
            images /= 255
        if self.layout == "NHW":
            return images[..., None]
        return np.moveaxis(images, 1, -1) if self.layout == "NCHW" else images

    def from_unit(self, images):
        """The inverse of ``to_unit``; clips to the range and rounds uint8 pixels."""
        images = np.clip(images, 0, 1)
        if self.layout == "NHW":
            images = images[..., 0]
        elif self.layout == "NCHW":
            images = np.moveaxis(images, -1, 1)
        if self.dtype == np.uint8:
            images = np.rint(images * 255)
        return images.astype(self.dtype)


def find_format(X, layout="auto"):
    """Find the layout of a batch of images and check its pixels.

    Parameters
    ----------
    X : ndarray of shape (n, h, w, c), (n, c, h, w) or (n, h, w)
        Images, uint8 in 0..255 or floating in [0, 1].
    layout : {"auto", "NHWC", "NCHW", "NHW"}, default="auto"
        "auto" takes three axes for NHW and looks for the axis of 1, 3 or 4 channels
        among four, the last axis first.

    Returns
    -------
    ImageFormat
        Layout and pixel type.

    Raises
    ------
    ValueError
        If the layout is not clear, or the pixels are of another type or range.
    """
    check_option("layout", layout, _LAYOUTS)
    if layout == "auto":
        layout = _guess_layout(X.shape)
    if X.ndim != len(layout):
        raise ValueError(
            f"layout={layout!r} needs {len(layout)} axes, X has shape {X.shape}."
        )
    if X.dtype != np.uint8:
        if X.dtype.kind != "f":
            raise ValueError(
                f"X must hold uint8 pixels in 0..255 or floating ones in [0, 1], got "
                f"{X.dtype}: convert it with astype."
            )
        if X.size and not (X.min() >= 0 and X.max() <= 1):
            raise ValueError(
                "X holds floating pixels outside [0, 1] (or NaN): divide by the "
                "greatest value first, and normalise after the attack."
            )
    return ImageFormat(layout, X.dtype)


def _guess_layout(shape):
    if len(shape) == 3:
        return "NHW"
    if len(shape) == 4 and shape[-1] in _CHANNELS:
        return "NHWC"
    if len(shape) == 4 and shape[1] in _CHANNELS:
        return "NCHW"
    raise ValueError(
        f"X of shape {shape} is not a batch of images: give (n, h, w), (n, h, w, c) or "
        "(n, c, h, w), and layout where the number of channels is not 1, 3 or 4."
    )


class ImageAttack(BaseAttack):
    """An attack on images: subclasses see NHWC floats in [0, 1]."""

    def trigger(self, X):
        """Plant the trigger of the last ``poison`` in every image.

        Parameters
        ----------
        X : ndarray of shape (n, h, w, c), (n, c, h, w) or (n, h, w)
            Images of the size that was poisoned. Left untouched.

        Returns
        -------
        ndarray of the shape and type of X
            Triggered copies.

        Raises
        ------
        NotFittedError
            If ``poison`` was not called before.
        ValueError
            If the images are of another size than the poisoned ones.
        """
        return self._on_unit(X, self._stamp)

    def _on_unit(self, X, function):
        check_poisoned(self, "image_shape_")
        X = self._check_rows(X)
        image_format = find_format(X, self.layout)
        images = image_format.to_unit(X)
        if images.shape[1:] != self.image_shape_:
            raise ValueError(
                f"The trigger was made for images of shape {self.image_shape_} (height,"
                f" width, channels), X holds {images.shape[1:]}."
            )
        return image_format.from_unit(function(images))

    def _check_rows(self, X):
        return np.asarray(X)

    def _learn_trigger(self, X, y, rng):
        image_format = find_format(X, self.layout)
        self.image_shape_ = image_format.to_unit(X[:1]).shape[1:]
        self._learn_pattern(X, y, rng)

    def _learn_pattern(self, X, y, rng):
        """Set the attributes that ``_stamp`` reads."""

    def _unit(self, X):
        return find_format(X, self.layout).to_unit(X)

    def _plant(self, X, labels, rng):
        return self._on_unit(X, lambda images: self._stamp_train(images, labels, rng))

    def _plant_cover(self, X, rng):
        return self._on_unit(X, lambda images: self._stamp_cover(images, rng))

    def _stamp(self, images):
        """Triggered copy of NHWC images, as at test time."""
        raise NotImplementedError

    def _stamp_train(self, images, labels, rng):
        """Poisoned copy of training images that get the given labels."""
        return self._stamp(images)

    def _stamp_cover(self, images, rng):
        return self._stamp(images)


def check_unit_array(name, value):
    """Return ``value`` as a float array, or say that it must be in [0, 1]."""
    value = np.asarray(value)
    if value.dtype == np.uint8:
        value = value / 255
    if value.dtype.kind not in "fiu" or not (value.min() >= 0 and value.max() <= 1):
        raise ValueError(
            f"{name} must hold pixels in [0, 1] (or uint8 in 0..255): rescale it."
        )
    return value.astype(float)
