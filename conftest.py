"""Which modules doctest must leave alone."""

import importlib.util

# Importing it needs Triton, which comes with torch where there is CUDA.
collect_ignore = []
if importlib.util.find_spec("triton") is None:
    collect_ignore.append("skvibe/_fused_kernels.py")
