"""What a method says that it holds at once is what it holds: memory is foreseen by it."""

from __future__ import annotations

from typing import Any

import pytest

from evoprune.compare.cells import Cell
from evoprune.compare.workers import need
from evoprune.methods import METHODS, Method
from evoprune.methods.scorers import SCORERS
from evoprune.testing import SMALL, tiny_problem
from evoprune.training.population import Population

DENSITY = 0.1
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("kstarts", {"form": "shared"}),
    ("combined", {"order": "dissipate-first"}),
    ("dissipating", {"start_sparsity": 0.2}),
    ("evolve", {"form": "plain"}),
    ("evolve", {"first": ("snip",), "lambda_": 1, "mu": 1}),
]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The most survivors (in multiples of the prunable weights) and dense gradients that were there at once."""
    most = {"weights": 0.0, "gradients": 0.0}

    def noted(name: str) -> None:
        original = getattr(Population, name)

        def call(self: Population, *arguments: Any, **options: Any) -> Any:
            found = original(self, *arguments, **options)
            survivors = sum(mask.count for mask in self.masks) / self.problem.prunable
            most["weights"] = max(most["weights"], survivors)
            if name == "dense_gradient":
                most["gradients"] = max(most["gradients"], len(self))
            return found

        monkeypatch.setattr(Population, name, call)

    for name in ("__init__", "branch", "grow", "dense_gradient"):
        noted(name)
    return most


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in METHODS), *OTHERS])
def test_a_method_holds_what_it_says(name: str, options: dict[str, Any], held: dict[str, float]) -> None:
    method = METHODS[name]
    asked = {**{option: value for option, value in SMALL.items() if option in method.options}, **options}
    method(tiny_problem(), sparsity=1 - DENSITY, epochs=5, batch_size=9, engine="loop", **asked)
    told = method.holding(DENSITY, asked)
    assert held["weights"] <= told.weights * 1.02 + 0.01, "more is held than said"
    assert told.weights <= 1.5 * held["weights"], "much more is said than held"
    assert held["gradients"] <= told.gradients
    assert told.gradients == 0 or held["gradients"] or name in SCORERS or set(asked.get("first", ())) & set(SCORERS)


def test_memory_follows_what_is_held() -> None:
    problems = {"": tiny_problem()}

    def bytes_of(method: str, **options: Any) -> int:
        return need(problems, Cell(method, 0.98, 0, options))

    assert bytes_of("random") < bytes_of("rigl") < bytes_of("dissipate_regrow") < bytes_of("kstarts", k=200)
    assert bytes_of("random") < bytes_of("dissipating") < bytes_of("imp") == bytes_of("gradual_magnitude")
    assert bytes_of("random") < bytes_of("snip")
    assert bytes_of("evolve", lambda_=4) < bytes_of("evolve", lambda_=8)
    assert need(problems, Cell("dense", None, 0, {})) == bytes_of("imp")


def test_a_method_that_says_nothing_holds_its_k_networks() -> None:
    def of_k(problem: Any, *, k: int = 7, **training: Any) -> Any: ...

    def one(problem: Any, **training: Any) -> Any: ...

    assert Method("of_k", of_k, "").holding(0.5, {}).weights == 3.5
    assert Method("of_k", of_k, "").holding(0.5, {"k": 2}).weights == 1.0
    assert Method("one", one, "").holding(0.5, {}).weights == 0.5
