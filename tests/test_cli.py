import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from skvibe.__main__ import FAILED, FOUND, NOTHING_FOUND, WRONG_USE, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clusters of 60 rows, five labels of the first one flipped."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    y = np.repeat(["no", "yes"], 60)
    X = 20 * np.eye(2, 4)[np.repeat([0, 1], 60)] + rng.normal(size=(120, 4))
    np.save(folder / "X.npy", X)
    np.save(folder / "clean.npy", y)
    y[:5] = "yes"
    np.save(folder / "y.npy", y)
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows([i, f"a, b\n<script>{i}"] for i in range(120))
    return folder


@pytest.fixture
def run(folder, capsys):
    def run(*arguments, features="X.npy", labels="y.npy"):
        paths = [str(folder / features), str(folder / labels)]
        status = main(["audit", *paths, *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_findings_go_to_output_and_progress_to_the_other_stream(run):
    status, out, err = run()
    assert status == FOUND
    assert "5 of 120 rows in 2 classes are suspect" in out
    assert "[audit]" not in out
    assert "[audit] nearest trusted rows" in err


def test_json_alone_on_the_output(run):
    status, out, _ = run("--json")
    assert status == FOUND
    assert {line["row"] for line in json.loads(out)["suspects"]} == {0, 1, 2, 3, 4}


def test_quiet(run):
    _, _, err = run("--quiet")
    assert err == ""


def test_files_are_written(run, folder, tmp_path):
    page, table = tmp_path / "report.html", tmp_path / "rows.csv"
    text = folder / "rows.csv"
    status, _, _ = run("--text", text, "--html", page, "--csv", table)
    assert status == FOUND
    assert "a, b\\n\\u003cscript\\u003e0" in page.read_text(encoding="utf-8")
    with open(table, newline="", encoding="utf-8") as file:
        assert sum(1 for _ in csv.DictReader(file)) == 120


def test_nothing_found(run):
    assert run(labels="clean.npy")[0] == NOTHING_FOUND


def test_fail_on(run):
    assert run("--fail-on", "never")[0] == NOTHING_FOUND
    assert run("--fail-on", "planted")[0] == NOTHING_FOUND


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "missing.csv"], "cannot read"),
        (["--text", "{folder}/rows.csv", "--text-column", "x"], "--text-column"),
        (["--text", "{folder}/X.npy"], "cannot read"),
        (["--images", "{folder}/short.npy"], "3 rows"),
        (["--feature-names", "{folder}/names.txt"], "2 names for 4 features"),
        (["--html", "{folder}/nowhere/report.html"], "cannot write"),
    ],
)
def test_wrong_inputs(run, folder, arguments, message):
    np.save(folder / "short.npy", np.zeros((3, 8, 8)))
    (folder / "names.txt").write_text("a\nb\n")
    status, out, err = run(*(a.format(folder=folder) for a in arguments))
    assert status == WRONG_USE
    assert message in err
    assert out == ""


def test_wrong_arrays(run, folder):
    np.save(folder / "nan.npy", np.full((120, 4), np.nan))
    np.save(folder / "flat.npy", np.zeros(120))
    np.savez(folder / "many.npz", a=np.zeros(3))
    pairs = {"nan.npy": "NaN", "flat.npy": "2 dim", "many.npz": "several", "no.npy": ""}
    for name, message in pairs.items():
        status, _, err = run(features=name)
        assert status == WRONG_USE
        assert message in err


def test_pickled_objects_are_refused_without_running_them(run, folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.save(folder / "evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    status, _, err = run(labels="evil.npy")
    assert status == WRONG_USE
    assert "Pickled objects are refused" in err
    assert not (tmp_path / "ran").exists()


def test_a_failure_has_its_own_status(run, folder):
    np.save(folder / "one.npy", np.repeat(["only"], 120))
    status, _, err = run(labels="one.npy")
    assert status == FAILED
    assert "at least 2 classes" in err


@pytest.mark.parametrize(
    "arguments", [[], ["audit"], ["audit", "a", "b", "--threshold", "2"]]
)
def test_wrong_use(arguments):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == WRONG_USE


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "skvibe", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("skvibe ")
