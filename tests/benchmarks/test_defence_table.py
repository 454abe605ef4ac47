import json
from dataclasses import replace

import numpy as np
import pytest

cells = pytest.importorskip("cells", reason="benchmarks are not in this copy")
import defence_report  # noqa: E402
import defence_table  # noqa: E402

DIGITS = "digits/badnets/0/0.1/0/0"


def run_table(tmp_path, *options):
    """One small cell; returns the lines of the results file."""
    path = tmp_path / "results.jsonl"
    command = ["--quick", "--cells", DIGITS, "--output", str(path), *options]
    defence_table.main(command)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_poisoned_rows_are_the_stated_share_of_the_other_classes():
    y = np.arange(400) % 4
    mask = cells.draw_poison(y, 1, 0.05, seed=0)
    assert mask.sum() == 20
    assert not mask[y == 1].any()
    more = cells.draw_poison(y, 1, 0.10, seed=0)
    assert more[mask].all()
    assert (cells.draw_poison(y, 1, 0.05, seed=1) != mask).any()
    with pytest.raises(ValueError, match="rate"):
        cells.draw_poison(y, 1, 0.9, seed=0)


def test_full_plan_holds_what_the_table_promises():
    plan = cells.full_cells()
    assert len({cell.key for cell in plan}) == len(plan)
    for data, targets in (("agnews", {0, 1}), ("trec", {1, 2, 3})):
        attacked = {
            (cell.attack, cell.target, cell.rate, cell.seed)
            for cell in plan
            if cell.data == data and cell.attack != "none"
        }
        assert len(attacked) == 2 * len(targets) * 4 * 3
        assert {target for _, target, _, _ in attacked} == targets
    small = [cell for cell in plan if "small target" in cell.group]
    assert {(cell.data, cell.target) for cell in small} == {("trec", 2)}


def test_digits_cell_agrees_with_its_description():
    arrays = cells.load(cells.Cell("digits", "badnets", 8, 0.05, 1))
    mask = arrays.poison_mask
    assert mask.sum() == round(0.05 * len(mask))
    np.testing.assert_array_equal(arrays.X[~mask], arrays.X_clean[~mask])
    np.testing.assert_array_equal(arrays.y[~mask], arrays.y_true[~mask])
    assert (arrays.y[mask] == 8).all()
    assert (arrays.y_true[mask] != 8).all()


def test_patch_encoder_sees_no_label_and_repeats_itself():
    images = np.random.default_rng(0).integers(256, size=(40, 32, 32, 3))
    images = images.astype(np.uint8)
    made = [
        cells.PatchEncoder(n_centroids=8, n_components=4)
        .fit(images, n_patches=500)
        .transform(images[:5])
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*made)
    assert made[0].shape == (5, 4)
    assert np.isfinite(made[0]).all()


def test_finished_lines_are_not_run_again(tmp_path, capsys):
    first = run_table(tmp_path, "--methods", "none,oracle,spectral")
    assert [line.get("method") for line in first] == [
        None,
        "none",
        "oracle",
        "spectral",
    ]
    assert run_table(tmp_path, "--methods", "none,oracle,spectral") == first
    more = run_table(tmp_path, "--methods", "none,knn")
    assert [line.get("method") for line in more[4:]] == [None, "knn"]
    again = run_table(tmp_path, "--methods", "none,knn", "--redo", "knn")
    assert sum(line.get("method") == "knn" for line in again) == 1
    assert "[1/1," in capsys.readouterr().out


def test_a_new_version_of_a_method_is_run(tmp_path, monkeypatch):
    run_table(tmp_path, "--methods", "knn")
    changed = replace(defence_table.METHODS["knn"], version=99)
    monkeypatch.setitem(defence_table.METHODS, "knn", changed)
    lines = run_table(tmp_path, "--methods", "knn")
    assert [line.get("version") for line in lines] == [None, 1, None, 99]
    _, records = defence_table.read_results(tmp_path / "results.jsonl")
    assert records[DIGITS, "knn"]["version"] == 99


def test_only_some_methods_are_told_the_rate(tmp_path, monkeypatch):
    seen = {}
    for name in ("spectral", "knn"):
        method = defence_table.METHODS[name]

        def spy(X, y, *, rate, seed, name=name, run=method.run):
            seen[name] = rate
            return run(X, y, rate=rate, seed=seed)

        spied = replace(method, run=spy)
        monkeypatch.setitem(defence_table.METHODS, name, spied)
    lines = run_table(tmp_path, "--methods", "spectral,knn")
    assert seen == {"spectral": pytest.approx(0.1, abs=0.001), "knn": None}
    assert [line.get("told_rate") for line in lines] == [None, True, False]


def test_measures_of_the_extremes(tmp_path):
    _, plain, oracle, vibe = run_table(tmp_path, "--methods", "none,oracle,vibe")
    assert plain["asr"] > 0.9
    assert oracle["asr"] == oracle["control"] < 0.1
    assert oracle["acc"] == oracle["acc_clean"]
    assert plain["n_asr"] == 405
    assert plain["n_poison"] == 135
    assert plain["ratio"] == 1
    assert vibe["asr"] < 0.2
    assert 0.9 < vibe["auroc"] <= 1


def test_report_writes_page_and_figure(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    run_table(tmp_path, "--methods", "none,oracle,spectral,knn")
    runs, records = defence_table.read_results(path)
    shown = [{**record, "rate": 0.05} for record in records.values()]
    defence_report.write(runs, shown, defence_table.METHODS, tmp_path)
    page = (tmp_path / "defence_table.md").read_text()
    assert "spectral signatures †" in page
    assert "OMP_NUM_THREADS" in page
    assert (tmp_path / "figures" / "defence_table.png").stat().st_size > 10_000


def test_every_line_names_a_run_of_its_own(tmp_path):
    # After a redo an old run may be gone: its number must not be given twice.
    run_table(tmp_path, "--methods", "none")
    run_table(tmp_path, "--methods", "knn")
    run_table(tmp_path, "--methods", "none,spectral", "--redo", "none")
    lines = run_table(tmp_path, "--methods", "spectral", "--redo", "spectral")
    runs = [line["run"] for line in lines if "stamp" in line]
    assert len(runs) == len(set(runs)) == 3
    assert {line["run"] for line in lines} == set(runs)
