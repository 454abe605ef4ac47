import copy
import csv
import json

import numpy as np
import pytest
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch

from skvibe import OffManifoldFilter, VIBEClassifier
from skvibe.auditing import Audit, audit
from skvibe.datasets import load_poisoned_digits
from skvibe.report.page import suspect_data
from skvibe.trigger_filter import TriggerFilter

HOSTILE = "</script><script>alert(1)</script> & \u2028 =1+1"


def _clusters(seed=0):
    """Three clusters, 12 labels of 'b' flipped; 40 rows far off labelled 'a'."""
    rng = np.random.default_rng(seed)
    true = np.repeat(["a", "b", "c", "b"], [100, 100, 100, 40])
    X = 12 * np.eye(4, 8)[np.repeat([0, 1, 2, 3], [100, 100, 100, 40])]
    X += rng.normal(size=(340, 8))
    y, planted, flipped = true.copy(), np.zeros(340, bool), np.zeros(340, bool)
    planted[300:] = True
    flipped[100:200:9] = True
    X[planted] = 60 * np.eye(8)[7] + 0.3 * rng.normal(size=(planted.sum(), 8))
    y[planted], y[flipped] = "a", "c"
    text = [f"row {i} of {label}" for i, label in enumerate(true)]
    for i in np.flatnonzero(planted):
        text[i] += " xyzzy"
    return Bunch(X=X, y=y, true=true, planted=planted, flipped=flipped, text=text)


@pytest.fixture(scope="module")
def data():
    return _clusters()


@pytest.fixture(scope="module")
def pipe():
    return Pipeline(
        [
            ("off_manifold", OffManifoldFilter(random_state=0)),
            ("vibe", VIBEClassifier(max_iter=100, random_state=0)),
        ]
    )


@pytest.fixture(scope="module")
def found(data, pipe):
    return audit(data.X, data.y, text=data.text, estimator=pipe)


def test_planted_rows_are_dropped_and_flipped_ones_relabelled(data, found):
    assert (found.actions[data.planted] == "drop").all()
    assert (found.removed_by[data.planted] == "OffManifoldFilter").all()
    assert np.isin(found.actions[data.flipped], ["relabel", "review"]).all()
    assert (found.predicted_labels[data.flipped] == "b").all()
    clean = ~data.planted & ~data.flipped
    assert (found.actions[clean] == "keep").mean() > 0.97


def test_the_estimator_given_is_not_fitted_and_inputs_are_not_changed(data, pipe):
    X, y = data.X.copy(), data.y.copy()
    X.flags.writeable = y.flags.writeable = False
    audit(X, y, estimator=pipe)
    assert not hasattr(pipe["vibe"], "classes_")
    assert np.array_equal(X, data.X)


def test_nearest_trusted_rows(found):
    near = found.nearest_trusted_rows
    assert (near[~found.is_suspect] == -1).all()
    assert (~found.is_suspect[near[found.is_suspect]]).all()


def test_groups_name_the_trigger_in_words(data, found):
    group = found.groups[0]
    assert group.label == "a"
    assert group.n_planted == data.planted.sum()
    assert [word for word, _, _ in group.words] == ["xyzzy"]
    first = group.sentences()[0]
    assert first.startswith("Class a holds 40 rows that look planted by one trigger")
    assert "form a group apart" in first
    assert "“xyzzy” 100 %" in first
    assert group.describe() in found.summary()


def test_flipped_labels_are_no_trigger(found):
    (group,) = [group for group in found.groups if group.label == "c"]
    assert group.evidence == []
    assert "no common trigger" in group.describe()
    assert next(iter(group.better_labels)) == "b"


def test_feature_names_tell_what_sets_the_group_apart(data, pipe):
    names = [f"feature {j}" for j in range(8)]
    named = audit(data.X, data.y, estimator=pipe, feature_names=names)
    assert named.groups[0].features[0][0] == "feature 7"
    assert "trusted rows: feature 7 60" in named.summary()
    with pytest.raises(ValueError, match="7 names for 8 features"):
        audit(data.X, data.y, estimator=pipe, feature_names=names[:7])


def test_table_has_a_line_for_each_row(data, found):
    table = found.table
    assert len(table) == len(data.y)
    assert table.index.name == "row"
    assert table["given_label"].tolist() == data.y.tolist()
    assert table["nearest_trusted_row"].isna().sum() == (~found.is_suspect).sum()
    assert (table.loc[table["action"] == "keep", "reason"] == "").all()
    suspects = found.suspects
    assert len(suspects) == found.is_suspect.sum()
    assert suspects["removed_by"].iloc[0] == "OffManifoldFilter"
    kept = suspects.loc[suspects["removed_by"] == "", "poison_score"]
    assert kept.is_monotonic_decreasing


def test_json_holds_the_same(found):
    read = json.loads(found.to_json())
    assert read["n_rows"] == 340
    assert read["n_suspects"] == len(read["suspects"]) == found.is_suspect.sum()
    assert read["summary"] == found.summary()
    assert read["removed_by"] == {"OffManifoldFilter": 40}
    assert read["groups"][0]["n_planted"] == 40


def test_csv_guards_formulas(data, pipe, tmp_path):
    text = ["=HYPERLINK(1)", *data.text[1:]]
    audit(data.X, data.y, text=text, estimator=pipe).to_csv(tmp_path / "all.csv")
    with open(tmp_path / "all.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 340
    assert lines[0]["text"] == "'=HYPERLINK(1)"
    assert lines[1]["text"] == data.text[1]


def test_the_same_audit_twice_gives_the_same_page(data, pipe, found):
    again = audit(data.X, data.y, text=data.text, estimator=pipe)
    assert again.to_html() == found.to_html()


def test_a_fitted_pipeline_is_read_as_it_is(data, pipe, found):
    from sklearn.base import clone

    fitted = clone(pipe).fit(data.X, data.y)
    read = Audit(fitted, data.X, data.y)
    assert np.array_equal(read.actions, found.actions)
    with pytest.raises(ValueError, match="fitted on 340 rows"):
        Audit(fitted, data.X[:10], data.y[:10])


def test_a_classifier_alone_will_do(data):
    alone = audit(data.X, data.y, estimator=VIBEClassifier(max_iter=50, random_state=0))
    assert (alone.removed_by == "").all()
    assert alone.to_html(figures=False).count("<script") == 2


def test_nothing_suspect():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)
    X = 20 * np.eye(2, 4)[y] + rng.normal(size=(120, 4))
    clean = audit(X, y, estimator=VIBEClassifier(max_iter=50, random_state=0))
    assert clean.summary() == "No row of 120 in 2 classes is suspect."
    assert clean.groups == []
    assert "No row of 120" in clean.to_html()
    assert clean.table["nearest_trusted_row"].isna().all()


def test_lengths_are_checked(data, pipe):
    for name in ("text", "images"):
        with pytest.raises(ValueError, match=f"{name} has 3 entries for 340 rows"):
            audit(data.X, data.y, estimator=pipe, **{name: ["a"] * 3})
    with pytest.raises(ValueError, match="y has 3 entries"):
        audit(data.X, data.y[:3], estimator=pipe)


def test_warnings_reach_the_caller_and_the_report(data):
    rows = np.r_[0:20, 101:115, 201:215]
    pipe = Pipeline(
        [
            ("trigger", TriggerFilter(random_state=0)),
            ("vibe", VIBEClassifier(max_iter=50, random_state=0)),
        ]
    )
    with pytest.warns(UserWarning, match="fewer rows than min_samples"):
        few = audit(data.X[rows], data.y[rows], estimator=pipe)
    assert "fewer rows than min_samples" in few.notes[0]
    assert "fewer rows than min_samples" in few.to_html(figures=False)


def test_quiet_unless_asked(data, pipe, capsys):
    audit(data.X, data.y, estimator=pipe)
    assert capsys.readouterr().out == ""
    audit(data.X, data.y, estimator=pipe, verbose=1)
    assert "[audit] nearest trusted rows" in capsys.readouterr().out


def test_hostile_values_are_data_everywhere_in_the_page(data, pipe):
    y = np.where(data.y == "a", "<img src=x onerror=alert(1)> $&", data.y)
    page = audit(
        data.X, y, text=[HOSTILE] * 340, estimator=pipe, feature_names=[HOSTILE] * 8
    ).to_html(title=HOSTILE)
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img src=x" not in page
    assert "alert(1)</script>" not in page


def test_the_page_asks_the_network_for_nothing(found):
    page = found.to_html()
    head = page[: page.index("<style>")]
    assert "default-src 'none'" in head
    assert "unsafe-inline" not in head
    for address in ("http://", "https://", "//cdn", "@import"):
        assert address not in page.replace("http://www.w3.org", "")


def test_the_page_holds_as_many_rows_as_fit(found):
    whole = suspect_data(found)
    assert len(whole["row"]) == found.is_suspect.sum()
    part = suspect_data(found, budget=1000)
    assert 0 < len(part["row"]) < len(whole["row"])
    assert part["row"] == whole["row"][: len(part["row"])]
    assert len(part["text"]) == len(part["row"])


def test_lone_surrogates_do_not_stop_the_report(data, pipe, tmp_path):
    odd = audit(data.X, data.y, text=["\ud800"] * 340, estimator=pipe)
    odd.to_html(tmp_path / "page.html", figures=False)
    assert (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_default_pipeline_finds_the_trigger_in_digits():
    digits = load_poisoned_digits()
    names = [f"pixel_{i // 8}_{i % 8}" for i in range(64)]
    with pytest.warns(UserWarning, match="more than half of the rows"):
        found = audit(digits.X, digits.y, feature_names=names)
    assert found.is_suspect[digits.poison_mask].all()
    first = found.groups[0]
    assert first.label == digits.target
    assert first.n_planted > 0.9 * digits.poison_mask.sum()
    told = {name for name, _, _ in first.features}
    assert {"pixel_6_6", "pixel_6_7", "pixel_7_6", "pixel_7_7"} <= told


def test_summary_says_where_to_start_if_many_rows_are_to_be_reviewed(found):
    many = copy.copy(found)
    many.actions = np.full(len(found.actions), "review")
    many.is_suspect = many.actions != "keep"
    many.poison_scores = np.linspace(0.5, 0.95, len(found.actions))
    n_high = int((many.poison_scores >= 0.9).sum())
    assert f"Review from the top: {n_high} of the 340 have" in many.summary()
    assert "from the top" not in found.summary()
