"""Small pictures of training images, as data addresses a page can hold."""

import base64
import io

import numpy as np

_LARGEST = 64
_SMALL = 32
# Pillow goes by content, not by name, and hands PostScript to an external program.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def thumbnail(image):
    """An image as a data address, at most 64 pixels on a side.

    Parameters
    ----------
    image : array, PIL image or path
        Arrays have the shape (height, width), (height, width, channels) or
        (channels, height, width) with 1, 3 or 4 channels; floats are in [0, 1],
        integers in [0, 255]. Files are BMP, GIF, JPEG, PNG, PPM, TIFF or WebP.

    Returns
    -------
    str
        ``data:image/png;base64,...``, or JPEG for larger colour images.

    Raises
    ------
    ImportError
        If pillow is not installed.
    ValueError
        If an array has another shape.
    OSError
        If a file cannot be read or is of another format.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.report.thumbnails import thumbnail
    >>> thumbnail(np.zeros((8, 8)))[:22]
    'data:image/png;base64,'
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "Thumbnails need pillow, which is not installed: pip install "
            "'skvibe[plot]' pillow, or leave out images."
        ) from error
    if hasattr(image, "thumbnail"):
        picture = image.copy()
    elif hasattr(image, "__array__"):
        picture = Image.fromarray(_pixels(np.asarray(image)))
    else:
        with Image.open(image, formats=IMAGE_FORMATS) as opened:
            picture = opened.copy()
    picture.thumbnail((_LARGEST, _LARGEST))
    photo = max(picture.size) > _SMALL and picture.mode == "RGB"
    kind, options = ("jpeg", {"quality": 80}) if photo else ("png", {"optimize": True})
    if picture.mode not in ("L", "LA", "RGB", "RGBA"):
        picture = picture.convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _pixels(array):
    """uint8 pixels, channels last, grey ones without a channel."""
    if (
        array.ndim == 3
        and array.shape[-1] not in (1, 3, 4)
        and array.shape[0] in (1, 3, 4)
    ):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[-1] in (3, 4)):
        raise ValueError(
            "An image must have shape (height, width), (height, width, channels) or "
            f"(channels, height, width) with 1, 3 or 4 channels; got {array.shape}."
        )
    if array.dtype.kind == "f":
        array = 255 * np.nan_to_num(array)
    elif array.dtype.kind == "b":
        array = 255 * array.astype(np.uint8)
    return np.clip(np.rint(array), 0, 255).astype(np.uint8)
