"""Encoders by name, with weights drawn from a seed."""

import copy

import torch

from skvibe._checks import check_option
from skvibe.encoders.resnet import ResNet18
from skvibe.encoders.small import SmallConvNet
from skvibe.encoders.vgg import VGG11

_BY_NAME = {"resnet18": ResNet18, "small": SmallConvNet, "vgg11": VGG11}


def make_encoder(name, *, random_state=None, **params):
    """An untrained encoder whose weights depend on a seed alone.

    Parameters
    ----------
    name : {"resnet18", "small", "vgg11"} or torch.nn.Module
        A module is copied as it is.
    random_state : int or None, default=None
        Seed of the weights. torch's global random state is left as it was.
    **params
        Of the encoder's class, such as ``in_channels`` and ``width``.

    Returns
    -------
    torch.nn.Module
        Maps images to vectors.

    Raises
    ------
    ValueError
        If there is no encoder of that name.

    Examples
    --------
    >>> import torch
    >>> from skvibe.encoders import make_encoder
    >>> one, two = (make_encoder("small", random_state=0) for _ in range(2))
    >>> torch.equal(next(one.parameters()), next(two.parameters()))
    True
    """
    if isinstance(name, torch.nn.Module):
        return copy.deepcopy(name)
    check_option("encoder", name, tuple(_BY_NAME))
    # Weights are drawn on the CPU, so GPU generators need no care.
    with torch.random.fork_rng(devices=[]):
        if random_state is None:
            torch.seed()
        else:
            torch.manual_seed(random_state)
        return _BY_NAME[name](**params)
