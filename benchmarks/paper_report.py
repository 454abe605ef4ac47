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
_INTRO = """# The paper's tables

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
supplement: they are the attacks of the paper's main table, and the same training with
this library's own steps (first E-step, class shares, refit on trusted rows).

**At the scale "cpu" compare shapes, not levels.** Images are small and few, the encoder
has 0.1 million weights, pretraining takes seconds. Triggers are made to fit (see
`benchmarks/paper_images.py`): the corner has 2 x 2 pixels, the wave of SIG is slower,
FTrojan and CTRL write into the one grey channel, LC has stronger noise and smaller
corners on digits, SIG (and on digits LC) poisons half the target class, and VGG-11 is
an eighth as wide and sees every pixel enlarged. The seed draws the poison, the
encoder's start and the order of the images; where several were run, a cell is their
mean and, in brackets, the lowest and the highest. The filter measures communities of
whitened directions against the classes as given (`distance="classes"`); the default,
which measures them against one another, lets LC through with an encoder this small.
Rows with a star were made by an earlier version of this library, with the filter on
features as they are; the command makes them anew.
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


def report(scales, results):
    """The page, of every scale that has results."""
    paper = read_paper()
    parts = [_INTRO]
    for (name, data), scale in scales.items():
        lines = [
            line
            for line in read_lines(results / f"paper_tables_{name}_{data}.jsonl")
            if type(scale)(**line["scale"]) == scale
        ]
        if lines:
            parts += _report_scale(scale, lines, paper)
    beyond = "; ".join(f"{table} {what}: {why}" for table, what, why in OUT_OF_REACH)
    parts.append(f"\n## Rows that this benchmark cannot make\n\n{beyond}.")
    return "\n".join(parts) + "\n"


def _report_scale(scale, lines, paper):
    found = {(line["run"], line["seed"]): line for line in lines}
    rows = [(row, _of_row(row, found)) for row in all_rows()]
    settings = ", ".join(f"{name} {value}" for name, value in asdict(scale).items())
    yield f"\n## Scale {scale.name}: {lines[0]['data']}\n"
    yield f"{settings}.\n"
    yield (
        "| table | setting | seeds | ACC | paper | ASR | control | paper "
        "| rows removed |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for row, seeds in rows:
        if seeds and "ASR" in row.metrics:
            yield _training_row(row, seeds, paper)
    detection = [(row, seeds) for row, seeds in rows if "AUROC" in row.metrics]
    if any(seeds for _, seeds in detection):
        yield (
            "\n| table | setting | seeds | AUROC | paper | TPR | paper | FPR | paper |"
        )
        yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
        yield from (_detection_row(*pair, paper) for pair in detection if pair[1])
    runs = dict.fromkeys(run.key for row, _ in rows for run in row.runs)
    made = {run for run, _ in found}
    if left := [key for key in runs if key not in made]:
        yield f"\nNot run yet at this scale: {_some(left)}."
    newest = max(lines, key=lambda line: line["stamp"]["date"])
    yield f"\nNewest run: {describe(newest['stamp'])}"


def _of_row(row, found):
    """The results that a row reads, a list for each seed that has them all."""
    seeds = sorted({seed for _, seed in found})
    of_seeds = [[found.get((run.key, seed)) for run in row.runs] for seed in seeds]
    return [lines for lines in of_seeds if None not in lines]


def _some(names, most=30):
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _training_row(row, seeds, paper):
    figures = [str(len(seeds))]
    for metric in ("ACC", "ASR"):
        figures.append(_percent(seeds, metric) if metric in row.metrics else "")
        if metric == "ASR":
            figures.append(_percent(seeds, "control"))
        figures.append(paper.get((row.table, row.setting, metric), ""))
    return _cells(row.table, _setting(row, seeds), *figures, _removed(seeds))


def _removed(seeds):
    """How many rows the filter removed, and how many of them were poison."""
    if len(seeds[0]) > 1 or "n_removed" not in seeds[0][0]:
        return ""
    lines = [lines[0] for lines in seeds]
    removed = "/".join(str(line["n_removed"]) for line in lines)
    poison = "/".join(str(line["n_removed_poison"]) for line in lines)
    return f"{removed} ({poison} of {lines[0]['n_poison']} poison)"


def _detection_row(row, seeds, paper):
    figures = [str(len(seeds))]
    for metric in row.metrics:
        figures.append(_spread(seeds, metric, ".2f"))
        figures.append(paper.get((row.table, row.setting, metric), ""))
    return _cells(row.table, _setting(row, seeds), *figures)


def _setting(row, seeds):
    """What the row shows, with a star if an earlier version made a part of it."""
    earlier = any(line.get("earlier") for lines in seeds for line in lines)
    return row.setting + " \\*" * earlier


def _percent(seeds, metric):
    return _spread(seeds, metric, ".1f", scale=100)


def _spread(seeds, metric, form, scale=1):
    """Mean over seeds, with the lowest and the highest."""
    values = [scale * np.mean([line[metric] for line in lines]) for lines in seeds]
    mean = format(np.mean(values), form)
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):{form}}-{max(values):{form}})"


def _cells(*cells):
    return "| " + " | ".join(cells) + " |"
