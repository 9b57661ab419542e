"""Vectors of other machines than this one: numba compiles for what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CPUINFO = Path("/proc/cpuinfo")

AGREES = """
import json, torch
from torch import nn
from evoprune.masks.sampling import random_masks
from evoprune.problems.problem import Problem
from evoprune.training.engines.kernels.vectors import lanes
from evoprune.training.population import Population
from tests.tiny import small_conv, table

torch.set_num_threads(1)
torch.manual_seed(0)  # of other weights, once in a while, an input of a ReLU is 0 but for rounding
errors = []
for net, shape in (nn.Sequential(nn.Linear(37, 19), nn.ReLU(), nn.Linear(19, 3)), (37,)), (small_conv(), (1, 8, 8)):
    problem = Problem(net, table(shape, 3, 120))
    masks = random_masks(problem.space, 3, sparsity=0.6)
    trained = [
        Population(problem, masks, horizon=1, engine=engine, device="cpu", batch_size=108, lr=0.01).train(1).parameters.leaves()
        for engine in ("loop", "sparse")
    ]
    errors += [(a - b).abs().max().item() for a, b in zip(*(one.values() for one in trained), strict=True)]
print(json.dumps([lanes(32), max(errors)]))
"""


@pytest.mark.parametrize(
    ("cpu", "features", "lanes"),
    [("generic", "", 4), ("haswell", "+avx,+avx2,+fma", 8)],
    ids=["no vectors but the oldest", "AVX2"],
)
def test_training_agrees_with_the_loop_in_the_vectors_that_numba_is_told(
    cpu: str, features: str, lanes: int, tmp_path: Path
) -> None:
    """Machines of different kinds share a numba cache that way: code of one width beside tables of another would be wrong."""
    if features and not (CPUINFO.exists() and {"avx2", "fma"} <= set(CPUINFO.read_text().split())):
        pytest.skip("this machine has no AVX2, or does not say so in /proc/cpuinfo")
    told = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", AGREES], check=False, capture_output=True, text=True, env={**os.environ, **told}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    width, error = json.loads(done.stdout)
    assert width == lanes
    assert error < 1e-6
