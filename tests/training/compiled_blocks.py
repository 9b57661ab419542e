"""Compile the kernels for GPUs of two generations, without one: run by test_blocks.py, outside of Triton's interpreter."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from evoprune.training.engines.blocks.layer import PIXELS, UNITS
from evoprune.training.engines.blocks.product import product
from evoprune.training.engines.blocks.sampled import sampled
from evoprune.training.engines.blocks.transposed import transposed

INDICES = {"pointers": "*i32", "indices": "*i32", "order": "*i32", "first": "*i64"}
SUMMED = {"weights", "bias"}
"""Pointers to numbers of the type that products are summed in; in `sampled` also `out`, the survivors' gradient."""
FLAGS = {"BIASED", "RELU", "GATED", "STRIDED"}
LINEAR = {"lines", "out_width", "line_step", "pixel_step"}
"""Arguments that are 1 for a Linear layer, which Triton then compiles in."""


CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def compiled(kernel: Any, capability: int, stored: str, summed: str, *, linear: bool) -> bytes:
    """The machine code."""
    tile = UNITS if linear else PIXELS
    constants: dict[str, Any] = {"ENTRIES": tile.entries, "WIDTH": tile.width, "STRIDED": not linear}
    constants["SUM"] = tl.float64 if summed == "fp64" else tl.float32
    signature = {}
    for name in kernel.arg_names:
        if name in INDICES:
            signature[name] = INDICES[name]
        elif name in SUMMED or (kernel is sampled and name == "out"):
            signature[name] = f"*{summed}"
        elif name in ("out", "data", "delta", "gate"):
            signature[name] = f"*{stored}"
        elif name in FLAGS or name in constants or (linear and name in LINEAR):
            signature[name] = "constexpr"
            constants.setdefault(name, True if name in FLAGS else 1)
        else:
            signature[name] = "i32"
    known = {name: value for name, value in constants.items() if name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=known)
    target = GPUTarget("cuda", capability, 32)
    code: bytes = triton.compile(source, target=target, options={"num_warps": tile.warps}).asm["cubin"]
    return code


def spilled(code: bytes) -> int:
    """Bytes a thread keeps in memory because its registers are full."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        told = subprocess.run([str(CUOBJDUMP), "-res-usage", file.name], check=True, capture_output=True, text=True)
    found = re.search(r"STACK:(\d+).* LOCAL:(\d+)", told.stdout + told.stderr)
    assert found is not None, told.stdout
    return sum(int(number) for number in found.groups())


if __name__ == "__main__":
    for capability, stored, summed, linear in (
        (80, "fp32", "fp32", True),
        (90, "bf16", "fp32", True),
        (90, "fp64", "fp64", False),
    ):
        for kernel in (product, transposed, sampled):
            code = compiled(kernel, capability, stored, summed, linear=linear)
            sys.stdout.write(f"{kernel.__name__} sm_{capability} {stored} {len(code)} {spilled(code)}\n")
