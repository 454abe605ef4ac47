"""The kernels for GPUs compile, also where there is none to run them on."""

import os
import subprocess
import sys

import pytest

triton = pytest.importorskip("triton", "3.7")

# In a process of its own: in this one the kernels may be interpreted.
SCRIPT = """
import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from skvibe import _fused_kernels
from skvibe._fused_pass import FusedPass
from skvibe._row_sweep import RowSweep

KINDS = {
    torch.float32: "fp32", torch.float64: "fp64", torch.float16: "fp16",
    torch.int8: "i8", torch.int32: "i32", torch.int64: "i64",
}
compiled = set()


class Compiled:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *args, num_warps=4, **constants):
        names = self.kernel.arg_names
        signature = dict.fromkeys(names, "constexpr")
        for name, value in zip(names, args, strict=False):
            if isinstance(value, torch.Tensor):
                signature[name] = "*" + KINDS[value.dtype]
            elif value == 1:  # as Triton does
                constants[name] = 1
            else:
                signature[name] = "i32"
        key = (self.kernel.__name__, str(signature), str(constants), num_warps)
        if key in compiled:
            return
        compiled.add(key)
        source = ASTSource(self.kernel, signature, constexprs=constants)
        triton.compile(
            source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps}
        )


for name in ("screen", "soften", "reaches", "collect", "gram"):
    setattr(_fused_kernels, name, Compiled(getattr(_fused_kernels, name)))


def run(log_p, first, dense, curvature, final, working=torch.float32):
    sweep = RowSweep(lambda: [log_p], n_rows=len(log_p), lam=1.0)
    sweep._seen = not first
    sweep._ambiguous = {1.0: float(dense)}
    g = np.zeros(log_p.shape[1])
    current = FusedPass(sweep, g, 1.0, curvature, final)
    current.working = working
    labels = torch.zeros(len(log_p), dtype=torch.int64) if final else None
    current.add(log_p, labels)


for rows, classes in ((300, 10), (70, 100), (40, 1000)):
    run(torch.zeros(rows, classes), True, False, True, False)
    run(torch.zeros(rows, classes), False, False, False, True)
run(torch.zeros(10, 300).T, False, True, True, False)
run(torch.zeros(300, 9, dtype=torch.float16), True, False, True, False)
run(torch.zeros(300, 9), True, False, True, False, torch.float64)
run(torch.zeros(20, 5000), False, False, True, False)
print(len(compiled), "kernels")
"""


@pytest.mark.slow
def test_kernels_compile_without_a_gpu():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout.split()[0]) >= 20
