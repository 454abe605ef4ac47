"""Augmentations: any layout in, same range out, seeded by torch alone."""

import pytest
import torch

from skvibe.encoders import CropFlip, SimCLRAugmentation


@pytest.mark.parametrize("make", [CropFlip, SimCLRAugmentation])
@pytest.mark.parametrize("white", [1.0, 255.0])
def test_range_and_shape_are_kept(make, white):
    torch.manual_seed(0)
    images = torch.rand(8, 12, 10, 3) * white
    images[0] = white
    views = make()(images)
    assert views.shape == (8, 3, 12, 10)
    assert views.dtype == torch.float32
    assert views.min() >= 0
    assert white / 2 < views.max() <= white * (1 + 1e-6)


@pytest.mark.parametrize("make", [CropFlip, SimCLRAugmentation])
def test_integer_images_are_read_as_floats_are(make):
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    views = []
    for given in (images, images.float()):
        torch.manual_seed(0)
        views.append(make()(given))
    torch.testing.assert_close(*views)


def test_views_differ_and_images_stay():
    images = torch.rand(6, 8, 8, 3)
    before = images.clone()
    augment = SimCLRAugmentation()
    torch.manual_seed(0)
    first, second = augment(images), augment(images)
    assert not torch.equal(first, second)
    assert torch.equal(images, before)


def test_crop_flip_moves_whole_pixels_only():
    torch.manual_seed(0)
    images = torch.arange(1.0, 65.0).reshape(1, 8, 8).expand(64, 8, 8) / 64
    views = CropFlip(1)(images)
    unknown = set(views.unique().tolist()) - set(images.unique().tolist()) - {0.0}
    assert not unknown
    first = views[:, 0, 3:5, 3:5].reshape(64, -1).unique(dim=0)
    assert len(first) > 9  # shifts of up to one pixel, mirrored or not


def test_without_flip_digits_are_never_mirrored():
    torch.manual_seed(0)
    image = torch.zeros(32, 8, 8)
    image[:, :, :4] = 1.0  # bright on the left
    for augment in (CropFlip(1, flip=False), SimCLRAugmentation(1, flip=False)):
        views = augment(image)[:, 0]
        assert (views[:, :, :2].mean((1, 2)) >= views[:, :, -2:].mean((1, 2))).all()


@pytest.mark.parametrize(
    ("make", "params", "message"),
    [
        (CropFlip, {"padding": 0.6}, "padding must be"),
        (SimCLRAugmentation, {"min_area": 0.0}, "min_area must be"),
        (SimCLRAugmentation, {"colour": 2.0}, "colour must be"),
    ],
)
def test_bad_parameters(make, params, message):
    with pytest.raises(ValueError, match=message):
        make(**params)


@pytest.mark.parametrize(
    ("size", "cropped"), [((1, 64), False), ((3, 3), False), ((8, 8), True)]
)
def test_images_too_small_to_crop_are_not(size, cropped):
    torch.manual_seed(0)
    images = torch.rand(16, 1, *size)
    views = SimCLRAugmentation(1, flip=False)(images)
    assert views.shape == images.shape
    assert torch.equal(views, images) != cropped
