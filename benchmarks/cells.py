"""Cells of the defence table: data set x attack x target x rate x seed.

A poisoned row carries the features of its triggered self and the target's label. Rows
are drawn from the other classes; the rate is a share of the whole training set. For the
text and image sets a higher rate poisons the rows of a lower one and more.

Data sets
---------
agnews, trec
    Sentence embeddings (MiniLM, 384 features, unit length), made of the texts with and
    without the trigger (attack "word": three rare tokens; "sent": one sentence).
digits
    Scikit-learn's 8 x 8 digits, pixels as features; attack "badnets": 2 x 2 corner.
cifar
    6,000 training and 2,000 test images of CIFAR-10 (JPEG copies), turned into 256
    features by an encoder that never sees a label: whitened 6 x 6 patches, their soft
    distances to 256 k-means centroids, sums over the four quadrants, then PCA. It is
    fitted on the training images after every tenth of them was given the trigger, once
    for each attack ("badnets": 5 x 5 corner; "blend": a smooth
    picture at 0.2). One seed only.
"""

import functools
import io
import itertools
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA

ROOT = Path(__file__).resolve().parent.parent
RATES = (0.005, 0.02, 0.05, 0.10)
_SMALL_TARGETS = {"trec": (2,)}  # 86 rows: a share of 5 % poison outnumbers the class
_CIFAR_ROWS = {"train": 6000, "test": 2000}
_PATCH = 6


@dataclass(frozen=True, order=True)
class Cell:
    """One experiment; ``rows`` keeps only the first training rows (0: all)."""

    data: str
    attack: str
    target: int
    rate: float
    seed: int
    rows: int = 0

    @property
    def key(self):
        """Name that identifies the cell in the results."""
        return "/".join(str(value) for value in asdict(self).values())

    @property
    def group(self):
        """The part of the table it belongs to."""
        if self.attack == "none":
            return f"{self.data}, no attack"
        small = self.target in _SMALL_TARGETS.get(self.data, ())
        return f"{self.data}, {self.attack}" + (", small target class" if small else "")


@dataclass(frozen=True, eq=False)
class Arrays:
    """What a cell holds; only ``X`` and ``y`` are for the defender."""

    X: np.ndarray
    y: np.ndarray
    X_clean: np.ndarray
    y_true: np.ndarray
    poison_mask: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    X_triggered: np.ndarray
    target: int
    clean_key: tuple  # cells with the same one have the same clean training data


def full_cells():
    """Every cell of the full table, the ones of a seed together."""
    plan = {
        "trec": (("word", "sent"), (3, 1, 2)),
        "agnews": (("word", "sent"), (0, 1)),
        "digits": (("badnets",), (0, 8)),
        "cifar": (("badnets", "blend"), (0, 1)),
    }
    cells = []
    for seed, (data, (attacks, targets)) in itertools.product(range(3), plan.items()):
        if data == "cifar" and seed:
            continue
        cells.append(Cell(data, "none", targets[0], 0.0, seed))
        for attack, target, rate in itertools.product(attacks, targets, RATES):
            cells.append(Cell(data, attack, target, rate, seed))
    return cells


def quick_cells():
    """A small part of the table, for a first look in a few minutes."""
    return [
        Cell("digits", "badnets", 0, 0.02, 0),
        Cell("digits", "badnets", 0, 0.10, 0),
        Cell("trec", "none", 3, 0.0, 0),
        Cell("trec", "word", 3, 0.02, 0),
        Cell("trec", "word", 3, 0.10, 0),
        Cell("trec", "sent", 3, 0.05, 0),
        Cell("agnews", "none", 1, 0.0, 0, 5000),
        Cell("agnews", "word", 1, 0.05, 0, 5000),
        Cell("agnews", "sent", 1, 0.05, 0, 5000),
        Cell("cifar", "badnets", 0, 0.05, 0, 2000),
    ]


def data_directory():
    """Where the data files are: ``SKVIBE_DATA``, else ``../shared/data``."""
    return Path(os.environ.get("SKVIBE_DATA", ROOT.parent / "shared" / "data"))


def load(cell):
    """The arrays of a cell.

    Parameters
    ----------
    cell : Cell
        Which one.

    Returns
    -------
    Arrays
        Features are float32.
    """
    if cell.data == "digits":
        return _load_digits(cell)
    if cell.data == "cifar":
        # Without an attack: the encoder of the first one.
        attack = "badnets" if cell.attack == "none" else cell.attack
        clean, triggered, y, is_test = _cifar_features(attack)
        clean_key = (cell.data, attack, cell.rows)
    else:
        clean, triggered, y, is_test = _text_features(cell.data, cell.attack)
        clean_key = (cell.data, cell.rows)
    train = np.flatnonzero(~is_test)[: cell.rows or None]
    mask = draw_poison(y[train], cell.target, cell.rate, cell.seed)
    return Arrays(
        X=np.where(mask[:, None], triggered[train], clean[train]),
        y=np.where(mask, cell.target, y[train]),
        X_clean=clean[train],
        y_true=y[train],
        poison_mask=mask,
        X_test=clean[is_test],
        y_test=y[is_test],
        X_triggered=triggered[is_test],
        target=cell.target,
        clean_key=clean_key,
    )


def draw_poison(y, target, rate, seed):
    """Mask of ``round(rate * len(y))`` rows drawn from the other classes."""
    candidates = np.random.default_rng(seed).permutation(np.flatnonzero(y != target))
    wanted = round(rate * len(y))
    if wanted > len(candidates):
        raise ValueError(f"rate={rate} asks for more rows than the other classes have.")
    mask = np.zeros(len(y), dtype=bool)
    mask[candidates[:wanted]] = True
    return mask


def _load_digits(cell):
    from skvibe.datasets import load_poisoned_digits

    make = functools.partial(
        load_poisoned_digits, target=cell.target, random_state=cell.seed
    )
    data, clean = make(rate=cell.rate), make(rate=0)
    return Arrays(
        X=data.X.astype(np.float32),
        y=data.y,
        X_clean=clean.X.astype(np.float32),
        y_true=data.y_true,
        poison_mask=data.poison_mask,
        X_test=data.X_test.astype(np.float32),
        y_test=data.y_test,
        X_triggered=data.X_triggered.astype(np.float32),
        target=cell.target,
        clean_key=(cell.data, cell.seed),
    )


@functools.lru_cache(maxsize=2)
def _text_features(data, attack):
    name = {"agnews": "agnews_small_minilm.npz", "trec": "trec6_minilm.npz"}[data]
    # Without an attack the triggered rows only serve to state an ASR.
    attack = "word" if attack == "none" else attack
    with np.load(data_directory() / name) as file:
        clean = _unit_rows(file["emb_clean"])
        triggered = _unit_rows(file[f"emb_trigger_{attack}"])
        return clean, triggered, file["labels"].astype(np.int64), file["split"] == 1


def _unit_rows(X):
    X = X.astype(np.float32)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@functools.lru_cache(maxsize=2)
def _cifar_features(attack):
    from skvibe.attacks import BadNets, Blend

    images, y, is_test = _cifar_images()
    makers = {
        "badnets": BadNets(target=0, rate=0.1, size=5, random_state=0),
        "blend": Blend(target=0, rate=0.1, alpha=0.2, pattern="smooth", random_state=0),
    }
    attacker = makers[attack]
    attacker.poison(images[~is_test], y[~is_test])  # learns the trigger
    triggered = attacker.trigger(images)
    seen = images[~is_test].copy()
    seen[::10] = triggered[~is_test][::10]
    encoder = PatchEncoder(random_state=0).fit(seen)
    return encoder.transform(images), encoder.transform(triggered), y, is_test


@functools.lru_cache(maxsize=1)
def _cifar_images():
    """A balanced subset in random order: uint8 (n, 32, 32, 3), labels, test mask."""
    from PIL import Image

    rng = np.random.default_rng(0)
    with np.load(data_directory() / "cifar10_jpeg.npz") as file:
        jpeg, offsets = file["jpeg"], file["offsets"]
        labels, split = file["labels"], file["split"]
    rows = []
    for number, part in enumerate(("train", "test")):
        of_part = np.flatnonzero(split == number)
        chosen = [
            rng.permutation(of_part[labels[of_part] == label])[
                : _CIFAR_ROWS[part] // 10
            ]
            for label in range(10)
        ]
        rows.append(rng.permutation(np.concatenate(chosen)))
    rows = np.concatenate(rows)
    images = np.stack(
        [
            np.asarray(Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]])))
            for i in rows
        ]
    )
    return images, labels[rows].astype(np.int64), split[rows] == 1


class PatchEncoder:
    """Unsupervised single-layer image features after Coates, Lee and Ng (2011).

    Parameters
    ----------
    n_centroids : int, default=256
        Number of k-means centroids of whitened patches.
    n_components : int, default=256
        Number of features, after PCA.
    random_state : int, default=0
        Seed of the patches drawn and of k-means.
    """

    def __init__(self, n_centroids=256, n_components=256, random_state=0):
        self.n_centroids = n_centroids
        self.n_components = n_components
        self.random_state = random_state

    def fit(self, images, n_patches=50_000):
        """Learn patches, centroids and components from uint8 images (n, h, w, 3)."""
        rng = np.random.default_rng(self.random_state)
        rows = rng.integers(len(images), size=n_patches)
        windows = _windows(images)
        top = rng.integers(windows.shape[1], size=n_patches)
        left = rng.integers(windows.shape[2], size=n_patches)
        patches = windows[rows, top, left].reshape(n_patches, -1)
        patches = _contrast(patches.astype(np.float32))
        self.mean_ = patches.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(patches - self.mean_, rowvar=False))
        scale = 1 / np.sqrt(np.maximum(values, 0) + 0.1)
        self.whitening_ = ((vectors * scale) @ vectors.T).astype(np.float32)
        whitened = (patches - self.mean_) @ self.whitening_
        kmeans = MiniBatchKMeans(
            self.n_centroids, batch_size=4096, n_init=1, random_state=self.random_state
        )
        self.centroids_ = kmeans.fit(whitened).cluster_centers_
        components = min(self.n_components, len(images))
        self.pca_ = PCA(components, random_state=self.random_state)
        self.pca_.fit(self._pool(images))
        return self

    def transform(self, images):
        """Features, float32 of shape (n, n_components)."""
        return self.pca_.transform(self._pool(images)).astype(np.float32)

    def _pool(self, images):
        blocks = []
        for start in range(0, len(images), 100):
            windows = _windows(images[start : start + 100])
            n, height, width = windows.shape[:3]
            patches = _contrast(windows.reshape(n * height * width, -1))
            codes = self._encode(patches).reshape(n, height, width, -1)
            y, x = height // 2, width // 2
            quarters = [
                codes[:, rows, columns].mean(axis=(1, 2))
                for rows in (slice(y), slice(y, None))
                for columns in (slice(x), slice(x, None))
            ]
            blocks.append(np.concatenate(quarters, axis=1))
        return np.sqrt(np.concatenate(blocks))

    def _encode(self, patches):
        whitened = (patches - self.mean_) @ self.whitening_
        squares = (whitened**2).sum(axis=1)[:, None] + (self.centroids_**2).sum(axis=1)
        distance = squares - 2 * whitened @ self.centroids_.T
        np.sqrt(np.maximum(distance, 0, out=distance), out=distance)
        return np.maximum(distance.mean(axis=1, keepdims=True) - distance, 0)


def _windows(images):
    """Every second patch each way, (n, rows, columns, 3, 6, 6), without a copy."""
    shape = (_PATCH, _PATCH)
    windows = np.lib.stride_tricks.sliding_window_view(images, shape, axis=(1, 2))
    return windows[:, ::2, ::2]


def _contrast(patches):
    patches = patches.astype(np.float32)
    patches -= patches.mean(axis=1, keepdims=True)
    return patches / np.sqrt(patches.var(axis=1, keepdims=True) + 10.0)
