"""VGG-11 with batch norm."""

import torch

from skvibe.encoders.image_input import ImageInput

_STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))


class VGG11(torch.nn.Module):
    """VGG-11 with batch norm [1]_, without its classifier.

    Parameters
    ----------
    in_channels : int, default=3
        Channels of the images.
    width : int, default=64
        Channels of the first stage; the last has 8 times as many.
    **input_params
        Of `ImageInput`.

    Attributes
    ----------
    n_features_out : int
        ``8 * width``.

    Notes
    -----
    Images need at least 32 pixels a side. Weights are named as in torchvision's
    ``vgg11_bn``, so its weights load with ``strict=False``.

    References
    ----------
    .. [1] K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for
       Large-Scale Image Recognition", ICLR 2015, arXiv:1409.1556.

    Examples
    --------
    >>> import torch
    >>> from skvibe.encoders import VGG11
    >>> VGG11(width=4)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 32])
    """

    def __init__(self, in_channels=3, *, width=64, **input_params):
        super().__init__()
        self.input = ImageInput(in_channels, **input_params)
        layers, channels = [], in_channels
        for stage in _STAGES:
            for factor in stage:
                layers += [
                    torch.nn.Conv2d(channels, factor * width, 3, padding=1),
                    torch.nn.BatchNorm2d(factor * width),
                    torch.nn.ReLU(inplace=True),
                ]
                channels = factor * width
            layers.append(torch.nn.MaxPool2d(2))
        self.features = torch.nn.Sequential(*layers)
        self.n_features_out = channels

    def forward(self, images):
        """Feature vectors of shape (n, n_features_out)."""
        return self.features(self.input(images)).mean(dim=(2, 3))
