"""Set-up that must come before any test module is imported."""

import os

# Read when scipy is first imported: without it check_estimator skips its array-API
# checks.
os.environ["SCIPY_ARRAY_API"] = "1"
# One thread: on shared machines two were measured far slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

torch.set_num_threads(1)
