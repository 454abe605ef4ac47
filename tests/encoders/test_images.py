"""Loaders: folders, data sets and the forms in which CIFAR-10 comes."""

import io
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from skvibe.encoders import dataset_to_arrays, load_cifar10, load_image_folder


def write_folder(folder, names=("cat", "dog"), n_images=2, size=(9, 7)):
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(n_images):
            colour = (40 * number, 10 * i, 255)
            Image.new("RGB", size, colour).save(folder / name / f"{i}.png")
        (folder / name / "notes.txt").write_text("not an image")


def test_image_folder(tmp_path):
    write_folder(tmp_path / "photos")
    data = load_image_folder(tmp_path / "photos", image_size=(4, 6))
    assert data.X.shape == (4, 4, 6, 3)
    assert data.X.dtype == np.uint8
    assert data.y.tolist() == ["cat", "cat", "dog", "dog"]
    assert data.X[3, 0, 0].tolist() == [40, 10, 255]
    assert data.filenames[3].endswith("1.png")
    mapped = load_image_folder(
        tmp_path / "photos", image_size=(4, 6), memmap=tmp_path / "images.npy"
    )
    assert isinstance(mapped.X, np.memmap)
    np.testing.assert_array_equal(mapped.X, data.X)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="No images found"):
        load_image_folder(tmp_path, image_size=8)


def test_data_sets(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    items = [(Image.fromarray(image), i % 2) for i, image in enumerate(images)]
    X, y = dataset_to_arrays(items, memmap=tmp_path / "images.npy")
    np.testing.assert_array_equal(X, images)
    assert y.tolist() == [0, 1, 0, 1, 0]
    X, y = dataset_to_arrays(list(images.astype(np.float32)))
    assert X.dtype == np.float32
    assert y is None


# -- CIFAR-10 ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)
    return images, np.arange(80) % 10


def write_python_version(folder, images, labels):
    folder.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    rows = [*np.split(np.arange(50), 5), np.arange(50, 80)]
    for name, some in zip(names, rows, strict=True):
        flat = images[some].transpose(0, 3, 1, 2).reshape(len(some), -1)
        batch = {b"data": flat, b"labels": labels[some].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))


def check(data, images, labels):
    assert (len(data.X), len(data.X_test)) == (50, 30)
    by_image = {
        image.tobytes(): label for image, label in zip(images, labels, strict=True)
    }
    for part, y in ((data.X, data.y), (data.X_test, data.y_test)):
        assert [by_image[image.tobytes()] for image in part] == y.tolist()


def test_python_version_and_its_archive(tmp_path, cifar):
    images, labels = cifar
    write_python_version(tmp_path / "cifar-10-batches-py", images, labels)
    data = load_cifar10(tmp_path)
    check(data, images, labels)
    assert data.source == "python"
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-py", arcname="cifar-10-batches-py")
    check(load_cifar10(tmp_path / "cifar-10-python.tar.gz"), images, labels)


def test_a_pickle_with_code_in_it_is_not_run(tmp_path, cifar):
    class Payload:
        def __reduce__(self):
            return print, ("run",)

    write_python_version(tmp_path / "cifar-10-batches-py", *cifar)
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    file.write_bytes(pickle.dumps({b"data": Payload(), b"labels": []}))
    with pytest.raises(pickle.UnpicklingError, match="has no place in it"):
        load_cifar10(tmp_path)


def test_jpeg_archive(tmp_path, cifar):
    images, labels = cifar
    smooth = np.repeat(images[:, :1, :1], 32, axis=1).repeat(32, axis=2)
    data = []
    for image in smooth:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95)
        data.append(np.frombuffer(buffer.getvalue(), dtype=np.uint8))
    np.savez(
        tmp_path / "cifar10_jpeg.npz",
        jpeg=np.concatenate(data),
        offsets=np.cumsum([0, *map(len, data)]),
        labels=labels.astype(np.uint8),
        split=(np.arange(80) >= 50).astype(np.uint8),
    )
    read = load_cifar10(tmp_path)
    assert read.source == "jpeg"
    colours = {
        tuple(image[0, 0]): label for image, label in zip(smooth, labels, strict=True)
    }
    for image, label in zip(read.X, read.y, strict=True):
        distances = {
            np.abs(np.subtract(colour, image[0, 0].astype(int))).max(): own
            for colour, own in colours.items()
        }
        assert distances[min(distances)] == label


def test_folders_of_class_folders(tmp_path):
    write_folder(tmp_path / "train", ("cat", "frog"), 3, (32, 32))
    write_folder(tmp_path / "test", ("cat", "frog"), 1, (32, 32))
    data = load_cifar10(tmp_path, classes=("frog", "cat"))
    assert data.source == "folders"
    assert sorted(data.y.tolist()) == [0, 0, 0, 1, 1, 1]
    assert data.target_names == ["frog", "cat"]


def test_balanced_parts(tmp_path, cifar):
    write_python_version(tmp_path / "cifar-10-batches-py", *cifar)
    part = {"classes": (3, "truck"), "n_train": 6, "n_test": 4}
    data = load_cifar10(tmp_path, **part)
    assert np.bincount(data.y).tolist() == [3, 3]
    assert np.bincount(data.y_test).tolist() == [2, 2]
    assert data.target_names == ["cat", "truck"]
    again = load_cifar10(tmp_path, **part)
    np.testing.assert_array_equal(again.X, data.X)
    with pytest.raises(ValueError, match="n_train must be"):
        load_cifar10(tmp_path, n_train=60)
    with pytest.raises(ValueError, match="classes must be"):
        load_cifar10(tmp_path, classes=("unicorn",))


def test_no_data_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("SKVIBE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Set data_home or SKVIBE_DATA"):
        load_cifar10()
