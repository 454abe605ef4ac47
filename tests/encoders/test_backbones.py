"""ResNet-18, VGG-11 and the small net: shapes, names, seeds."""

import pickle

import pytest
import torch

from skvibe.encoders import VGG11, ResNet18, SmallConvNet, make_encoder


@pytest.mark.parametrize(
    ("encoder", "side", "n_features"),
    [
        (SmallConvNet(width=8), 16, 32),
        (SmallConvNet(width=4, n_stages=2), 3, 8),
        (ResNet18(width=4), 8, 32),
        (ResNet18(width=4, stem="imagenet"), 64, 32),
        (VGG11(width=4), 32, 32),
    ],
)
def test_features_and_gradients(encoder, side, n_features):
    images = torch.randint(0, 256, (3, side, side, 3), dtype=torch.uint8)
    features = encoder(images)
    assert features.shape == (3, n_features) == (3, encoder.n_features_out)
    features.square().sum().backward()
    assert all(weight.grad is not None for weight in encoder.parameters())


def test_sizes_are_those_of_the_papers():
    # without classifiers: 11,168,832 + 5,120 - 5,120 (ResNet-18 with a 3 x 3 stem)
    assert sum(weight.numel() for weight in ResNet18().parameters()) == 11_168_832
    convolutions = [m for m in VGG11().modules() if isinstance(m, torch.nn.Conv2d)]
    widths = [conv.out_channels for conv in convolutions]
    assert widths == [64, 128, 256, 256, 512, 512, 512, 512]
    assert ResNet18().n_features_out == VGG11().n_features_out == 512


def test_resnet_weights_are_named_as_everywhere():
    names = set(ResNet18(width=4).state_dict())
    usual = {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.1.weight"}
    usual |= {"layer4.1.conv2.weight", "layer1.0.bn2.bias"}
    assert usual <= names


def test_cifar_stem_keeps_the_resolution():
    encoder = ResNet18(width=4)
    assert encoder.conv1.stride == (1, 1)
    assert encoder.conv1.kernel_size == (3, 3)
    with pytest.raises(ValueError, match="stem must be one of"):
        ResNet18(stem="none")


@pytest.mark.parametrize("name", ["small", "resnet18", "vgg11"])
def test_make_encoder_depends_on_the_seed_alone(name):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = make_encoder(name, random_state=0, width=4)
    torch.rand(3)
    second = make_encoder(name, random_state=0, width=4)
    other = make_encoder(name, random_state=1, width=4)
    weights = [next(made.parameters()) for made in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.set_rng_state(before)
    make_encoder(name, random_state=0, width=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_make_encoder_copies_modules_and_knows_its_names():
    module = SmallConvNet(width=4)
    assert make_encoder(module) is not module
    with pytest.raises(ValueError, match="encoder must be one of 'resnet18'"):
        make_encoder("resnet50")


def test_encoders_pickle():
    encoder = SmallConvNet(width=4).eval()
    images = torch.rand(2, 3, 8, 8)
    again = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(again(images), encoder(images))
