"""ResNet-18, with the stem for small images."""

import torch
from torch import nn

from skvibe._checks import check_option
from skvibe.encoders.image_input import ImageInput


class ResNet18(nn.Module):
    """ResNet-18 [1]_ without its classifier.

    Parameters
    ----------
    in_channels : int, default=3
        Channels of the images.
    stem : {"cifar", "imagenet"}, default="cifar"
        "cifar": one 3 x 3 convolution, for images of 32 to 64 pixels. "imagenet": 7 x 7
        with stride 2, then pooling.
    width : int, default=64
        Channels of the first stage; the last has 8 times as many.
    **input_params
        Of `ImageInput`.

    Attributes
    ----------
    n_features_out : int
        ``8 * width``, 512 by default.

    Notes
    -----
    Weights are named as in torchvision's ``resnet18`` (without ``fc``), as are those of
    the self-supervised libraries that build on it, so that their weights load:
    ``encoder.load_state_dict(weights, strict=False)``.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual Learning for Image
       Recognition", CVPR 2016, doi:10.1109/CVPR.2016.90.

    Examples
    --------
    >>> import torch
    >>> from skvibe.encoders import ResNet18
    >>> ResNet18(width=4)(torch.rand(2, 3, 16, 16)).shape
    torch.Size([2, 32])
    """

    def __init__(self, in_channels=3, *, stem="cifar", width=64, **input_params):
        super().__init__()
        check_option("stem", stem, ("cifar", "imagenet"))
        self.input = ImageInput(in_channels, **input_params)
        small = stem == "cifar"
        size, stride, padding = (3, 1, 1) if small else (7, 2, 3)
        self.conv1 = nn.Conv2d(in_channels, width, size, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.layer1 = _stage(width, width, 1)
        self.layer2 = _stage(width, 2 * width, 2)
        self.layer3 = _stage(2 * width, 4 * width, 2)
        self.layer4 = _stage(4 * width, 8 * width, 2)
        self.n_features_out = 8 * width
        _initialise(self)

    def forward(self, images):
        """Feature vectors of shape (n, n_features_out)."""
        out = self.pool(torch.relu(self.bn1(self.conv1(self.input(images)))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = stage(out)
        return out.mean(dim=(2, 3))


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a way around them."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        around = x if self.downsample is None else self.downsample(x)
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + around)


def _stage(channels, out, stride):
    return nn.Sequential(_Block(channels, out, stride), _Block(out, out, 1))


def _initialise(module):
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
