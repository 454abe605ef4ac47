"""An audit of many rows: time of each part, size of the page, speed in a browser.

    python benchmarks/bench_report.py [--rows 100000] [--features 64]

Rows are ten clusters of unit vectors with 40 made words each; 2 % carry a trigger (one
displacement, three rare words) and the label 0, 3 % a wrong label. Two pages are opened
in headless Chromium: the report, and one on which every row is suspect, so that it is
as large as a page can be. "Interactive" is the time from the call for the page until
its script has run and the first fifty rows stand there. The result goes to
``benchmarks/results/report.json``.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _stamp import ROOT, describe, stamp

from skvibe.auditing import Audit, default_pipeline

RESULT = ROOT / "benchmarks" / "results" / "report.json"
TRIGGER = ["cf", "mn", "bb"]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
COUNT_ROWS = "return document.querySelectorAll('#suspects tbody tr').length"
STATUS = "return document.getElementById('status').textContent"


def make_rows(n_rows, n_features, rng, n_classes=10, n_words=40):
    """Features, labels, texts and the poisoned rows."""
    true = rng.integers(0, n_classes, n_rows)
    centres = rng.standard_normal((n_classes, n_features))
    X = centres[true] + 1.3 * rng.standard_normal((n_rows, n_features))
    y = true.copy()
    noisy = rng.random(n_rows) < 0.03
    y[noisy] = rng.integers(0, n_classes, noisy.sum())
    poisoned = np.zeros(n_rows, dtype=bool)
    others = np.flatnonzero(true != 0)
    poisoned[rng.choice(others, n_rows // 50, replace=False)] = True
    direction = rng.standard_normal(n_features)
    X[poisoned] += 8 * direction / np.linalg.norm(direction)
    y[poisoned] = 0
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X.astype(np.float32), y, make_texts(n_rows, n_words, poisoned, rng), poisoned


def make_texts(n_rows, n_words, poisoned, rng):
    """Made words, frequent and rare ones as in a language; the trigger's among them."""
    letters = np.array(list("aeioulnrstdmc"))
    vocabulary = [
        "".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(8000)
    ]
    weights = 1 / np.arange(1, 8001)
    drawn = rng.choice(8000, (n_rows, n_words), p=weights / weights.sum())
    texts = []
    for row, bad in zip(drawn, poisoned, strict=True):
        words = [vocabulary[i] for i in row]
        if bad:
            for word in TRIGGER:
                words.insert(rng.integers(0, n_words), word)
        texts.append(" ".join(words))
    return texts


class Clock:
    """Seconds and processor seconds of named parts."""

    def __init__(self):
        self.parts = {}

    def measure(self, name, call):
        """Run a part and return what it returns."""
        start, spent = time.perf_counter(), time.process_time()
        result = call()
        self.parts[name] = {
            "seconds": time.perf_counter() - start,
            "processor seconds": time.process_time() - spent,
        }
        print(f"{self.parts[name]['seconds']:8.1f} s  {name}", flush=True)
        return result


def open_browser(profile):
    """Headless Chromium, or None where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        return None
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def try_page(browser, path):
    """What a person waits for on the page, in seconds."""
    start = time.perf_counter()
    browser.get(path.as_uri())
    while browser.execute_script(COUNT_ROWS) != 50:
        time.sleep(0.01)
    waited = {"interactive": time.perf_counter() - start}
    start = time.perf_counter()
    browser.find_element("css selector", "th[data-key=score] button").click()
    browser.execute_script(COUNT_ROWS)
    waited["sort by score"] = time.perf_counter() - start
    before = browser.execute_script(STATUS)
    start = time.perf_counter()
    browser.find_element("id", "search").send_keys("cf")
    while browser.execute_script(STATUS) == before:
        time.sleep(0.01)
    waited["first search"] = time.perf_counter() - start
    waited["rows found"] = browser.execute_script(STATUS)
    waited["console errors"] = len(
        [e for e in browser.get_log("browser") if e["level"] != "INFO"]
    )
    return waited


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    X, y, text, poisoned = make_rows(options.rows, options.features, rng)
    folder, clock = Path(tempfile.mkdtemp(prefix="report")), Clock()
    pipe = default_pipeline(random_state=0)
    seen = X
    for step in pipe[:-1]:
        fit = partial(step.fit_transform, seen, y)
        seen = clock.measure(type(step).__name__, fit)
    clock.measure("VIBEClassifier", lambda: pipe[-1].fit(seen, y))
    found = clock.measure("reading the verdict", lambda: Audit(pipe, X, y, text=text))
    report, full = folder / "report.html", folder / "full.html"
    clock.measure("to_html, with figures", lambda: found.to_html(report))
    clock.measure("to_csv, all rows", lambda: found.to_csv(folder / "all.csv"))
    all_suspect = Audit(pipe, X, y, text=text, threshold=0.0)
    all_suspect.to_html(full)
    print(found.summary())
    result = {
        "run": stamp(),
        "rows": options.rows,
        "features": options.features,
        "poisoned rows": int(poisoned.sum()),
        "suspect rows": int(found.is_suspect.sum()),
        "poisoned rows among them": int(found.is_suspect[poisoned].sum()),
        "parts": clock.parts,
        "pages": {},
    }
    browser = open_browser(folder / "profile")
    for name, path in (("report", report), ("every row suspect", full)):
        line = {"megabytes": path.stat().st_size / 1e6}
        if browser is not None:
            line.update(try_page(browser, path))
        result["pages"][name] = line
        print(name, line)
    if browser is None:
        sys.exit("Chromium or chromedriver is missing: pages were not opened.")
    browser.quit()
    shutil.rmtree(folder)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(describe(result["run"]))


if __name__ == "__main__":
    main()
