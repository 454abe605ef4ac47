"""From pixels as people keep them to what a convolution wants.

Images come as uint8 in 0..255 or float in [0, 1], channels first or last, and uint8
images may have become floats in 0..255 on their way (a filter writes NaN into removed
rows). All encoders here start with `ImageInput`, so all of these mean the same.
"""

import torch

# A float batch whose largest pixel is above this counts in 0..255.
_UNIT_LIMIT = 2.0


class PixelMax(torch.nn.Module):
    """The value of a white pixel.

    Parameters
    ----------
    pixel_max : "auto" or float, default="auto"
        "auto": 255 for integer images. For floats the first batch ever seen decides
        between 1 and 255, once and for all (it is kept with the weights); integers
        decide for 255.

    Examples
    --------
    >>> import torch
    >>> from skvibe.encoders.image_input import PixelMax
    >>> float(PixelMax()(torch.tensor([[0.0, 180.0]])))
    255.0
    """

    value: torch.Tensor

    def __init__(self, pixel_max="auto"):
        super().__init__()
        known = 0.0 if pixel_max == "auto" else float(pixel_max)
        self.register_buffer("value", torch.tensor(known))

    def forward(self, images):
        """White of a batch, a tensor without axes."""
        integer = not images.is_floating_point()
        if not self._known:
            unit = images.detach().max() <= _UNIT_LIMIT
            self.value.copy_(torch.where(unit & (not integer), 1.0, 255.0))
        return torch.full_like(self.value, 255.0) if integer else self.value

    @property
    def _known(self):
        # Reading a buffer on a GPU makes the CPU wait, so the answer is remembered.
        if not self.__dict__.get("_is_known"):
            self.__dict__["_is_known"] = bool(self.value > 0)
        return self.__dict__["_is_known"]


class ImageInput(torch.nn.Module):
    """First layer of an encoder: float, channels first, standardised.

    Parameters
    ----------
    in_channels : int, default=3
        Channels of the images. Images of shape (n, height, width) have one.
    pixel_max : "auto" or float, default="auto"
        Value of a white pixel; see `PixelMax`.
    mean, std : float or sequence of in_channels floats, default=0.5 and 0.25
        Subtracted and divided by, for pixels in [0, 1].

    Examples
    --------
    >>> import torch
    >>> from skvibe.encoders import ImageInput
    >>> images = torch.full((2, 8, 8, 3), 255, dtype=torch.uint8)
    >>> ImageInput()(images).shape, float(ImageInput()(images).max())
    (torch.Size([2, 3, 8, 8]), 2.0)
    """

    def __init__(self, in_channels=3, *, pixel_max="auto", mean=0.5, std=0.25):
        super().__init__()
        self.in_channels = in_channels
        self.pixel_max = PixelMax(pixel_max)
        self.register_buffer("mean", _per_channel(mean, in_channels))
        self.register_buffer("std", _per_channel(std, in_channels))

    def forward(self, images):
        """Standardised images of shape (n, in_channels, height, width)."""
        images = channels_first(images, self.in_channels)
        white = self.pixel_max(images)
        return (images.to(self.mean.dtype) / white - self.mean) / self.std


def channels_first(images, in_channels):
    """View of images as (n, in_channels, height, width).

    Parameters
    ----------
    images : torch.Tensor of shape (n, height, width[, in_channels]) or \
(n, in_channels, height, width)
        Where both readings fit, the channels are taken to come first.
    in_channels : int
        Number of channels.

    Returns
    -------
    torch.Tensor of shape (n, in_channels, height, width)
        No copy. Channels-last images stay so in memory, which convolutions like.

    Raises
    ------
    ValueError
        If no axis has `in_channels` entries where channels may be.

    Examples
    --------
    >>> import torch
    >>> from skvibe.encoders.image_input import channels_first
    >>> channels_first(torch.zeros(5, 8, 9, 3), 3).shape
    torch.Size([5, 3, 8, 9])
    """
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim == 4 and images.shape[1] == in_channels:
        return images
    if images.ndim == 4 and images.shape[3] == in_channels:
        return images.permute(0, 3, 1, 2)
    raise ValueError(
        f"The encoder takes images of {in_channels} channel(s), of shape (n, height, "
        f"width, {in_channels}) or (n, {in_channels}, height, width); got "
        f"{tuple(images.shape)}. Set in_channels of the encoder to fit."
    )


def _per_channel(values, in_channels):
    values = torch.as_tensor(values, dtype=torch.float32)
    return values.expand(in_channels).clone()[:, None, None]
