"""The commands that make runs again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from evoprune.evidence.search_controls import SEARCH_CONTROLS
from evoprune.evidence.tables import prunes
from evoprune.evidence.verdict import DIFFERENCE
from evoprune.methods.registry import METHODS
from evoprune.training.options import Training

__all__ = ["check_command", "command", "settings"]


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


def check_command(folder: str, told: Mapping[str, Any]) -> str:
    """The command that makes the check of a run again, from the content of its `check.json`."""
    asked = [(f"--{name}", str(told[name])) for name in ("seeds", "epochs", "difference") if told.get(name) is not None]
    usual = told.get("metric") == "accuracy" and told.get("difference") == DIFFERENCE
    parts = [part for option, value in asked for part in (option, value) if not (usual and option == "--difference")]
    searched = any(row.get("control") in SEARCH_CONTROLS for row in told.get("controls", ()))
    return shlex.join(["evoprune", "check", folder, *parts, *(["--search"] if searched else []), *_set(told.get("options", {}))])


def settings(method: str, options: Mapping[str, Any]) -> list[str]:
    """`--engine`, `--device` and `--set` for every option that is not at its default."""
    defaults = {**Training().as_dict(), **(METHODS[method].options if method in METHODS else {})}
    found: list[str] = []
    for name, value in options.items():
        default = defaults.get(name)
        same = value == default or (isinstance(default, tuple) and value == list(default))
        if name in ("sparsity", "epochs", "seed") or same or name not in defaults:
            continue
        found += _set({name: value})
    return found


def _set(options: Mapping[str, Any]) -> list[str]:
    """`--engine`, `--device` and `--set` of every option."""
    found: list[str] = []
    for name, value in options.items():
        found += [f"--{name}", _typed(value)] if name in ("engine", "device") else ["--set", f"{name}={_typed(value)}"]
    return found


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
