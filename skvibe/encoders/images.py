"""Image data sets as arrays: what is on disk becomes uint8, in memory or mapped."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch, check_random_state

from skvibe._checks import check_integer

_CIFAR10_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# Pillow goes by content, not by name, and hands PostScript to an external program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def load_image_folder(path, *, image_size, memmap=None):
    """Read a folder that has one folder of images for each class.

    Parameters
    ----------
    path : str or path
        ``path/<class name>/<image>``; classes and images in alphabetical order.
    image_size : int or (height, width)
        Images are resized to it (bilinear with antialiasing; sides are stretched).
    memmap : str or path, default=None
        Keep the images in this ``.npy`` file and map it, for more images than fit in
        memory. None: in memory.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X : ndarray of uint8 of shape (n_samples, height, width, 3)
            Images, RGB.
        y : ndarray of str of shape (n_samples,)
            Class names.
        filenames : list of str
            Where each image came from.

    Raises
    ------
    ValueError
        If there are no images.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from skvibe.encoders import load_image_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         (Path(folder) / name).mkdir()
    ...         Image.new("RGB", (9, 9)).save(Path(folder) / name / "0.png")
    ...     data = load_image_folder(folder, image_size=8)
    >>> data.X.shape, data.y.tolist()
    ((2, 8, 8, 3), ['cat', 'dog'])
    """
    files = sorted(
        file
        for file in Path(path).glob("*/*")
        if file.suffix.lower() in _SUFFIXES and file.is_file()
    )
    if not files:
        raise ValueError(
            f"No images found: {Path(path).name!r} must hold one folder of image files "
            "for each class."
        )
    size = (image_size, image_size) if np.ndim(image_size) == 0 else tuple(image_size)
    X = _empty_images((len(files), *size, 3), memmap)
    for i, file in enumerate(files):
        X[i] = _read_image(file, size)
    labels = np.array([file.parent.name for file in files])
    return Bunch(X=X, y=labels, filenames=[str(file) for file in files])


def dataset_to_arrays(dataset, *, memmap=None):
    """Turn a torch ``Dataset`` of images into arrays that scikit-learn can index.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset or sequence
        ``dataset[i]`` is ``(image, label)`` or an image; an image is a PIL image, an
        array or a tensor, all of one shape. A random transform in it is applied once:
        leave augmentation to ``augment=``.
    memmap : str or path, default=None
        Keep the images in this ``.npy`` file and map it, for more images than fit in
        memory. None: in memory.

    Returns
    -------
    X : ndarray of shape (n_samples, ...)
        Images, in the type of the first one.
    y : ndarray of shape (n_samples,) or None
        Labels; None where the data set has none.

    Examples
    --------
    >>> import numpy as np
    >>> from skvibe.encoders import dataset_to_arrays
    >>> X, y = dataset_to_arrays([(np.zeros((4, 4), dtype=np.uint8), 7)] * 3)
    >>> X.shape, X.dtype, y
    ((3, 4, 4), dtype('uint8'), array([7, 7, 7]))
    """
    first, label = _split_item(dataset[0])
    X = _empty_images((len(dataset), *first.shape), memmap, first.dtype)
    labels = []
    for i in range(len(dataset)):
        X[i], label = _split_item(dataset[i])
        labels.append(label)
    return X, None if label is None else np.asarray(labels)


def load_cifar10(
    data_home=None, *, classes=None, n_train=None, n_test=None, random_state=0
):
    """CIFAR-10 or a part of it, from files that are already there.

    Parameters
    ----------
    data_home : str or path, default=None
        Folder (or file) that holds one of: ``cifar10_jpeg.npz`` (arrays ``jpeg``,
        ``offsets``, ``labels``, ``split``); the official python version as
        ``cifar-10-batches-py`` or ``cifar-10-python.tar.gz``, which is also what
        torchvision keeps; or ``train`` and ``test`` folders of class folders. None:
        the environment variable ``SKVIBE_DATA``.
    classes : sequence of int or str, default=None
        Classes to keep, by number or name; labels become their places in this
        sequence. None: all 10.
    n_train, n_test : int, default=None
        Images to draw, the same number of each class. None: all.
    random_state : int, RandomState instance or None, default=0
        Seed of the draw.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, X_test : ndarray of uint8 of shape (n, 32, 32, 3)
            Images, RGB.
        y, y_test : ndarray of int64 of shape (n,)
            Labels.
        target_names : list of str
            Names of the classes.
        source : str
            Which kind of file was read. "jpeg" images are compressed once and so differ
            from the original pixels.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    References
    ----------
    .. [1] A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images",
       technical report, University of Toronto, 2009.
    """
    source, labels, read = _open_cifar10(data_home)
    kept = list(range(10)) if classes is None else [_class_number(c) for c in classes]
    rng = check_random_state(random_state)
    rows = {
        name: _draw_balanced(labels[name], kept, name, n, rng)
        for name, n in (("train", n_train), ("test", n_test))
    }
    place = np.full(10, -1)
    place[kept] = np.arange(len(kept))
    return Bunch(
        X=read("train", rows["train"]),
        y=place[labels["train"][rows["train"]]],
        X_test=read("test", rows["test"]),
        y_test=place[labels["test"][rows["test"]]],
        target_names=[_CIFAR10_NAMES[k] for k in kept],
        source=source,
    )


def _open_cifar10(data_home):
    """Kind of file, labels of the parts, and a function that reads rows of one."""
    home = Path(data_home or os.environ.get("SKVIBE_DATA", "."))
    places = (
        ("jpeg", "cifar10_jpeg.npz", _open_jpeg),
        ("python", "cifar-10-batches-py", _open_python),
        ("python", "cifar-10-python.tar.gz", _open_python),
        ("folders", "train", _open_folders),
    )
    for source, name, opener in places:
        path = home if home.name == name else home / name
        if path.exists():
            return source, *opener(path)
    raise FileNotFoundError(
        f"No CIFAR-10 in {home.name!r}. Set data_home or SKVIBE_DATA to a folder with "
        + ", ".join(repr(name) for _, name, _ in places)
        + "."
    )


def _open_jpeg(path):
    with np.load(path) as content:
        jpeg, offsets = content["jpeg"], content["offsets"]
        labels, split = content["labels"].astype(np.int64), content["split"]
    parts = {"train": np.flatnonzero(split == 0), "test": np.flatnonzero(split == 1)}

    def read(part, rows):
        images = np.empty((len(rows), 32, 32, 3), dtype=np.uint8)
        for i, row in enumerate(parts[part][rows]):
            data = jpeg[offsets[row] : offsets[row + 1]].tobytes()
            images[i] = _read_image(io.BytesIO(data), None)
        return images

    return {part: labels[rows] for part, rows in parts.items()}, read


def _open_python(path):
    names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    batches = {part: [_unpickle(path, name) for name in names[part]] for part in names}
    labels = {
        part: np.concatenate([batch[b"labels"] for batch in found]).astype(np.int64)
        for part, found in batches.items()
    }

    def read(part, rows):
        images = np.concatenate([batch[b"data"] for batch in batches[part]])[rows]
        images = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images)

    return labels, read


def _open_folders(path):
    found = {
        part: load_image_folder(path.parent / part, image_size=32)
        for part in ("train", "test")
    }
    labels = {
        part: np.array([_class_number(name) for name in data.y])
        for part, data in found.items()
    }
    return labels, lambda part, rows: found[part].X[rows]


def _unpickle(path, name):
    """One of the official files, which are pickles of arrays and lists."""
    if path.is_dir():
        with open(path / name, "rb") as file:
            return _CifarUnpickler(file, encoding="bytes").load()
    with tarfile.open(path) as archive:
        content = archive.extractfile(f"cifar-10-batches-py/{name}")
        if content is None:
            raise FileNotFoundError(f"{path.name} does not hold {name}.")
        return _CifarUnpickler(content, encoding="bytes").load()


class _CifarUnpickler(pickle.Unpickler):
    """Loads numpy arrays and plain containers, nothing else: pickles can run code."""

    _ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module, name):
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(
                f"The CIFAR-10 file wants to load {module}.{name}, which has no place "
                "in it. Get the file from its official source."
            )
        if module.endswith("core.multiarray"):
            # Files of any NumPy, read by any: version 2 gave the module another name.
            module = np.empty(0).__reduce__()[0].__module__
        return super().find_class(module, name)


def _class_number(label):
    if isinstance(label, str):
        if label not in _CIFAR10_NAMES:
            raise ValueError(
                f"classes must be among {', '.join(_CIFAR10_NAMES)}; got {label!r}."
            )
        return _CIFAR10_NAMES.index(label)
    return check_integer("classes", label, 0, 9)


def _draw_balanced(labels, kept, part, n_rows, rng):
    """Row numbers, as many of each class, in random order."""
    of_class = [np.flatnonzero(labels == k) for k in kept]
    if n_rows is not None:
        share = check_integer(f"n_{part}", n_rows, len(kept)) // len(kept)
        short = min(len(rows) for rows in of_class)
        check_integer(f"n_{part}", n_rows, len(kept), short * len(kept))
        of_class = [rng.choice(rows, share, replace=False) for rows in of_class]
    return rng.permutation(np.concatenate(of_class))


def _read_image(file, size):
    from PIL import Image

    with Image.open(file, formats=_FORMATS) as opened:
        image = opened.convert("RGB")
        if size is not None and image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(image)


def _split_item(item):
    image, label = item if isinstance(item, tuple) else (item, None)
    return np.asarray(image), label


def _empty_images(shape, memmap, dtype=np.uint8):
    if memmap is None:
        return np.empty(shape, dtype=dtype)
    return np.lib.format.open_memmap(memmap, mode="w+", dtype=dtype, shape=shape)
