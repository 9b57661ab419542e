"""What the README shows is true: its Python runs, its tables are those of the registry and of the committed results."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=["python", "deap", "method"])
def test_the_readmes_python_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readmes_tables_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "readme.py"), "--check"], check=False)
    assert done.returncode == 0, "run: python benchmarks/readme.py"
