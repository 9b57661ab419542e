"""What decides a run: equal arguments give equal tickets."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evoprune.criteria import CRITERIA
from evoprune.formats import as_json
from evoprune.masks.allocation import allocate
from evoprune.methods.dissipation import RULES
from evoprune.methods.registry import ASIDE, Method, hint
from evoprune.problems.problem import Problem
from evoprune.training.engines import ENGINES
from evoprune.training.options import Training

__all__ = ["Arguments", "default_sparsity"]

FORMAT = 1
SPARSITY = 0.95
"""What is asked when nobody asks."""


@dataclass(frozen=True)
class Arguments:
    """Everything that decides a run: equal arguments give equal tickets.

    options: every option by name, defaults included, JSON-able; its "sparsity" is a list of two where a range is asked, and None
    where the sparsity is an outcome.
    chosen: those that are not at their default. passed: what the method is called with. problem: `Problem.describe()`.
    versions: of what decides a result, by name.
    """

    method: str
    options: dict[str, Any]
    chosen: dict[str, Any]
    passed: dict[str, Any]
    problem: dict[str, Any]
    versions: dict[str, str]

    @classmethod
    def of(cls, method: Method, problem: Problem, options: Mapping[str, Any]) -> Arguments:
        """Check the options and fill in the defaults; numpy's numbers are taken as Python's. Raises `InputError`."""
        options = {name: _native(value, method, name) for name, value in options.items()}
        method.check(options)
        defaults = {name: p.default for name, p in method.__signature__.parameters.items() if p.default is not p.empty}
        defaults = {**Training().as_dict(), **defaults}
        every = {**defaults, **options}
        given = options.get("sparsity")
        every["sparsity"] = default_sparsity(method, every) if given is None else _plain(given)
        _check_values(problem, every)
        passed = {name: value for name, value in options.items() if name != "sparsity"}
        if every["sparsity"] is not None:
            passed["sparsity"] = every["sparsity"] if given is None else given
        plain, usual = as_json({name: every[name] for name in every if name not in ASIDE}), as_json(defaults)
        common = ("sparsity", "epochs", "seed")
        chosen = {name: value for name, value in plain.items() if name in common or value != usual[name]}
        return cls(method.name, plain, chosen, passed, problem.describe(), method.versions(plain))

    @property
    def hash(self) -> str:
        """32 hex digits. Versions that differ in the patch alone share them, and so do those before and after a new option."""
        version = ".".join(self.versions["evoprune"].split(".")[:2])
        identity = [FORMAT, version, self.method, self.chosen, self.problem["fingerprint"]]
        return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()

    def default_folder(self) -> Path:
        """`runs/<time>-<method>-<hash>`."""
        return Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{self.method}-{self.hash[:8]}"

    def as_dict(self) -> dict[str, Any]:
        """For `result.json`."""
        return {"format": FORMAT, "hash": self.hash, "options": self.options, "problem": self.problem, "versions": self.versions}


def _native(value: Any, method: Method, name: str) -> Any:
    """numpy's numbers and arrays as Python's, and a whole number as a float where one is meant: 1 is spelt 1.0 then."""
    native = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    if type(native) is not int:
        return native
    taker = method.function if name in method.__signature__.parameters else Training
    return float(native) if hint(taker, name) in (float, float | None) else native


def _check_values(problem: Problem, options: Mapping[str, Any]) -> None:
    """Refuse before any work what a method would refuse at its first use."""
    for name, known in (("criterion", CRITERIA), ("rule", RULES), ("engine", ENGINES)):
        asked = options.get(name)
        for value in [asked] if isinstance(asked, str) else asked or []:
            if value != "auto":
                known[value]
    Training(device=options["device"]).resolved_device()
    if "allocation" in options:
        for one in _bounds(options["sparsity"]):
            allocate(problem.space, one, options["allocation"])


def _plain(sparsity: Any) -> float | list[float]:
    """A number; the lowest and the highest where a range is asked."""
    return [float(one) for one in sparsity] if isinstance(sparsity, (tuple, list)) else float(sparsity)


def _bounds(sparsity: float | list[float] | None) -> list[float]:
    """What is asked as a list: one number, both ends of a range, nothing where the sparsity is an outcome."""
    return sparsity if isinstance(sparsity, list) else [] if sparsity is None else [sparsity]


def default_sparsity(method: Method, options: Mapping[str, Any]) -> float | list[float] | None:
    """What is asked where nobody asks: 0 of a method that prunes nothing, None where the options make it an outcome."""
    if not method.sparse:
        return 0.0
    outcome = options.get("rule") in RULES and not RULES[options["rule"]].counts
    given = options.get("sparsity")
    return None if outcome else SPARSITY if given is None else _plain(given)
