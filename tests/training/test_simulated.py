"""What must hold on any device that is not the CPU, checked on a simulated one: nothing is mixed, and nobody waits in a step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"), reason="this torch has no devices in Python"
)
def test_engines_optimizers_and_methods_on_a_device_that_is_not_the_cpu() -> None:
    """In a process of its own: the device stays registered."""
    checks = ["tests/training/simulated_checks.py", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run([sys.executable, "-m", "pytest", *checks], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
