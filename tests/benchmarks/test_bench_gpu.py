"""The GPU script, without a GPU: every step on the processor, at small sizes."""

import json
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/bench_gpu.py"


@pytest.mark.slow
def test_dry_run_makes_every_measurement(tmp_path):
    import sys

    root = SCRIPT.parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, str(SCRIPT), "--dry-run", "--out", str(tmp_path)],
        check=True,
        capture_output=True,
        env=environment,
    )
    found = json.loads((tmp_path / "gpu_dry.json").read_text())
    assert found["dry_run"]
    assert found["copy_bytes_per_s"] > 0
    for record in found["transport"]:
        solved = record["plain operations"]
        assert solved["converged"]
        assert solved["repeatable"]
        assert solved["pass_s"]["with curvature"] > 0
    assert found["agreement"]["equal_labels"] == 1.0
    found = json.loads((tmp_path / "gpu_fits_dry.json").read_text())
    assert found["fits"][0]["equal_predictions"] == 1.0


def test_shell_script_is_sound_and_asks_for_a_device():
    script = SCRIPT.with_name("gpu.sh")
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
