import errno
import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, LRScheduler
from skorch.dataset import ValidSplit

import skvibe
from skvibe import VIBEClassifier
from skvibe import _checkpoint as checkpoint_module
from skvibe import _fitting as fitting
from skvibe import _publishing as publishing
from skvibe import _trials as trials
from skvibe._checkpoint import Checkpoint
from skvibe._fingerprint import fingerprint, tensor_bytes
from skvibe._training_state import from_plain, is_plain, to_plain
from skvibe.em import VIBENet
from skvibe.model_selection import separation_scorer

ROOT = Path(skvibe.__file__).parent.parent


def environment():
    """Of another process, with another order of sets."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77"}


def make_rows():
    """Classes of unequal size, so that the shares take several runs to find."""
    rng = np.random.default_rng(0)
    y = rng.choice(3, p=[0.6, 0.3, 0.1], size=150)
    X = rng.normal(size=(150, 6)) + 4 * np.eye(3, 6)[y]
    return X, np.where(rng.random(150) < 0.05, 0, y)


def encoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3)
        )
    net.register_buffer("calls", torch.zeros(()), persistent=False)
    return net


class Jitter(torch.nn.Module):
    def forward(self, X):
        return X + 0.1 * torch.randn_like(X)


class Annealing(Callback):
    """State of its own, which decides about the training."""

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            self.factor_ = 0.99 * getattr(self, "factor_", 1.0)
            for group in net.optimizer_.param_groups:
                group["lr"] = net.lr * self.factor_


FITS = {
    "auto": {},
    "soft-learned": {"pseudo_labels": "soft", "prior": "learned"},
    "encoder": {
        "encoder": encoder(),
        "train_encoder": True,
        "encoder_lr": 0.01,
        "augment": Jitter(),
    },
    "adam": {"lr": 0.01, "net_params": {"optimizer": torch.optim.AdamW}},
    "callbacks": {
        "net_params": {
            "callbacks": [
                Annealing(),
                EpochScoring("accuracy", on_train=True, name="seen"),
                EarlyStopping("train_loss", patience=10**6, load_best=True),
            ],
            "train_split": ValidSplit(3),
        },
    },
    "scheduler": {
        "net_params": {
            "callbacks": [LRScheduler("StepLR", step_size=7, step_every="batch")]
        }
    },
}


def make(path=None, **params):
    return VIBEClassifier(
        **{
            "random_state": 0,
            "max_iter": 40,
            "e_step_period": 7,
            "batch_size": 32,
            "tol": 0.0,
            "checkpoint": path,
            "checkpoint_every": 3,
            **params,
        }
    )


def found(vibe):
    """All that a fit has found, seconds aside."""
    arrays = {
        name: value
        for name, value in vars(vibe).items()
        if name.endswith("_") and isinstance(value, np.ndarray | int | bool)
    }
    for name, weight in vibe.net_.module_.state_dict().items():
        arrays[f"weights of {name}"] = weight.numpy()
    arrays["losses"] = vibe.history_[:, "train_loss"]
    arrays["proba"] = vibe.predict_proba(make_rows()[0])
    return arrays


def assert_same(one, other):
    one, other = found(one), found(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


class CrashError(Exception):
    pass


def end_at(monkeypatch, number, error=CrashError, method="keep"):
    """Let the fit end with an error when it has written so many checkpoints."""
    original, calls = getattr(Checkpoint, method), []

    def write(self, *args):
        original(self, *args)
        calls.append(args)
        if len(calls) == number:
            raise error

    monkeypatch.setattr(Checkpoint, method, write)


def fit_until_crash(vibe, number, method="keep"):
    with pytest.MonkeyPatch.context() as patch:
        end_at(patch, number, method=method)
        with pytest.raises(CrashError):
            vibe.fit(*make_rows())


# -- the same bits -------------------------------------------------------------------


def test_killed_at_random_moments(tmp_path):
    """The real thing, as docs/reliability.md counts it; this is a short version."""
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "kill_resume.py",
            "--kills=15",
            "--cases=auto",
            f"--output={tmp_path / 'result.json'}",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["tried"] == result["survived"] == 15


@pytest.mark.parametrize("name", FITS)
def test_a_fit_that_goes_on_ends_with_the_same_bits(name, tmp_path):
    X, y = make_rows()
    path = tmp_path / "fit.checkpoint"
    unbroken = make(**FITS[name]).fit(X, y)
    vibe = make(path, **FITS[name])
    # Crashes of one fit, one after the other; then it ends.
    for number in (1, 4, 7, 2):
        fit_until_crash(vibe, number)
        (file,) = tmp_path.iterdir()
        assert file.name.startswith("fit-")
        assert file.suffix == ".checkpoint"
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    vibe.fit(X, y)
    assert_same(vibe, unbroken)
    assert not list(tmp_path.iterdir())
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]  # noqa: NPY002


@pytest.mark.parametrize(
    ("name", "number"), [("auto", 1), ("encoder", 1), ("encoder", 2)]
)
def test_between_two_runs(name, number, tmp_path):
    X, y = make_rows()
    vibe = make(tmp_path / "fit", **FITS[name])
    fit_until_crash(vibe, number, method="enter")
    assert_same(vibe.fit(X, y), make(**FITS[name]).fit(X, y))


def test_shares_that_were_right_from_the_start(tmp_path):
    """The encoder's run then begins where the first one did."""
    X, _ = make_rows()
    y = np.arange(len(X)) % 3
    X = X + 6 * np.eye(3, 6)[y]
    vibe = make(tmp_path / "fit", **FITS["encoder"])
    for number, method in ((1, "enter"), (2, "keep")):
        with pytest.MonkeyPatch.context() as patch:
            end_at(patch, number, method=method)
            with pytest.raises(CrashError):
                vibe.fit(X, y)
    assert_same(vibe.fit(X, y), make(**FITS["encoder"]).fit(X, y))


def test_checkpoints_alone_change_nothing(tmp_path):
    X, y = make_rows()
    assert_same(make(tmp_path / "fit").fit(X, y), make().fit(X, y))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "refit", [True, SGDClassifier("log_loss", max_iter=5, tol=None)]
)
def test_without_a_seed(refit, tmp_path):
    X, y = make_rows()
    state = np.random.get_state()  # noqa: NPY002
    try:
        np.random.seed(3)  # noqa: NPY002
        unbroken = make(random_state=None, refit=refit).fit(X, y)
        np.random.seed(3)  # noqa: NPY002
        vibe = make(tmp_path / "fit", random_state=None, refit=refit)
        fit_until_crash(vibe, 5)
        # The next start draws another seed; the one the fit began with holds.
        assert_same(vibe.fit(X, y), unbroken)
    finally:
        np.random.set_state(state)  # noqa: NPY002


def test_another_process(tmp_path):
    """What a file belongs to is told by values, not by addresses."""
    script = f"""
        import os, sys, importlib.util, torch
        spec = importlib.util.spec_from_file_location("tests_of", {__file__!r})
        module = importlib.util.module_from_spec(spec)
        sys.modules["tests_of"] = module
        spec.loader.exec_module(module)
        torch.set_num_threads(1)
        keep = module.Checkpoint.keep
        def once(self, *args):
            keep(self, *args)
            os._exit(7)
        module.Checkpoint.keep = once
        module.make({str(tmp_path / "fit")!r}, **module.FITS["scheduler"]).fit(
            *module.make_rows())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 7, done.stderr
    (file,) = tmp_path.iterdir()
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        begin = Checkpoint.begin_training
        patch.setattr(
            Checkpoint, "begin_training", lambda self: taken.append(begin(self))
        )
        make(tmp_path / "fit", **FITS["scheduler"]).fit(*make_rows())
    assert taken[0] is not None
    assert not file.exists()


# -- whose file it is ----------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {"lam": 24.0},
        {"random_state": 1},
        {"random_state": None},
        {"encoder": encoder()},
        {"net_params": {"optimizer__momentum": 0.5}},
        {"net_params": {"callbacks": [Annealing()]}},
        {"prior": np.full(3, 1 / 3)},
    ],
)
def test_other_parameters_have_another_file(params, tmp_path):
    fit_until_crash(make(tmp_path / "fit"), 2)
    fit_until_crash(make(tmp_path / "fit", **params), 1)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("change", ["X", "y", "layout", "version"])
def test_other_data_have_another_file(change, tmp_path, monkeypatch):
    X, y = make_rows()
    fit_until_crash(make(tmp_path / "fit"), 2)
    if change == "X":
        X[17, 3] = np.nextafter(X[17, 3], 9)
    elif change == "y":
        y[17] = (y[17] + 1) % 3
    elif change == "layout":
        X = np.asfortranarray(X)
    else:
        monkeypatch.setattr(checkpoint_module, "__version__", "9.9")
    fresh = make(tmp_path / "fit", checkpoint_every=10**6).fit(X, y)
    assert_same(fresh, make().fit(X, y))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("params", [{"verbose": 1}, {"refit": False}])
def test_what_follows_the_training_makes_no_difference(params, tmp_path, capsys):
    X, y = make_rows()
    fit_until_crash(make(tmp_path / "fit"), 2)
    assert_same(make(tmp_path / "fit", **params).fit(X, y), make(**params).fit(X, y))
    assert not list(tmp_path.iterdir())


def test_fits_of_a_search_share_one_path(tmp_path):
    X, y = make_rows()
    grid = {"lam": [1.0, 25.0], "kappa": [5.0, 20.0]}
    searches = [
        GridSearchCV(make(path), grid, scoring=separation_scorer, cv=2, n_jobs=2)
        for path in (tmp_path / "fit", None)
    ]
    with parallel_config(backend="threading"):
        one, other = (
            search.fit(X, y).cv_results_["mean_test_score"] for search in searches
        )
    np.testing.assert_array_equal(one, other)
    assert not list(tmp_path.iterdir())


# -- files ---------------------------------------------------------------------------


@pytest.fixture
def no_training(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("training began")

    monkeypatch.setattr("skvibe._trials.fit_em", fail)


def test_no_directory(tmp_path, no_training):
    with pytest.raises(FileNotFoundError, match="give checkpoint a file name"):
        make(tmp_path / "missing" / "fit").fit(*make_rows())


def test_a_file_in_place_of_the_directory(tmp_path, no_training):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="cannot be written"):
        make(tmp_path / "file" / "fit").fit(*make_rows())


def test_a_directory_in_place_of_the_file(tmp_path, no_training):
    with pytest.raises(IsADirectoryError, match="file"):
        make(tmp_path).fit(*make_rows())


def test_a_full_disk(tmp_path, no_training, monkeypatch):
    def fail(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_module.os, "fsync", fail)
    with pytest.raises(OSError, match="MB left"):
        make(tmp_path / "fit").fit(*make_rows())
    assert not list(tmp_path.iterdir())


def test_room_is_tried_for_two_files(tmp_path, monkeypatch):
    sizes, fsync = [], os.fsync

    def measure(handle):
        sizes.append(os.fstat(handle).st_size)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", measure)
    for name in ("auto", "encoder", "soft-learned"):
        sizes.clear()
        make(tmp_path / "fit", **FITS[name]).fit(*make_rows())
        # One trial of the room for each setting that is tried, before all else.
        n_trials = sizes.count(sizes[0])
        assert sizes[0] > 2 * max(sizes[n_trials:]) > 0


def test_the_disk_fills_up_later(tmp_path, monkeypatch):
    X, y = make_rows()
    write, count = checkpoint_module.write_atomically, []

    def fail(path, data):
        count.append(path)
        if len(count) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(checkpoint_module, "write_atomically", fail)
    vibe = make(tmp_path / "fit")
    with pytest.warns(UserWarning, match="an older checkpoint stays") as record:
        vibe.fit(X, y)
    assert len(count) > 4
    assert len(record) == 1
    assert_same(vibe, make().fit(X, y))


class RecordsObjects(Callback):
    def on_batch_end(self, net, **kwargs):
        net.history.record_batch("object", self)


def test_a_history_that_can_not_be_written(tmp_path):
    vibe = make(tmp_path / "fit", net_params={"callbacks": [RecordsObjects()]})
    with pytest.warns(UserWarning, match="could not be written"):
        vibe.fit(*make_rows())
    assert vibe.n_iter_ > 0


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "model"])
def test_damaged_files(damage, tmp_path):
    X, y = make_rows()
    fit_until_crash(make(tmp_path / "fit"), 2)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    if damage == "model":
        make().fit(X, y).save(file)
    elif damage == "changed":
        data[-20] ^= 1
        file.write_bytes(data)
    else:
        file.write_bytes(data[: 0 if damage == "empty" else -20])
    with pytest.raises(ValueError, match="Delete it to begin anew"):
        make(tmp_path / "fit").fit(X, y)
    file.unlink()
    make(tmp_path / "fit").fit(X, y)


def test_a_checkpoint_is_no_model_and_holds_no_row(tmp_path):
    X, _ = make_rows()
    fit_until_crash(make(tmp_path / "fit"), 5)
    (file,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match="not one of skvibe's models"):
        skvibe.load(file)
    data = file.read_bytes()
    unit = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    for rows in (X, unit):
        assert not any(row.tobytes() in data for row in rows)


def test_what_a_kill_in_mid_write_leaves_is_cleared_away(tmp_path):
    fit_until_crash(make(tmp_path / "fit"), 2)
    (file,) = tmp_path.iterdir()
    (tmp_path / f".{file.name}.0123.tmp").write_text("half")
    (tmp_path / ".other.0123.tmp").write_text("not ours")
    make(tmp_path / "fit").fit(*make_rows())
    assert [path.name for path in tmp_path.iterdir()] == [".other.0123.tmp"]


def test_a_model_file_does_not_name_a_checkpoint(tmp_path):
    vibe = make(tmp_path / "fit").fit(*make_rows())
    vibe.save(tmp_path / "model")
    assert skvibe.load(tmp_path / "model").checkpoint is None
    assert pickle.loads(pickle.dumps(vibe)).checkpoint == tmp_path / "fit"


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"checkpoint": 3}, TypeError, "checkpoint must be None or the path"),
        ({"checkpoint": True}, TypeError, "checkpoint must be None or the path"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be"),
        ({"checkpoint_every": 1.5}, TypeError, "checkpoint_every must be"),
    ],
)
def test_parameters_out_of_range(params, error, message):
    with pytest.raises(error, match=message):
        make(**params).fit(*make_rows())


# -- interruptions -------------------------------------------------------------------


def assert_usable(vibe, tmp_path):
    X, y = make_rows()
    assert vibe.converged_ is False
    assert balanced_accuracy_score(y, vibe.predict(X)) > 0.6
    np.testing.assert_allclose(vibe.clean_proba_.sum(axis=1), 1, rtol=1e-5)
    assert np.isfinite(vibe.poison_scores_).all()
    if vibe.augment is None:
        vibe.save(tmp_path / "model")
        proba = skvibe.load(tmp_path / "model").predict_proba(X)
        np.testing.assert_array_equal(proba, vibe.predict_proba(X))
        (tmp_path / "model").unlink()


@pytest.mark.parametrize("name", ["auto", "soft-learned", "encoder"])
@pytest.mark.parametrize("number", [1, 15])
def test_control_c_leaves_a_model_and_the_checkpoint(
    name, number, tmp_path, monkeypatch
):
    X, y = make_rows()
    vibe = make(tmp_path / "fit", **FITS[name])
    with monkeypatch.context() as patch:
        end_at(patch, 11 if name == "soft-learned" else number, KeyboardInterrupt)
        with pytest.warns(ConvergenceWarning, match="interrupted"):
            vibe.fit(X, y)
    assert_usable(vibe, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert_same(vibe.fit(X, y), make(**FITS[name]).fit(X, y))


@pytest.mark.parametrize("name", ["auto", "encoder"])
@pytest.mark.parametrize("where", ["_count_shares", "class_means", "_build_net"])
def test_control_c_between_the_runs(name, where, tmp_path, monkeypatch):
    original, calls = getattr(fitting, where), []

    def interrupt(*args, **kwargs):
        calls.append(args)
        # The first run needs two of the three; the encoder's net must still be built.
        if len(calls) == (1 if where == "_count_shares" else 2):
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(fitting, where, interrupt)
    vibe = make(**FITS[name])
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        vibe.fit(*make_rows())
    assert_usable(vibe, tmp_path)


def interrupt_call(monkeypatch, owner, name, number):
    """Ctrl-C in the midst of the call with that number."""
    original, calls = getattr(owner, name), []

    def interrupt(*args, **kwargs):
        calls.append(args)
        result = original(*args, **kwargs)
        if len(calls) == number:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, name, interrupt)
    return calls


@pytest.mark.parametrize("name", ["auto", "soft-learned", "encoder"])
@pytest.mark.parametrize("where", ["final_e_step", "score_rows"])
def test_control_c_when_training_is_over(name, where, tmp_path, monkeypatch):
    X, y = make_rows()
    path = tmp_path / "checkpoints"
    path.mkdir()
    vibe = make(path / "fit", **FITS[name])
    with monkeypatch.context() as patch:
        interrupt_call(patch, VIBENet if where[0] == "f" else publishing, where, 1)
        with pytest.warns(ConvergenceWarning, match="interrupted"):
            vibe.fit(X, y)
    assert_usable(vibe, tmp_path)
    assert list(path.iterdir())
    assert_same(vibe.fit(X, y), make(**FITS[name]).fit(X, y))
    assert not list(path.iterdir())


@pytest.mark.parametrize("where", ["final_e_step", "score_rows"])
def test_a_second_control_c_ends_it(where, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    vibe = make(whitening=None)
    owner = VIBENet if where == "final_e_step" else publishing
    monkeypatch.setattr(owner, where, interrupt)
    with pytest.raises(KeyboardInterrupt):
        vibe.fit(*make_rows())
    with pytest.raises(NotFittedError):
        vibe.predict(make_rows()[0])


@pytest.mark.parametrize("name", ["auto", "encoder"])
def test_control_c_before_anything_is_learned(name, tmp_path, monkeypatch):
    """There is no model yet; it ends as Python programs do, and nothing is lost."""
    X, y = make_rows()
    module = encoder()
    weights = {key: value.clone() for key, value in module.state_dict().items()}
    params = FITS[name] | ({"encoder": module} if name == "encoder" else {})
    vibe = make(tmp_path / "fit", **params)
    with monkeypatch.context() as patch:
        interrupt_call(patch, trials, "unit_training_rows", 1)
        with pytest.raises(KeyboardInterrupt):
            vibe.fit(X, y)
    with pytest.raises(NotFittedError):
        vibe.predict(X)
    assert not hasattr(vibe, "_tasks")
    assert module.training
    for key, value in module.state_dict().items():
        assert torch.equal(value, weights[key])
    assert_same(vibe.fit(X, y), make(**FITS[name]).fit(X, y))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["unit_training_rows", "whiten_in_place"])
def test_control_c_while_another_setting_is_prepared(where, tmp_path, monkeypatch):
    """The setting that was fitted before it stays."""
    X, y = make_rows()
    vibe = make(tmp_path / "fit")
    with monkeypatch.context() as patch:
        interrupt_call(patch, trials, where, 2)
        with pytest.warns(ConvergenceWarning, match="interrupted"):
            vibe.fit(X, y)
    assert vibe.whitening_ == trials.TRIALS[0].whitening
    assert_usable(vibe, tmp_path)


class Interrupted(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        raise KeyboardInterrupt

    def predict_proba(self, X):
        raise NotImplementedError


def test_control_c_in_the_refit(tmp_path):
    vibe = make(refit=Interrupted())
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        vibe.fit(*make_rows())
    assert vibe.refit_classifier_ is None
    assert vibe.converged_ is False
    np.testing.assert_array_equal(
        vibe.predict_proba(make_rows()[0]), vibe.clean_posterior(make_rows()[0])
    )


class InterruptInSecondRun(Callback):
    def on_batch_end(self, net, **kwargs):
        if net.em_.iteration == 5:
            raise KeyboardInterrupt


def test_a_callback_that_ends_a_run_ends_the_fit():
    vibe = make(net_params={"callbacks": [InterruptInSecondRun()]})
    with pytest.warns(ConvergenceWarning, match="interrupted") as record:
        vibe.fit(*make_rows())
    assert len(record) == 1
    assert vibe.n_iter_ == 5
    assert not vibe.converged_


def test_a_real_signal(tmp_path):
    """Six times SIGINT, from outside, at random moments of the training."""
    script = f"""
        import os, random, signal, sys, time, traceback, warnings, torch, numpy as np
        from skvibe import VIBEClassifier
        torch.set_num_threads(1)
        rng = np.random.default_rng(0)
        y = rng.integers(3, size=150)
        X = rng.normal(size=(150, 6)) + 4 * np.eye(3, 6)[y]
        path = os.path.join({str(tmp_path)!r}, "began")
        def child():
            code = 1
            try:
                # Jobs in the background are started with the signal ignored.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                from skvibe import em
                e_step = em.VIBENet.e_step
                def endless(net):
                    if net.em_.labels is not None:
                        net.em_.calm_e_steps = -1
                        return e_step(net)
                    e_step(net)
                    open(path, "w").close()
                em.VIBENet.e_step = endless
                vibe = VIBEClassifier(max_iter=10**6, e_step_period=20, tol=0.0,
                                      batch_size=32, random_state=0, lam=1.0)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    vibe.fit(X, y)
                assert "interrupted" in str(caught[-1].message), caught
                assert vibe.converged_ is False
                assert (vibe.predict(X) == y).mean() > 0.9
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        for number in range(6):
            process = os.fork()
            if not process:
                child()
            while not os.path.exists(path):
                time.sleep(0.001)
            os.unlink(path)
            time.sleep(random.Random(number).uniform(0, 0.05))
            # Python loses one that comes while an object is being deleted; a person
            # would press the keys again.
            ended, status = 0, None
            while not ended:
                os.kill(process, signal.SIGINT)
                until = time.monotonic() + 20
                while not ended and time.monotonic() < until:
                    time.sleep(0.01)
                    ended, status = os.waitpid(process, os.WNOHANG)
            assert status == 0, number
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.stdout == "fine\n", done.stderr


def test_a_split_does_not_end_the_training_early():
    # With fewer rows in an epoch it takes more epochs.
    net_params = {"train_split": ValidSplit(3)}
    vibe = make(prior="uniform", net_params=net_params).fit(*make_rows())
    assert vibe.n_iter_ == 40


# -- parts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(3, dtype=torch.uint8),
        torch.tensor(2.5, dtype=torch.bfloat16),
        torch.zeros(0, 4),
        torch.tensor([True, False]),
        torch.randn(2, 3, dtype=torch.float64, generator=torch.manual_seed(0)).T,
    ],
)
def test_tensors_as_plain_values(value):
    back = from_plain(to_plain({"a": [value, (None, 1)]}))["a"]
    assert back[0].dtype == value.dtype
    assert torch.equal(back[0], value)
    assert back[1] == (None, 1)


def test_what_is_plain():
    assert is_plain({"a": [1, (2.0, None)], "b": np.zeros(2), "c": torch.ones(1)})
    assert not is_plain({"a": [object()]})
    assert not is_plain(np.array([object()]))
    assert not is_plain(len)


def test_fingerprints_differ():
    cycle = [1]
    cycle.append(cycle)
    shifted = encoder()
    with torch.no_grad():
        shifted[0].bias += 1e-6
    values = [
        *(None, True, 1, 1.0, "1", b"1", [1], (1,), {1}, {1: 1}, [[1]], [1, 1], cycle),
        np.zeros(2),
        np.zeros(2, dtype=np.float32),
        np.zeros((2, 1)),
        np.zeros(()),
        np.array(["a", None], dtype=object),
        torch.zeros(2),
        encoder(),
        shifted,
        Annealing(),
        Annealing,
        len,
        np.random.RandomState(0),
        np.random.RandomState(1),
        torch.Generator().manual_seed(0),
        torch.Generator().manual_seed(1),
    ]
    marks = [fingerprint(value) for value in values]
    assert len(set(marks)) == len(values)
    assert marks == [fingerprint(value) for value in values]
    assert fingerprint(encoder()) == fingerprint(encoder())
    assert fingerprint(encoder().eval()) == fingerprint(encoder())


def test_weights_in_any_memory_layout_have_bytes():
    weights = torch.randn(4, 3, 1, 1).to(memory_format=torch.channels_last)
    for tensor in (weights, weights[:, ::2], weights[:0], torch.tensor(1.0)):
        values = tensor_bytes(tensor)
        assert values.shape == (*tensor.shape, 4)
        back = torch.from_numpy(values).reshape(-1).view(torch.float32)
        assert torch.equal(back.reshape(tensor.shape), tensor)
