"""Frozen image encoders, through the real loading code, with tiny random weights."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skvibe.encoders import FoundationEncoder

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A DINOv2 of 16 features, saved the way downloaded ones lie on disk."""
    path = tmp_path_factory.mktemp("models") / "tiny-dinov2"
    config = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        mlp_ratio=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModel.from_config(config).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "BitImageProcessor", '
        '"size": {"shortest_edge": 64}, "crop_size": {"height": 42, "width": 42}, '
        '"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}'
    )
    return path


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def test_features_are_the_models_own(folder, images):
    encoder = FoundationEncoder(folder, batch_size=2).fit(images)
    features = encoder.transform(images)
    assert features.shape == (5, 16)
    assert features.dtype == np.float32
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    pixels = torch.nn.functional.interpolate(
        pixels, size=(42, 42), mode="bicubic", antialias=True
    ).clamp(0, 1)
    mean = torch.tensor([0.4, 0.5, 0.6])[:, None, None]
    std = torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        tokens = model(pixel_values=(pixels - mean) / std).last_hidden_state
    np.testing.assert_allclose(features, tokens[:, 0].numpy(), atol=2e-5)
    means = FoundationEncoder(folder, pooling="mean").fit_transform(images)
    np.testing.assert_allclose(means, tokens.mean(1).numpy(), atol=2e-5)


def test_the_border_is_seen(folder, images):
    encoder = FoundationEncoder(folder).fit(images)
    triggered = images.copy()
    triggered[:, -1, -1] = 255 - triggered[:, -1, -1]
    change = np.abs(encoder.transform(triggered) - encoder.transform(images))
    assert change.max(axis=1).min() > 1e-3


def test_types_layouts_and_batches_give_the_same(folder, images):
    expected = FoundationEncoder(folder, batch_size=5).fit_transform(images)
    for X in (images / 255, images.transpose(0, 3, 1, 2), images.astype(np.float32)):
        features = FoundationEncoder(folder, batch_size=2).fit_transform(X)
        np.testing.assert_allclose(features, expected, atol=2e-5)
    grey = FoundationEncoder(folder).fit_transform(images[..., 0])
    three = np.repeat(images[..., :1], 3, axis=3)
    np.testing.assert_allclose(
        grey, FoundationEncoder(folder).fit_transform(three), atol=2e-5
    )


def test_image_size_may_be_set(folder, images):
    sizes = [
        FoundationEncoder(folder, image_size=size).fit(images)._loaded().size
        for size in (None, 28)
    ]
    assert sizes == [42, 28]


def test_weights_stay_out_of_pickles_unless_asked_for(folder, images):
    encoder = FoundationEncoder(folder).fit(images)
    features = encoder.transform(images)
    light = pickle.dumps(encoder)
    heavy = pickle.dumps(encoder.set_params(keep_weights=True))
    assert len(light) < 4_000 < len(heavy)
    for content in (light, heavy):
        again = pickle.loads(content)
        np.testing.assert_array_equal(again.transform(images), features)
    assert "_model" not in pickle.loads(light).__dict__
    moved = pickle.loads(heavy).set_params(model="gone")
    np.testing.assert_array_equal(moved.transform(images), features)


def test_features_are_cached(folder, images, tmp_path, monkeypatch):
    params = {"memory": str(tmp_path), "batch_size": 2}
    features = FoundationEncoder(folder, **params).fit_transform(images)
    encoder = FoundationEncoder(folder, **params).fit(images)
    monkeypatch.setattr(encoder, "_embed", lambda rows: pytest.fail("not cached"))
    np.testing.assert_array_equal(encoder.transform(images), features)
    with pytest.raises(pytest.fail.Exception):
        encoder.transform(images[:3])
    with pytest.raises(pytest.fail.Exception):
        encoder.set_params(pooling="mean").transform(images)


def test_conventions(folder, images, capsys):
    with pytest.raises(NotFittedError):
        FoundationEncoder(folder).transform(images)
    encoder = FoundationEncoder(folder, verbose=1).fit(images)
    assert clone(encoder).model == folder
    assert len(encoder.get_feature_names_out()) == 16
    capsys.readouterr()
    encoder.transform(images)
    assert "[embedding] 5/5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"pooling": "max"}, "pooling must be"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_bad_parameters(folder, images, params, message):
    with pytest.raises(ValueError, match=message):
        FoundationEncoder(folder, **params).fit(images)


def test_a_model_that_is_not_there(images, tmp_path):
    encoder = FoundationEncoder(
        tmp_path / "nothing", model_params={"local_files_only": True}
    )
    with pytest.raises((OSError, ValueError)):
        encoder.fit(images)
