"""All the ways in which pixels are kept mean the same to an encoder."""

import copy

import numpy as np
import pytest
import torch

from skvibe.encoders.image_input import ImageInput, PixelMax, channels_first


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8))


def test_layouts_and_types_give_the_same(images):
    expected = ImageInput()(images)
    assert expected.shape == (4, 3, 6, 5)
    assert expected.dtype == torch.float32
    for other in (images.float(), images.permute(0, 3, 1, 2), images.float() / 255):
        torch.testing.assert_close(ImageInput()(other), expected)


def test_mean_and_std_by_channel(images):
    layer = ImageInput(mean=(0.0, 0.5, 1.0), std=(1.0, 2.0, 4.0))
    out = layer(images)
    unit = images.permute(0, 3, 1, 2).float() / 255
    for channel, (mean, std) in enumerate(((0, 1), (0.5, 2), (1, 4))):
        torch.testing.assert_close(out[:, channel], (unit[:, channel] - mean) / std)


def test_the_first_float_batch_decides_for_all(images):
    layer = ImageInput()
    layer(images.float())
    dark = torch.ones(2, 6, 5, 3)  # 1 of 255, not white
    torch.testing.assert_close(
        layer(dark), (dark.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    )
    again = ImageInput()
    again.load_state_dict(layer.state_dict())
    torch.testing.assert_close(again(dark), layer(dark))
    torch.testing.assert_close(copy.deepcopy(layer)(dark), layer(dark))


def test_integers_decide_for_255():
    layer = PixelMax()
    assert layer(torch.ones(2, dtype=torch.uint8)) == 255
    assert layer(torch.rand(2, 2)) == 255


def test_integers_are_read_right_after_floats():
    layer = PixelMax()
    assert layer(torch.rand(2, 2)) == 1
    assert layer(torch.ones(2, dtype=torch.uint8)) == 255
    assert layer(torch.rand(2, 2)) == 1


def test_a_given_pixel_max_is_kept():
    assert PixelMax(1.0)(torch.full((2,), 200.0)) == 1.0


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((2, 8, 9), 1, (2, 1, 8, 9)),
        ((2, 8, 9, 1), 1, (2, 1, 8, 9)),
        ((2, 1, 8, 9), 1, (2, 1, 8, 9)),
        ((2, 3, 8, 3), 3, (2, 3, 8, 3)),  # both readings fit: channels first
    ],
)
def test_channels_first(shape, channels, expected):
    images = torch.zeros(shape)
    view = channels_first(images, channels)
    assert view.shape == expected
    assert view.data_ptr() == images.data_ptr()


@pytest.mark.parametrize("shape", [(2, 8), (2, 8, 9), (2, 8, 9, 4), (1, 2, 3, 8, 9)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="takes images of 3 channel"):
        channels_first(torch.zeros(shape), 3)
