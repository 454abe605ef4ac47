import contextlib
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
import warnings
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import skops.io
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from imblearn.pipeline import Pipeline as SamplerPipeline
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as write_arrays
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.kernel_approximation import Nystroem
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EarlyStopping

from skvibe import OffManifoldFilter, OffManifoldSampler, VIBEClassifier
from skvibe._portable import Decoder, Encoder
from skvibe._sealed_file import check_sum
from skvibe.encoders import VGG11, ResNet18, SelfSupervisedEncoder, SmallConvNet
from skvibe.persistence import (
    FORMAT_VERSION,
    ModelFileError,
    dumps,
    load,
    loads,
    save,
)
from skvibe.trigger_filter import TriggerFilter

X, Y = make_blobs(150, n_features=6, centers=3, random_state=0)
X[140:] = X[130:140] + 40
Y[140:] = 0
IMAGES = np.random.default_rng(0).random((90, 1, 8, 8)).astype(np.float32)
IMAGES[np.arange(90), 0, np.arange(90) % 3] += 1.0
IMAGE_LABELS = np.arange(90) % 3


JOBLIB = joblib.dump, joblib.load


def quick(**params):
    return VIBEClassifier(**{"random_state": 0, "max_iter": 20, **params})


def off_manifold(cls=OffManifoldFilter):
    return cls(n_neighbors=8, random_state=0)


def check_same(one, other, rows=X, labels=Y):
    """Every prediction and every array, bit for bit."""
    for method in ("predict", "predict_proba", "decision_function", "transform"):
        if hasattr(one, method):
            result, expected = (getattr(e, method)(rows) for e in (one, other))
            np.testing.assert_array_equal(result, expected)
            assert result.dtype == expected.dtype
    if hasattr(one, "poison_score"):
        scores = (e.poison_score(rows, labels) for e in (one, other))
        np.testing.assert_array_equal(*scores)
    check_same_state(one, other)


def check_same_state(one, other):
    assert type(one) is type(other)
    assert vars(one).keys() == vars(other).keys()
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            copied = getattr(other, name)
            np.testing.assert_array_equal(value, copied)
            assert value.dtype == copied.dtype
            assert value.flags.f_contiguous == copied.flags.f_contiguous
        elif isinstance(value, int | float | str | np.generic) and value == value:
            assert getattr(other, name) == value
            assert type(getattr(other, name)) is type(value)
    for (_, step), (_, copied) in zip(
        getattr(one, "steps", ()), getattr(other, "steps", ()), strict=True
    ):
        check_same_state(step, copied)


def sent_round(estimator, tmp_path, **params):
    save(estimator, tmp_path / "model")
    return load(tmp_path / "model", **params)


# -- there and back ------------------------------------------------------------------


FITTED = {
    "plain": quick().fit(X, Y),
    "approximate": quick(corrupted_posterior="approximate", refit=False).fit(X, Y),
    "learned": quick(prior="learned", pseudo_labels="soft").fit(X, Y),
    "array prior": quick(prior=np.array([1.0, 2.0, 1.0])).fit(X, Y),
    "float32": quick().fit(X.astype(np.float32), Y),
    "two classes": quick().fit(X[Y < 2], Y[Y < 2]),
    "random state": quick(random_state=np.random.RandomState(3)).fit(X, Y),
    "net": quick(net_params={"optimizer": torch.optim.SGD}).fit(X, Y),
    "removed rows": quick().fit(np.where(np.arange(150)[:, None] < 9, np.nan, X), Y),
    "filter": off_manifold().fit(X, Y),
    "sampler": off_manifold(OffManifoldSampler).fit(X, Y),
    "trigger": TriggerFilter(random_state=0).fit(X, Y),
    "pipeline": Pipeline(
        [("filter", off_manifold()), ("scale", StandardScaler()), ("vibe", quick())]
    ).fit(X, Y),
    "nested": make_pipeline(
        PCA(4), make_pipeline(Nystroem(n_components=20, random_state=0)), quick()
    ).fit(X, Y),
    "imblearn": SamplerPipeline(
        [("filter", off_manifold(OffManifoldSampler)), ("vibe", quick())]
    ).fit(X, Y),
}


@pytest.mark.parametrize("name", FITTED)
def test_bit_equal_after_the_round_trip(name, tmp_path):
    estimator = FITTED[name]
    rows = X[Y < 2] if name == "two classes" else X
    labels = Y[Y < 2] if name == "two classes" else Y
    loaded = sent_round(estimator, tmp_path)
    check_same(loaded, estimator, rows, labels)
    # And once more: nothing is lost on the way.
    assert dumps(loaded) == dumps(estimator)


@pytest.mark.parametrize(
    "estimator",
    [
        quick(lam=3.0),
        off_manifold(),
        off_manifold(OffManifoldSampler),
        TriggerFilter(),
        SelfSupervisedEncoder(max_epochs=3),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_estimators_save_themselves(estimator, tmp_path):
    estimator.save(tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == dumps(estimator)
    loaded = load(tmp_path / "model")
    assert type(loaded) is type(estimator)
    assert loaded.get_params() == estimator.get_params()


@pytest.mark.parametrize("name", ["plain", "pipeline"])
def test_a_loaded_estimator_can_be_fitted_again(name, tmp_path):
    loaded = sent_round(FITTED[name], tmp_path)
    check_same(loaded.fit(X, Y), FITTED[name])


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "aa", "c"],
        [10**12, -3, 7],
        [0.5, 1.0, 2.0],
        [True, False, True],
        np.array(["x", "y", "ü\U0001f600"], dtype=object),
    ],
)
def test_labels_of_any_type(labels, tmp_path):
    given = np.asarray(labels)[Y]
    if given.dtype == float:
        given = 2 * given
    vibe = quick().fit(X, given)
    loaded = sent_round(vibe, tmp_path)
    check_same(loaded, vibe, labels=given)
    assert loaded.classes_.dtype == vibe.classes_.dtype


def test_unfitted(tmp_path):
    loaded = sent_round(quick(lam=3.0), tmp_path)
    assert loaded.get_params() == quick(lam=3.0).get_params()
    assert not hasattr(loaded, "classes_")


def test_the_net_and_its_history(tmp_path):
    vibe = FITTED["plain"]
    loaded = sent_round(vibe, tmp_path)
    assert list(loaded.history_) == list(vibe.history_)
    assert loaded.net_.history is loaded.history_
    rows = vibe.transform(X).astype(np.float32)
    np.testing.assert_array_equal(loaded.net_.predict(rows), vibe.net_.predict(rows))


def test_training_rows_are_not_stored(tmp_path):
    data = dumps(FITTED["pipeline"])
    for row in (X[3], X[3].astype(np.float32)):
        assert row.tobytes() not in data


def test_paths_of_this_machine_are_not_stored(tmp_path):
    pipe = Pipeline([("scale", StandardScaler()), ("vibe", quick())], memory="secret")
    assert b"secret" not in dumps(pipe)
    assert loads(dumps(pipe)).memory is None


@pytest.mark.parametrize(
    "encoder",
    [
        SmallConvNet(in_channels=1, width=4, n_stages=2),
        SmallConvNet(in_channels=1, width=4, pixel_max=1.0, mean=0.2, std=[0.3]),
        ResNet18(in_channels=1, width=2),
        ResNet18(in_channels=1, width=2, stem="imagenet"),
    ],
    ids=["small", "small-scaled", "resnet", "resnet-imagenet"],
)
@pytest.mark.parametrize("train_encoder", [False, True], ids=["frozen", "trained"])
def test_encoders_of_this_package(encoder, train_encoder, tmp_path):
    vibe = quick(encoder=encoder, train_encoder=train_encoder, max_iter=4, lr=1e-3)
    vibe.fit(IMAGES, IMAGE_LABELS)
    state = torch.get_rng_state()
    loaded = sent_round(vibe, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    check_same(loaded, vibe, IMAGES, IMAGE_LABELS)
    assert type(loaded.encoder) is type(encoder)
    assert (loaded.net_.module_.encoder is loaded._encoder) == train_encoder


def test_vgg_and_half_precision(tmp_path):
    encoder = VGG11(in_channels=1, width=2).to(torch.bfloat16)
    loaded = sent_round(quick(encoder=encoder), tmp_path)
    for name, weight in encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[name].float(), weight.float())


def test_self_supervised_encoder(tmp_path):
    encoder = SelfSupervisedEncoder(max_epochs=1, batch_size=30, random_state=0)
    encoder.fit(IMAGES)
    loaded = sent_round(encoder, tmp_path)
    np.testing.assert_array_equal(loaded.transform(IMAGES), encoder.transform(IMAGES))


class Doubling(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 4)

    def forward(self, rows):
        return 2 * self.layer(rows)


def test_other_encoders_are_given_again(tmp_path):
    torch.manual_seed(0)
    vibe = quick(encoder=Doubling(), train_encoder=True, lr=1e-3).fit(X, Y)
    with pytest.raises(ModelFileError, match=r"Pass encoder=.*'encoder'"):
        sent_round(vibe, tmp_path)
    fresh = Doubling()
    weights = {name: w.clone() for name, w in fresh.state_dict().items()}
    for encoder in (fresh, {"encoder": fresh}):
        check_same(sent_round(vibe, tmp_path, encoder=encoder), vibe)
    # The one given is copied.
    for name, weight in fresh.state_dict().items():
        assert torch.equal(weight, weights[name])
    with pytest.raises(ModelFileError, match="weights do not fit"):
        load(tmp_path / "model", encoder=torch.nn.Linear(6, 4))
    with pytest.raises(ModelFileError, match="must be a torch"):
        load(tmp_path / "model", encoder=np.tanh)


def test_encoders_of_several_steps(tmp_path):
    shared = Doubling()
    pipe = Pipeline(
        [
            ("filter", OffManifoldFilter(encoder=shared, n_neighbors=8)),
            ("vibe", quick(encoder=shared, max_iter=4)),
        ]
    ).fit(X, Y)
    given = {"filter__encoder": Doubling(), "vibe__encoder": Doubling()}
    check_same(sent_round(pipe, tmp_path, encoder=given), pipe)
    with pytest.raises(ModelFileError, match="'vibe__encoder'"):
        load(tmp_path / "model", encoder={"filter__encoder": Doubling()})


def test_an_encoder_that_is_a_function(tmp_path):
    pipe = OffManifoldFilter(encoder=np.tanh, n_neighbors=8, random_state=0).fit(X, Y)
    with pytest.raises(ModelFileError, match="Pass encoder="):
        sent_round(pipe, tmp_path)
    loaded = load(tmp_path / "model", encoder=np.tanh)
    np.testing.assert_array_equal(loaded.is_off_manifold(X), pipe.is_off_manifold(X))


def test_device(tmp_path):
    encoder = SmallConvNet(in_channels=1, width=4, n_stages=1)
    vibe = quick(encoder=encoder, max_iter=4).fit(IMAGES, IMAGE_LABELS)
    loaded = sent_round(Pipeline([("vibe", vibe)]), tmp_path, device="cpu")
    assert loaded["vibe"].device == "cpu"
    assert load(tmp_path / "model")["vibe"].device == "auto"
    with pytest.raises(ValueError, match="device='cuda:99' is not there"):
        load(tmp_path / "model", device="cuda:99")


def as_if_fitted_on_cuda(vibe):
    """All that says where a fit ran says "cuda"; no tensor can be there in a test."""
    vibe.device = "cuda"
    vibe.net_.device = torch.device("cuda")
    return vibe


@pytest.mark.parametrize(
    ("keep", "train_encoder"),
    # skops would ask to trust torch's own classes in an encoder.
    [("skops", None), *product(["save", "pickle", "joblib"], [None, False, True])],
)
def test_a_model_of_a_gpu_on_a_machine_without(
    keep, train_encoder, tmp_path, monkeypatch
):
    rows, labels, params = X, Y, {}
    if train_encoder is not None:
        rows, labels = IMAGES, IMAGE_LABELS
        encoder = SmallConvNet(in_channels=1, width=4, n_stages=1)
        params = {"encoder": encoder, "train_encoder": train_encoder, "max_iter": 4}
    vibe = quick(**params).fit(rows, labels)
    expected = [vibe.predict_proba(rows), vibe.poison_score(rows, labels)]
    vibe = as_if_fitted_on_cuda(vibe)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if keep == "save":
        loaded = sent_round(vibe, tmp_path)
    elif keep == "skops":
        data = skops.io.dumps(vibe)
        trusted = skops.io.get_untrusted_types(data=data)
        loaded = skops.io.loads(data, trusted=trusted)
    else:
        dump, read = (pickle.dump, pickle.load) if keep == "pickle" else JOBLIB
        with (tmp_path / "model").open("wb") as file:
            dump(vibe, file)
        with (tmp_path / "model").open("rb") as file:
            loaded = read(file)
    assert loaded.device == "cuda"
    assert torch.device(loaded.net_.device).type == "cpu"
    found = [loaded.predict_proba(rows), loaded.poison_score(rows, labels)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    # Training again is another matter: there the parameter means what it says.
    with pytest.raises(ValueError, match="device='cuda' is not there"):
        loaded.fit(rows, labels)


@given(
    hnp.arrays(
        st.one_of(
            hnp.integer_dtypes(),
            hnp.unsigned_integer_dtypes(),
            hnp.floating_dtypes(sizes=(16, 32, 64)),
            hnp.boolean_dtypes(),
            hnp.unicode_string_dtypes(max_len=5),
        ),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    st.booleans(),
)
def test_arrays_of_any_type_and_layout(array, fortran):
    array = np.array(array, order="F" if fortran else "C")
    encoder = Encoder()
    node = json.loads(json.dumps(encoder.encode(array, "x"), allow_nan=False))
    arrays = read_arrays(write_arrays(encoder.arrays))
    copied = Decoder(arrays).decode(node)
    np.testing.assert_array_equal(copied, array)
    assert copied.dtype == array.dtype.newbyteorder("=")
    assert copied.shape == array.shape
    if array.dtype.kind != "U":  # no arithmetic with strings
        assert copied.flags.f_contiguous == array.flags.f_contiguous
    assert copied.flags.writeable


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters()),
        st.floats(width=32).map(np.float32),
        st.integers(0, 255).map(np.uint8),
    ),
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(), st.integers()), inner),
    ),
    max_leaves=10,
)


@given(VALUES)
def test_values_of_any_type(value):
    encoder = Encoder()
    node = json.loads(json.dumps(encoder.encode(value, "x"), allow_nan=False))
    assert repr(Decoder(encoder.arrays).decode(node)) == repr(value)


# -- what cannot be stored is refused when saving -------------------------------------


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (quick(net_params={"callbacks": [EarlyStopping()]}), "EarlyStopping"),
        (quick(refit=RandomForestClassifier()), "RandomForestClassifier"),
        (quick(refit=KNeighborsClassifier()), "KNeighborsClassifier"),
        (quick(prior=lambda: 1), "prior holds a function"),
        (quick(lam=1 + 2j), "lam holds a complex"),
        (quick(prior=np.array([1j, 1])), "array of complex128"),
        (make_pipeline(RandomForestClassifier(), quick()), "RandomForestClassifier"),
        (type("VIBEClassifier", (VIBEClassifier,), {})(), "VIBEClassifier"),
        ([quick()], "takes an estimator"),
        ({"is": "estimator"}, "takes an estimator"),
        (3, "takes an estimator"),
    ],
)
def test_things_that_need_code_are_refused(estimator, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        save(estimator, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# -- nothing lost when writing --------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model"
    save(FITTED["plain"], path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(FITTED["pipeline"], path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model"]


def test_places_that_can_not_be_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        save(quick(), tmp_path / "nowhere" / "model")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="irectory"):
        save(quick(), tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


def test_the_umask_is_respected(tmp_path):
    before = os.umask(0o027)
    try:
        save(quick(), tmp_path / "model")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o640


WRITER = """
import sys
from skvibe._atomic_file import write_atomically
contents = [bytes([k]) * 2_000_000 for k in range(2)]
write_atomically(sys.argv[1], contents[0])
print("ready", flush=True)
k = 0
while True:
    k = 1 - k
    write_atomically(sys.argv[1], contents[k])
"""


def test_a_kill_in_mid_write_leaves_a_whole_file(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "model"
    for _ in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        ) as process:
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        data = path.read_bytes()
        assert len(data) == 2_000_000
        assert len(set(data)) == 1


# -- damaged and hostile files ---------------------------------------------------------


SMALL = dumps(quick(max_iter=2).fit(X[:30], Y[:30]))


def check_refused(data, message=None):
    with pytest.raises(ModelFileError, match=message):
        loads(data)


def test_truncated_files():
    rng = np.random.default_rng(0)
    for size in {0, 1, 7, 8, 9, len(SMALL) - 1, *rng.integers(len(SMALL), size=150)}:
        check_refused(SMALL[:size], "truncated|damaged")


def test_damaged_files():
    """Any changed byte is noticed, or changes nothing."""
    rng = np.random.default_rng(1)
    noticed = 0
    for position in rng.integers(len(SMALL), size=300):
        data = bytearray(SMALL)
        data[position] ^= int(rng.integers(1, 256))
        try:
            loaded = loads(bytes(data))
        except ModelFileError:
            noticed += 1
        else:
            assert dumps(loaded) == SMALL
    assert noticed > 290


def test_other_files():
    check_refused(b"", "no model file")
    check_refused(b"\x80\x04K\x01.", "no model file")
    check_refused(os.urandom(1000), "no model file")
    check_refused(b"\xff" * 1000, "no model file")
    check_refused(write_arrays({"w": np.ones(3)}), "not one of skvibe's models")
    check_refused(write_arrays({}, {"skvibe": "{}"}), "check sum")
    check_refused(SMALL + b"0", "damaged")


def test_errors_name_the_file(tmp_path):
    (tmp_path / "other").write_bytes(b"nonsense")
    with pytest.raises(ModelFileError, match=r"other' cannot be loaded"):
        load(tmp_path / "other")


def parse(data):
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    arrays = {name: np.array(a) for name, a in read_arrays(data).items()}
    return json.loads(metadata["skvibe"].partition(" ")[2]), arrays


def signed(document, arrays=None):
    """A file with a right check sum: what an attacker would write."""
    text = document if isinstance(document, str) else json.dumps(document)
    arrays = {} if arrays is None else arrays
    return write_arrays(arrays, {"skvibe": f"{check_sum(text, arrays)} {text}"})


def with_model(**changes):
    document, arrays = parse(SMALL)
    document["model"].update(changes)
    return signed(document, arrays)


def with_param(name, value):
    document, arrays = parse(SMALL)
    document["model"]["params"][name] = value
    return signed(document, arrays)


def with_fitted(name, value):
    document, arrays = parse(SMALL)
    document["model"]["fitted"][name] = value
    return signed(document, arrays)


def test_signing_itself_works():
    assert dumps(loads(signed(*parse(SMALL)))) == SMALL


def test_a_newer_format_says_what_to_do():
    document, arrays = parse(SMALL)
    document["format_version"] = FORMAT_VERSION + 1
    document["versions"]["skvibe"] = "99.0"
    check_refused(signed(document, arrays), r"written by skvibe 99\.0.*Upgrade skvibe")


def test_another_scikit_learn_gives_a_warning():
    document, arrays = parse(SMALL)
    document["versions"]["scikit-learn"] = "0.1.2"
    with pytest.warns(UserWarning, match=r"saved with scikit-learn 0\.1\.2"):
        loads(signed(document, arrays))


def test_a_parameter_that_was_added_later_gets_its_default():
    document, arrays = parse(SMALL)
    del document["model"]["params"]["refit"]
    assert loads(signed(document, arrays)).refit is True


ESTIMATOR = {"is": "estimator", "params": {}, "fitted": {}}
HOSTILE_CLASSES = [
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "subprocess.Popen",
    "posix.system",
    "pickle.loads",
    "joblib.load",
    "torch.load",
    "torch.hub.load",
    "torch.optim.SGD",
    "numpy.load",
    "sklearn.preprocessing.FunctionTransformer",
    "sklearn.datasets.fetch_openml",
    "sklearn.utils.estimator_checks.check_estimator",
    "sklearn.base.BaseEstimator",
    "sklearn.svm.SVC",
    "skvibe.encoders.SentenceEncoder",
    "skvibe.encoders.FrozenEncoder",
    "skvibe.persistence.load",
    "skvibe.classifier.VIBEClassifier",
    "skvibe.__getattr__",
    "skvibe",
    "VIBEClassifier",
    "",
    ".",
    "..",
    "__main__.X",
    "skorch.NeuralNetClassifier",
    "skvibe.VIBEClassifier.fit",
    "sklearn.pipeline.Pipeline.__init__",
]
HOSTILE_NODES = [
    ESTIMATOR | {"class": 3},
    ESTIMATOR | {"class": None},
    ESTIMATOR | {"class": ["skvibe.VIBEClassifier"]},
    ESTIMATOR | {"class": "skvibe.VIBEClassifier", "params": []},
    ESTIMATOR | {"class": "skvibe.VIBEClassifier", "params": None},
    ESTIMATOR | {"class": "skvibe.VIBEClassifier", "params": {"kapa": 1}},
    ESTIMATOR | {"class": "skvibe.VIBEClassifier", "params": {"self": 1}},
    ESTIMATOR | {"class": "skvibe.VIBEClassifier", "fitted": {"fit": 1}},
    ESTIMATOR | {"class": "sklearn.pipeline.Pipeline"},
    ESTIMATOR | {"class": "sklearn.pipeline.Pipeline", "params": {"memory": "/tmp"}},
    {"is": "class", "class": "skvibe.VIBEClassifier"},
    {"is": "class", "class": "os.system"},
    {"is": "optimizer", "name": "SGD"},
    {"is": "optimizer", "name": "Optimizer.__init__"},
    {"is": "optimizer", "name": "__builtins__"},
    {"is": "optimizer", "name": "lr_scheduler"},
    {"is": "module", "class": "os", "slot": "encoder", "weights": {}, "training": 1},
    {"is": "module", "class": None, "slot": "encoder", "weights": {}, "training": 1},
    {"is": "module", "class": "ResNet18", "slot": "", "weights": {}, "training": 1},
    {"is": "module"},
    {"is": "pickle", "value": "gASVBQAAAA=="},
    {"is": "eval", "value": "1"},
    {"is": "_array", "name": "array0"},
    {"is": "decode"},
    {"is": "__init__"},
    {"is": 3},
    {"is": None},
    {"is": []},
    {"is": {}},
    {},
    [],
    [ESTIMATOR],
    {"is": "list", "items": 3},
    {"is": "list"},
    {"is": "dict", "pairs": [[1]]},
    {"is": "dict", "pairs": [[{"is": "list", "items": []}, 1]]},
    {"is": "array", "name": "missing", "fortran": False},
    {"is": "array", "name": ["array0"], "fortran": False},
    {"is": "array"},
    {"is": "objects", "dtype": "<U1000000000", "shape": [1], "items": ["a"]},
    {"is": "objects", "dtype": "O", "shape": [10**12], "items": ["a"]},
    {"is": "objects", "dtype": "O", "shape": [-5], "items": ["a"]},
    {"is": "objects", "dtype": "<U5,<U6", "shape": [1], "items": ["a"]},
    {"is": "objects", "dtype": "V8", "shape": [1], "items": ["a"]},
    {"is": "objects", "dtype": "<U3", "shape": [1], "items": [3]},
    {"is": "float", "value": "1.0"},
    {"is": "float"},
    {"is": "scalar", "value": 3},
    {"is": "device", "name": "cuda:99999999999999999999"},
    {"is": "random_state", "keys": {"is": "array"}, "rest": []},
    {"is": "slot", "name": "encoder"},
    {"is": "history", "items": 5},
    3,
    "skvibe.VIBEClassifier",
    None,
    True,
]
HOSTILE_ATTRIBUTES = [
    "__class__",
    "__dict__",
    "__init__",
    "__reduce__",
    "__sklearn_tags__",
    "__getattr__",
    "predict",
    "fit",
    "score",
    "get_params",
    "__setstate__",
    "_forget",
    "a b",
    "",
    "1",
    "x.y",
]
HOSTILE_FITTED = [
    ("classes_", None),
    ("classes_", "abc"),
    ("classes_", {"is": "list", "items": []}),
    ("prototypes_", 1.0),
    ("prototypes_", {"is": "objects", "dtype": "O", "shape": [0], "items": []}),
    ("prior_", {"is": "float", "value": "nan"}),
    ("poison_scores_", {"is": "list", "items": [0.5] * 30}),
    ("train_mask_", 7),
    ("_n_features_out", -1),
    ("_n_features_out", 10**15),
    ("net_", 3),
    ("net_", {"is": "dict", "pairs": []}),
    ("net_", {"is": "dict", "pairs": [["weights", {"is": "dict", "pairs": []}]]}),
    ("net_", ESTIMATOR | {"class": "sklearn.preprocessing.StandardScaler"}),
]
HOSTILE_PARAMS = [
    ("lam", -1.0),
    ("kappa", "x"),
    ("batch_size", 0),
    ("net_params", 3),
    ("net_params", {"is": "dict", "pairs": [["no_such_parameter", True]]}),
    ("encoder", "resnet18"),
    ("refit", "LogisticRegression"),
    ("refit", {"is": "class", "class": "os.system"}),
    ("train_encoder", True),
]
HOSTILE_TEXTS = [
    "",
    "null",
    "[]",
    "3",
    "{",
    "{}",
    '{"format": "skvibe model"}',
    '{"format": "skvibe model", "format_version": 1}',
    '{"format": "skvibe model", "format_version": 1, "versions": {}}',
    '{"format": "skvibe model", "format_version": 0, "versions": {}, "model": 1}',
    '{"format": "skvibe model", "format_version": "1", "versions": {}, "model": 1}',
    '{"format": "skvibe model", "format_version": 1, "versions": [], "model": 1}',
    '{"format": "other", "format_version": 1, "versions": {}, "model": 1}',
    "[" * 100_000,
    '{"a":' * 100_000,
    "1" * 10_000,
    "import os; os.system('true')",
    "\x00",
]


def files():
    for name in HOSTILE_CLASSES:
        yield f"class {name}", with_model(**{"class": name})
    document, arrays = parse(SMALL)
    for k, node in enumerate(HOSTILE_NODES):
        yield f"node {k}", signed({**document, "model": node}, arrays)
        wrapped = {"is": "list", "items": [node]}
        if isinstance(node, dict | list):
            yield f"node {k} inside", with_fitted("classes_", wrapped)
    for name in HOSTILE_ATTRIBUTES:
        yield f"attribute {name}", with_fitted(name, 1)
    for k, (name, value) in enumerate(HOSTILE_FITTED):
        yield f"fitted {k} {name}", with_fitted(name, value)
    for k, (name, value) in enumerate(HOSTILE_PARAMS):
        yield f"parameter {k} {name}", with_param(name, value)
    for k, text in enumerate(HOSTILE_TEXTS):
        yield f"text {k}", signed(text)


FILES = dict(files())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore:The model was saved with scikit-learn")
def test_hostile_files_are_refused(name):
    check_refused(FILES[name])


def read_all():
    for data in FILES.values():
        with warnings.catch_warnings(), contextlib.suppress(ModelFileError):
            warnings.simplefilter("ignore")
            loads(data)


def test_hostile_files_run_nothing():
    """No file causes a call that could run a program or read another file."""
    events = []
    watched = ("os.system", "subprocess.Popen", "os.exec", "open", "pickle.find_class")

    def hook(event, args):
        if active and event.startswith(watched):
            events.append((event, args))

    active = False
    read_all()  # whatever the readers import lazily, once
    sys.addaudithook(hook)
    active = True
    try:
        read_all()
    finally:
        active = False
    # Tracebacks read source files for their messages.
    programs = [e for e in events if not str(e[1][0]).endswith(".py")]
    assert programs == [], programs[:20]


def test_an_array_named_twice_is_refused():
    """Else a small file could become a model larger than memory."""
    document, arrays = parse(SMALL)
    fitted = document["model"]["fitted"]
    fitted["a_"] = {"is": "list", "items": [fitted["prototypes_"]] * 1000}
    check_refused(signed(document, arrays))


def test_an_encoder_can_not_ask_for_more_than_the_file_holds():
    weights = {"features.0.weight": np.zeros((1, 1, 1, 1), dtype=np.float32)}
    node = {
        "is": "module",
        "class": "SmallConvNet",
        "slot": "encoder",
        "weights": {
            name: {"is": "array", "name": name, "fortran": False} for name in weights
        },
        "training": False,
        "channels_last": False,
    }
    document = parse(SMALL)[0] | {"model": node}
    check_refused(signed(document, weights), "not those of a SmallConvNet")


# -- skops and pickle ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "filter", "pipeline"])
def test_skops_trusts_only_our_classes(name, tmp_path):
    estimator = FITTED[name]
    data = skops.io.dumps(estimator)
    untrusted = skops.io.get_untrusted_types(data=data)
    assert all(kind.startswith("skvibe.") for kind in untrusted)
    check_same(skops.io.loads(data, trusted=untrusted), estimator)
    # skorch's nets have a pickle in them, which skops would run.
    assert b"__cuda_dependent_attributes__" not in data


def test_pickles_hold_no_skorch_net():
    vibe = FITTED["plain"]
    data = pickle.dumps(vibe)
    assert b"cuda_dependent" not in data
    assert b"VIBENet" not in data
    loaded = pickle.loads(data)
    check_same(loaded, vibe)
    assert list(loaded.history_) == list(vibe.history_)


class OnGPU(torch.nn.Flatten):
    """Says that it lies on a GPU, until it is asked to come to the CPU."""

    def __init__(self):
        super().__init__()
        self.where = "cuda"

    def parameters(self, recurse=True):
        yield SimpleNamespace(device=torch.device(self.where))

    def cpu(self):
        self.where = "cpu"
        return self


def test_an_encoder_on_a_gpu_is_pickled_for_the_cpu():
    vibe = VIBEClassifier(encoder=OnGPU())
    assert pickle.loads(pickle.dumps(vibe)).encoder.where == "cpu"
    assert vibe.encoder.where == "cuda"
    assert pickle.loads(pickle.dumps(VIBEClassifier(encoder="wrong"))).encoder
