"""The page ``docs/paper_tables.md``: our number and the paper's, row by row."""

import csv
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from _stamp import ROOT, describe
from paper_cells import OUT_OF_REACH, all_rows

PAGE = ROOT / "docs" / "paper_tables.md"
_INTRO = """---
orphan: true
---

# The paper's tables

This page is written by a script from the results in
[`benchmarks/results`](../benchmarks/results); to make it again:

```
python benchmarks/paper_tables.py --scale cpu                 # digits, minutes
python benchmarks/paper_tables.py --scale cpu --data cifar10  # CIFAR-10, 4 classes
python benchmarks/paper_tables.py --scale gpu                 # the paper's own scale
python benchmarks/paper_tables.py --report                    # this page
```

Each can be stopped and given again; `--minutes 10` starts no run after ten minutes, and
a run that was killed goes on from its checkpoint. Settings are named as in the paper.
Percent throughout; AUROC, TPR and FPR are shares.

**ACC** is accuracy on clean test images, **ASR** the share of triggered test images of
other classes that are read as the target, **control** the same share for a model that
was trained in the same way on clean images: an ASR means nothing without it. "None" is
training as usual, "VIBE-SS" the paper's recipe from a self-supervised start, with the
filter unless it says `preprocess=no`. Rows of the table "main" are not in the
supplement: they are the attacks of the paper's main table, and this library's own
defaults for the class shares and the refit.

**At the scale "cpu" compare shapes, not levels.** Images are small and few, the encoder
has 0.1 million weights, pretraining takes seconds. Triggers are made to fit (see
`benchmarks/paper_images.py`): the corner has 2 x 2 pixels, the wave of SIG is slower,
FTrojan and CTRL write into the one grey channel, LC and SIG poison half the target
class, and VGG-11 is an eighth as wide and sees every pixel enlarged. One seed.
"""


def read_lines(file):
    """Results so far."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def read_paper():
    """(table, setting, metric) -> the paper's number, in percent as printed."""
    home = os.environ.get("SKVIBE_DATA", ROOT.parent / "shared" / "data")
    file = Path(home).parent / "paper_tables.csv"
    if not file.exists():
        return {}
    with open(file, newline="") as stream:
        return {
            (row["table"], row["setting"], row["metric"]): row["value"]
            for row in csv.DictReader(stream)
        }


def report(scales, results, seed):
    """The page, of every scale that has results."""
    paper = read_paper()
    parts = [_INTRO]
    for (name, data), scale in scales.items():
        lines = [
            line
            for line in read_lines(results / f"paper_tables_{name}_{data}.jsonl")
            if type(scale)(**line["scale"]) == scale and line["seed"] == seed
        ]
        if lines:
            parts += _report_scale(scale, lines, paper)
    beyond = "; ".join(f"{table} {what}: {why}" for table, what, why in OUT_OF_REACH)
    parts.append(f"\n## Rows that this benchmark cannot make\n\n{beyond}.")
    return "\n".join(parts) + "\n"


def _report_scale(scale, lines, paper):
    found = {line["run"]: line for line in lines}
    rows = [row for row in all_rows() if all(run.key in found for run in row.runs)]
    missing = [row for row in all_rows() if row not in rows]
    settings = ", ".join(f"{name} {value}" for name, value in asdict(scale).items())
    yield f"\n## Scale {scale.name}: {lines[0]['data']}\n"
    yield f"{settings}.\n"
    yield "| table | setting | ACC | paper | ASR | control | paper | rows removed |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    plain = [row for row in rows if "ASR" in row.metrics]
    yield from (_training_row(row, found, paper) for row in plain)
    detection = [row for row in rows if "AUROC" in row.metrics]
    if detection:
        yield "\n| table | setting | AUROC | paper | TPR | paper | FPR | paper |"
        yield "|---|---|---:|---:|---:|---:|---:|---:|"
        yield from (_detection_row(row, found, paper) for row in detection)
    if missing:
        runs = dict.fromkeys(run.key for row in missing for run in row.runs)
        left = [key for key in runs if key not in found]
        yield f"\nNot run yet at this scale: {_some(left)}."
    newest = max(lines, key=lambda line: line["stamp"]["date"])
    yield f"\nNewest run: {describe(newest['stamp'])}"


def _some(names, most=30):
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _training_row(row, found, paper):
    lines = [found[run.key] for run in row.runs]
    figures = []
    for metric in ("ACC", "ASR"):
        ours = _percent(lines, metric) if metric in row.metrics else ""
        figures.append(ours)
        if metric == "ASR":
            figures.append(_percent(lines, "control"))
        figures.append(paper.get((row.table, row.setting, metric), ""))
    removed = ""
    if len(lines) == 1 and "n_removed" in lines[0]:
        poison = lines[0]["n_removed_poison"]
        removed = f"{lines[0]['n_removed']} ({poison} of {lines[0]['n_poison']} poison)"
    return _cells(row.table, row.setting, *figures, removed)


def _detection_row(row, found, paper):
    (line,) = (found[run.key] for run in row.runs)
    figures = []
    for metric in row.metrics:
        figures.append(f"{line[metric]:.2f}")
        figures.append(paper.get((row.table, row.setting, metric), ""))
    return _cells(row.table, row.setting, *figures)


def _percent(lines, metric):
    return f"{100 * np.mean([line[metric] for line in lines]):.1f}"


def _cells(*cells):
    return "| " + " | ".join(cells) + " |"
