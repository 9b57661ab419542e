"""The commands that make runs again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from evoprune.errors import InputError
from evoprune.evidence.samples import opened, prunes
from evoprune.evidence.search_controls import SEARCH_CONTROLS
from evoprune.evidence.verdict import DIFFERENCE
from evoprune.methods.registry import METHODS
from evoprune.problems.datasets import DATASETS
from evoprune.problems.models import find_model
from evoprune.training.options import Training

__all__ = ["agree", "check_command", "command", "made_by_hand", "settings"]


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
    return shlex.join([*parts, *(["--test"] if opened(result) else [])])


def made_by_hand(result: Mapping[str, Any]) -> str:
    """What of a run's problem no command line says, from the content of its `result.json`; empty where all of it can be said."""
    arguments = result["arguments"]
    problem = arguments.get("problem", {})
    usual = {"standardize": True, "validation": 0.1, "seed": arguments.get("options", {}).get("seed")}
    usual["loss"] = "cross_entropy" if problem.get("task") == "classification" else "mse"
    others = [f"{name}={problem[name]}" for name, value in usual.items() if name in problem and problem[name] != value]
    data = str(problem.get("data"))
    return ", ".join([
        *([] if _is_model(str(problem.get("model"))) else [f"model {problem.get('model')}"]),
        *([] if data in DATASETS or data.endswith(".npz") else [f"data {data}"]),
        *others,
    ])  # fmt: skip


def _is_model(name: str) -> bool:
    try:
        find_model(name)
    except InputError:
        return False
    return True


def agree(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether one command can make all runs (method, options): what is set counts for every method that knows the option."""
    changed = [_changed(*run) for run in runs]
    told = {name: value for one in changed for name, value in one.items()}
    for (method, _), own in zip(runs, changed, strict=True):
        known = METHODS[method].options if method in METHODS else {}
        if any(own.get(name, known.get(name)) != value for name, value in told.items() if name in own or name in known):
            return False
    return True


def check_command(folder: str, told: Mapping[str, Any]) -> str:
    """The command that makes the check of a run again, from the content of its `check.json`."""
    asked = [(f"--{name}", str(told[name])) for name in ("seeds", "epochs", "difference") if told.get(name) is not None]
    usual = told.get("metric") == "accuracy" and told.get("difference") == DIFFERENCE
    parts = [part for option, value in asked for part in (option, value) if not (usual and option == "--difference")]
    named = told.get("options", {}).get("controls", ())
    searched = any(row.get("control") in SEARCH_CONTROLS and row["control"] not in named for row in told.get("controls", ()))
    return shlex.join(["evoprune", "check", folder, *parts, *(["--search"] if searched else []), *_set(told.get("options", {}))])


def settings(method: str, options: Mapping[str, Any]) -> list[str]:
    """`--engine`, `--device` and `--set` for every option that is not at its default."""
    return _set(_changed(method, options))


def _changed(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not at their default, those with a name of their own on the command line aside."""
    defaults = {**Training().as_dict(), **(METHODS[method].options if method in METHODS else {})}
    found = {}
    for name, value in options.items():
        default = defaults.get(name)
        same = value == default or (isinstance(default, tuple) and value == list(default))
        if name not in ("sparsity", "epochs", "seed") and name in defaults and not same:
            found[name] = value
    return found


def _set(options: Mapping[str, Any]) -> list[str]:
    """`--engine`, `--device` and `--set` of every option."""
    found: list[str] = []
    for name, value in options.items():
        found += [f"--{name}", _typed(value)] if name in ("engine", "device") else ["--set", f"{name}={_typed(value)}"]
    return found


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
