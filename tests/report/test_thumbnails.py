import base64
import io

import numpy as np
import pytest
from PIL import Image

from skvibe.report.thumbnails import thumbnail


def _decode(address):
    head, code = address.split(",")
    with Image.open(io.BytesIO(base64.b64decode(code))) as image:
        return head, np.asarray(image)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (1, 8, 8)])
def test_grey_images(shape):
    pixels = np.linspace(0, 1, 64).reshape(shape)
    head, decoded = _decode(thumbnail(pixels))
    assert head == "data:image/png;base64"
    assert np.array_equal(decoded, np.rint(255 * pixels).reshape(8, 8))


@pytest.mark.parametrize("shape", [(16, 16, 3), (3, 16, 16), (16, 16, 4)])
def test_colour_images_keep_their_channels(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    _, decoded = _decode(thumbnail(pixels))
    last = np.moveaxis(pixels, 0, -1) if shape[0] == 3 else pixels
    assert np.array_equal(decoded, last)


def test_large_images_become_small():
    head, decoded = _decode(thumbnail(np.zeros((300, 200, 3))))
    assert decoded.shape == (64, 43, 3)
    assert head == "data:image/jpeg;base64"


def test_pil_images_and_paths(tmp_path):
    image = Image.new("CMYK", (10, 10))
    image.convert("RGB").save(tmp_path / "a.png")
    assert _decode(thumbnail(image))[1].shape == (10, 10, 3)
    assert _decode(thumbnail(tmp_path / "a.png"))[1].shape == (10, 10, 3)
    assert image.size == (10, 10)


@pytest.mark.parametrize("shape", [(4,), (8, 8, 5), (2, 8, 8, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="height, width"):
        thumbnail(np.zeros(shape))


@pytest.mark.parametrize("name", ["a.png", "a.eps"])
def test_postscript_never_reaches_its_interpreter(tmp_path, name, monkeypatch):
    import subprocess

    monkeypatch.setattr(subprocess, "check_call", pytest.fail)
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(OSError, match="cannot identify"):
        thumbnail(tmp_path / name)
