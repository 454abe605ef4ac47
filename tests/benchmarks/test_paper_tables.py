"""The paper's tables: their rows, and the way of the GPU scale at a tiny size."""

import json
from dataclasses import asdict, replace

import numpy as np
import paper_cells
import paper_images
import paper_report
import paper_tables
import paper_training
import pytest
import torch

from skvibe.encoders import CropFlip


@pytest.fixture
def threads():
    """The script sets torch's threads; put them back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(tmp_path, *words):
    paper_tables.main(["--results", str(tmp_path), "--work", str(tmp_path), *words])


def test_every_run_has_a_name_and_an_attack_of_its_own():
    runs = paper_cells.all_runs()
    assert len({one.key for one in runs}) == len(runs)
    assert {one.attack for one in runs} <= set(paper_images._MAKERS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*communities were found:UserWarning")
def test_the_gpu_way_runs_stops_and_goes_on(tmp_path, capsys, threads):
    names = ["BadNets/vibe/filter", "CTRL/logreg"]
    smoke = ["--scale", "smoke", "--only", *names]
    run(tmp_path, *smoke, "--minutes", "0")
    assert "give the command again" in capsys.readouterr().out
    run(tmp_path, *smoke)
    run(tmp_path, *smoke)
    (file,) = tmp_path.glob("*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(line["run"] for line in lines) == sorted(names)
    for line in lines:
        assert 0 <= line["ASR"] <= 1
        assert line["scale"]["encoder"] == "resnet18"
        assert str(tmp_path) not in json.dumps(line)
    by_name = {line["run"]: line for line in lines}
    assert by_name["BadNets/vibe/filter"]["n_poison"] == 24
    assert len(list(tmp_path.glob("*BadNets-0.pt"))) == 1
    capsys.readouterr()
    run(tmp_path, "--report")
    printed = capsys.readouterr().out
    assert "| T7 | CIFAR-10/BadNets/VIBE-SS/preprocess=yes |" in printed
    assert "Not run yet at this scale: BadNets/none, " in printed


def test_results_of_another_scale_are_not_shown(tmp_path):
    scale = asdict(paper_tables.SCALES["gpu", "cifar10"])
    line = {"run": "BadNets/none", "seed": 0, "scale": scale}
    (tmp_path / "paper_tables_cpu_digits.jsonl").write_text(json.dumps(line) + "\n")
    page = paper_report.report(paper_tables.SCALES, tmp_path)
    assert "## Scale" not in page


def test_the_smoke_scale_does_not_write_results(capsys):
    with pytest.raises(SystemExit):
        paper_tables.main(["--scale", "smoke"])
    assert "--results" in capsys.readouterr().err


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 16)])
def test_vgg_takes_small_images(channels, side):
    shape = (2, side, side) if channels == 1 else (2, side, side, channels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    module = paper_images.Enlarged(
        paper_tables.make_encoder(
            "vgg11", random_state=0, in_channels=channels, width=2
        ),
        channels,
        32 // side,
    ).eval()
    assert module(images).shape == (2, 16)


def test_undefended_training_goes_on_as_if_never_stopped(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (50, 8, 8), dtype=np.uint8)
    y = np.arange(50) % 3
    scale = replace(
        paper_tables.SCALES["smoke", "random"], iterations=12, batch_size=16, lr=0.01
    )

    def train(name):
        encoder = paper_tables.make_encoder(
            "small", random_state=0, in_channels=1, width=2
        )
        return paper_training.train_cross_entropy(
            encoder,
            X,
            y,
            scale,
            seed=0,
            augment=CropFlip(1, flip=False),
            device=torch.device("cpu"),
            checkpoint=tmp_path / name,
        )

    whole = train("whole.pt")
    step, steps = paper_training._step, []

    def step_until_killed(*args):
        if len(steps) == 7:
            raise KeyboardInterrupt
        steps.append(1)
        step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(paper_training, "_step", step_until_killed)
        with pytest.raises(KeyboardInterrupt):
            train("stopped.pt")
    resumed = train("stopped.pt")
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)
