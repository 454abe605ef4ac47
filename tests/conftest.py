"""Set-up that must come before any test module is imported."""

import os

# Read when scipy is first imported: without it check_estimator skips its array-API
# checks.
os.environ["SCIPY_ARRAY_API"] = "1"
# One thread: on shared machines two were measured far slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import threadpoolctl
import torch

torch.set_num_threads(1)
# Kernels written for a GPU are interpreted where there is none; read by their import.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# A plugin of pytest may have loaded numpy before this file, and with it a BLAS library
# of as many threads as there are cores.
threadpoolctl.threadpool_limits(1)
# The same examples in every run, and no time limit: a slow machine is not a bug.
# HYPOTHESIS_PROFILE=explore looks for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
