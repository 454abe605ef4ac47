"""The paper's tables as Markdown: our number and the paper's, row by row."""

import csv
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
from _stamp import ROOT, describe
from paper_cells import OUT_OF_REACH, all_rows


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
    """Print our number / the paper's for every scale that has results."""
    paper = read_paper()
    for (name, data), scale in scales.items():
        lines = [
            line
            for line in read_lines(results / f"paper_tables_{name}_{data}.jsonl")
            if type(scale)(**line["scale"]) == scale and line["seed"] == seed
        ]
        if lines:
            _report_scale(scale, lines, paper)


def _report_scale(scale, lines, paper):
    print(f"\n## Scale {scale.name}: {lines[0]['data']}\n")
    settings = asdict(scale).items()
    print(", ".join(f"{name} {value}" for name, value in settings) + ".\n")
    print("| table | setting | figure | ours | control | paper |")
    print("|---|---|---|---:|---:|---:|")
    found = {line["run"]: line for line in lines}
    for row in all_rows():
        for metric in row.metrics:
            print(_report_line(row, metric, found, paper))
    for table, setting, reason in OUT_OF_REACH:
        figures = [
            f"{metric} {value}"
            for (its_table, its_setting, metric), value in paper.items()
            if (its_table, its_setting) == (table, setting)
        ]
        print(f"| {table} | {setting} | | not run: {reason} | | {', '.join(figures)} |")
    newest = max(lines, key=lambda line: line["stamp"]["date"])
    print(f"\nNewest run: {describe(newest['stamp'])}")


def _report_line(row, metric, found, paper):
    theirs = paper.get((row.table, row.setting, metric), "")
    control = ""
    lines = [found.get(run.key) for run in row.runs]
    if None in lines:
        ours = "not run yet"
    else:
        ours = _figure(lines, metric)
        control = _figure(lines, "control") if metric == "ASR" else ""
    cells = (row.table, row.setting, metric, ours, control, theirs)
    return "| " + " | ".join(cells) + " |"


def _figure(lines, metric):
    """Mean over the lines; shares in percent, detection figures as they are."""
    mean = float(np.mean([line[metric] for line in lines]))
    return f"{mean:.2f}" if metric in ("AUROC", "TPR", "FPR") else f"{100 * mean:.1f}"
