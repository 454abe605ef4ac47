#!/usr/bin/env bash
# What only a GPU can show, in under ten minutes on one of them:
#
#   benchmarks/gpu.sh            one NVIDIA GPU
#   benchmarks/gpu.sh --dry-run  the same steps on the processor, at small sizes
#
# An E-step of 1.28 million rows and 1,000 classes, a pass as a share of the measured
# copy bandwidth, the package's kernels against plain operations, a fit's ratio to the
# processor, and the tests that need CUDA. Writes gpu.json and gpu_fits.json in
# benchmarks/results (gpu_dry.json, gpu_fits_dry.json with --dry-run). PYTHON names the
# interpreter; the environment needs nothing but skvibe's own dependencies and, for the
# tests, the extra "test".
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ "${1:-}" = --dry-run ]; then
    "$PYTHON" benchmarks/bench_gpu.py --dry-run
    exit
fi
"$PYTHON" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || {
    echo "No CUDA device: run benchmarks/gpu.sh --dry-run instead." >&2
    exit 1
}
"$PYTHON" benchmarks/bench_gpu.py
# Kernels on the device, not in the interpreter, and what skips itself without one.
"$PYTHON" -m pytest -q -p no:cacheprovider -W ignore::DeprecationWarning \
    tests/test_cuda.py tests/test_fused_pass.py tests/test_transport.py -k "cuda or fused"
