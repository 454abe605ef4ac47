"""Random views of images, a whole batch at a time on the device, by kornia.

Augmentations here take images as `ImageInput` does (any layout, uint8 or float, in
0..1 or 0..255) and give float images, channels first, *in the range they came in*, so
that an encoder reads both alike. Random numbers are torch's global ones.
"""

import math

import torch

from skvibe._checks import check_real
from skvibe.encoders.image_input import PixelMax, channels_first


class Augmentation(torch.nn.Module):
    """Base: applies ``build(height, width)``, made once per image size.

    Parameters
    ----------
    in_channels : int, default=3
        Channels of the images.
    pixel_max : "auto" or float, default="auto"
        Value of a white pixel; see `skvibe.encoders.image_input.PixelMax`.
    """

    def __init__(self, in_channels=3, *, pixel_max="auto"):
        super().__init__()
        self.in_channels = in_channels
        self.pixel_max = PixelMax(pixel_max)
        self._steps = {}

    def build(self, height, width):
        """The kornia module for images of one size."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images):
        """Augmented images, float, (n, in_channels, height, width)."""
        images = channels_first(images, self.in_channels)
        white = self.pixel_max(images)
        size = tuple(images.shape[2:])
        if size not in self._steps:
            self._steps[size] = self.build(*size)
        # Half precision would be too coarse for the sampling grids.
        with torch.autocast(images.device.type, enabled=False):
            return self._steps[size](images.float() / white) * white


class CropFlip(Augmentation):
    """Shift by a few pixels and mirror: the usual augmentation of small images.

    Parameters
    ----------
    in_channels : int, default=3
        Channels of the images.
    padding : float in [0, 0.5], default=0.125
        Largest shift as a share of the side (4 pixels of 32), zeros beyond the border.
    flip : bool, default=True
        Mirror left to right every second time. Not for digits or text.
    pixel_max : "auto" or float, default="auto"
        Value of a white pixel.

    Examples
    --------
    >>> import torch
    >>> from skvibe.encoders import CropFlip
    >>> CropFlip()(torch.zeros(4, 32, 32, 3, dtype=torch.uint8)).shape
    torch.Size([4, 3, 32, 32])
    """

    def __init__(self, in_channels=3, *, padding=0.125, flip=True, pixel_max="auto"):
        super().__init__(in_channels, pixel_max=pixel_max)
        self.padding = check_real("padding", padding, 0, 0.5)
        self.flip = flip

    def build(self, height, width):
        kornia = _import_kornia()
        rows, columns = round(self.padding * height), round(self.padding * width)
        steps = [kornia.RandomCrop((height, width), padding=(rows, columns))]
        if self.flip:
            steps.append(kornia.RandomHorizontalFlip())
        return torch.nn.Sequential(*steps)


class SimCLRAugmentation(Augmentation):
    """The random views of SimCLR [1]_: zoomed crop, mirror, colours, grey.

    Parameters
    ----------
    in_channels : int, default=3
        Channels of the images. Colours are changed only with 3.
    min_area : float in (0, 1], default=0.2
        Least share of the image that a crop shows. Where a crop might be a single row
        of pixels, images are not cropped.
    flip : bool, default=True
        Mirror left to right every second time. Not for digits or text.
    colour : float in [0, 1], default=0.5
        Strength of the colour change; 0 leaves colours alone.
    grey : float in [0, 1], default=0.2
        Share of the images that lose their colours.
    pixel_max : "auto" or float, default="auto"
        Value of a white pixel.

    References
    ----------
    .. [1] T. Chen, S. Kornblith, M. Norouzi and G. Hinton, "A Simple Framework for
       Contrastive Learning of Visual Representations", ICML 2020, appendix A,
       arXiv:2002.05709.

    Examples
    --------
    >>> import torch
    >>> from skvibe.encoders import SimCLRAugmentation
    >>> view = SimCLRAugmentation()(torch.rand(4, 3, 16, 16))
    >>> view.shape, bool(view.min() >= 0), bool(view.max() <= 1)
    (torch.Size([4, 3, 16, 16]), True, True)
    """

    def __init__(
        self,
        in_channels=3,
        *,
        min_area=0.2,
        flip=True,
        colour=0.5,
        grey=0.2,
        pixel_max="auto",
    ):
        super().__init__(in_channels, pixel_max=pixel_max)
        self.min_area = check_real("min_area", min_area, 0, 1, closed="(]")
        self.colour = check_real("colour", colour, 0, 1)
        self.grey = check_real("grey", grey, 0, 1)
        self.flip = flip

    def build(self, height, width):
        kornia = _import_kornia()
        steps = []
        # Shortest side of a crop, of the narrowest shape that kornia draws (3 : 4). A
        # single row of pixels has no four corners to be stretched from.
        shortest = math.sqrt(0.75 * self.min_area * height * width)
        if min(height, width, shortest) >= 2:
            size = (height, width)
            steps.append(kornia.RandomResizedCrop(size, scale=(self.min_area, 1.0)))
        if self.flip:
            steps.append(kornia.RandomHorizontalFlip())
        if self.in_channels == 3 and self.colour > 0:
            light, hue = 0.8 * self.colour, 0.2 * self.colour
            steps.append(kornia.ColorJitter(light, light, light, hue, p=0.8))
        if self.in_channels == 3 and self.grey > 0:
            steps.append(kornia.RandomGrayscale(p=self.grey))
        return torch.nn.Sequential(*steps)


def _import_kornia():
    try:
        import kornia.augmentation
    except ImportError as error:
        raise ImportError(
            "Augmentations need kornia: pip install 'skvibe[images]', or pass your own "
            "module as augment."
        ) from error
    return kornia.augmentation
