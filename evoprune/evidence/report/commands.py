"""The commands that make runs again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from evoprune.evidence.tables import prunes
from evoprune.methods.registry import METHODS
from evoprune.training.options import Training

__all__ = ["command", "settings"]


def command(result: Mapping[str, Any]) -> str:
    """The command that makes a run again, from the content of its `result.json`."""
    arguments = result["arguments"]
    options, problem = arguments.get("options", {}), arguments.get("problem", {})
    parts = ["evoprune", "run", str(result["method"]), "--data", str(problem.get("data", result.get("data")))]
    parts += ["--model", str(result.get("model"))]
    if options.get("sparsity") is not None and prunes(str(result["method"])):
        parts += ["--sparsity", _typed(options["sparsity"])]
    for name in ("epochs", "seed"):
        if options.get(name) is not None:
            parts += [f"--{name}", str(options[name])]
    parts += settings(str(result["method"]), options)
    return shlex.join([*parts, *(["--test"] if result.get("test_score") is not None else [])])


def settings(method: str, options: Mapping[str, Any]) -> list[str]:
    """`--engine`, `--device` and `--set` for every option that is not at its default."""
    defaults = {**Training().as_dict(), **(METHODS[method].options if method in METHODS else {})}
    found: list[str] = []
    for name, value in options.items():
        default = defaults.get(name)
        same = value == default or (isinstance(default, tuple) and value == list(default))
        if name in ("sparsity", "epochs", "seed") or same or name not in defaults:
            continue
        found += [f"--{name}", _typed(value)] if name in ("engine", "device") else ["--set", f"{name}={_typed(value)}"]
    return found


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
