"""Tables of what is registered: methods with their cost, operators, criteria, models and the like."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from _held import links, tests_of
from _tables import prose, table

ROOT = Path(__file__).resolve().parent.parent
SPARSITY, EPOCHS, MODEL, DATA = 0.95, 10, "mlp:64", "digits"
"""Of the one run of every method whose ledger is shown as its cost."""

__all__ = [
    "allocations",
    "controls",
    "cost_setting",
    "criteria",
    "datasets",
    "engines",
    "method_index",
    "methods",
    "models",
    "operator_index",
    "operators",
    "rules",
    "search_controls",
    "training_options",
]

# ---- methods -------------------------------------------------------------------------------------------------------------


def methods() -> str:
    """One section a registered method: what it does, source, cost, options, what tests hold."""
    from evoprune.methods import METHODS
    from evoprune.methods.scorers import SCORERS

    costs = method_costs()
    searches = [_method(name, costs[name]) for name in sorted(METHODS) if name not in SCORERS]
    scorers = [_method(name, costs[name]) for name in sorted(SCORERS)]
    return "\n\n".join(["## Searches, rivals that train, and controls", *searches, "## Scorers", *scorers])


def method_index() -> str:
    """One row a method, with its cost."""
    from evoprune.methods import METHODS

    rows = [
        (f"[`{name}`](#{_anchor(name)})", METHODS[name].summary, f"{cost['dense_equivalent_epochs']:.3g}", f"{cost['samples']:,}")
        for name, cost in sorted(method_costs().items())
    ]
    return table(("method", "does", "dense-equivalent epochs", "samples"), rows)


def _anchor(name: str) -> str:
    return name.replace("_", "-") + "-method"


def _method(name: str, cost: Mapping[str, Any]) -> str:
    from evoprune.methods import METHODS
    from evoprune.methods.scorers import SCORERS

    found = METHODS[name]
    facts = [("source", found.reference), ("prunes", "yes" if found.sparse else "no: `sparsity` is accepted and ignored")]
    if name in SCORERS:
        needs = {"nothing": "no data", "inputs": "the shape of the inputs", "labels": "labelled training samples"}
        facts.append(("reads", needs[SCORERS[name].needs]))
        facts.append(("rounds", f"{SCORERS[name].steps}, a pruned weight {'may' if SCORERS[name].regrow else 'does not'} return"))
    facts.append(
        ("cost", f"{cost['dense_equivalent_epochs']:.3g} dense-equivalent epochs, {cost['samples']:,} samples (see the top)")
    )
    options = [
        (f"`{option}`", found.unset[option] if default is None and option in found.unset else _default(default))
        for option, default in found.options.items()
    ]
    parts = [
        f"### `{name}` {{ #{_anchor(name)} }}",
        prose(found.__doc__),
        table(("", ""), facts),
        table(("option", "default"), options) if options else "No options of its own.",
        "What is verified: " + links(["methods/test_contract.py"]) + " (the contract that every method keeps)"
        if not (held := [*tests_of(name, "methods", _functions(name)), *tests_of(name, "evolution", _functions(name))])
        else "What is verified, beside [the contract](verified/methods-test_contract.md) that every method keeps:",
        "\n".join(f"- {sentence} ({links([path])})" for path, sentence in held),
    ]
    return "\n\n".join(part for part in parts if part)


def _functions(name: str) -> tuple[str, ...]:
    from evoprune.methods import METHODS

    return (name, getattr(METHODS[name].function, "__name__", name), f"{name}_")


def method_costs() -> dict[str, dict[str, Any]]:
    """The ledger of one run of every method with its defaults (its counts do not depend on the engine); kept under build/."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted((ROOT / "evoprune").rglob("*.py")):
        digest.update(path.read_bytes())
    kept = ROOT / "build" / "docs" / f"costs-{digest.hexdigest()}.json"
    if kept.exists():
        found: dict[str, dict[str, Any]] = json.loads(kept.read_text())
        return found
    found = _measure_costs()
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found))
    return found


@cache
def _measure_costs() -> dict[str, dict[str, Any]]:
    import torch

    from evoprune.methods import METHODS
    from evoprune.problems.problem import Problem

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        problem = Problem(MODEL, DATA)
        found = {}
        for name in sorted(METHODS):
            ledger = METHODS[name](problem, sparsity=SPARSITY, epochs=EPOCHS, engine="sparse", device="cpu").ledger
            found[name] = {"samples": ledger.samples, "dense_equivalent_epochs": ledger.dense_equivalent_epochs}
        return found
    finally:
        torch.set_num_threads(threads)


def cost_setting() -> str:
    """With which arguments the costs were counted."""
    return (
        f"Here: one run of every method with its defaults, `{MODEL}` on `{DATA}`, sparsity {SPARSITY}, {EPOCHS} epochs.\n"
        "The runs are made when these pages are built. The numbers are counts from their ledgers, not times. Elsewhere:\n"
        f"`evoprune run METHOD --model {MODEL} --sparsity {SPARSITY} --epochs {EPOCHS} --json`."
    )


# ---- operators, criteria, models -----------------------------------------------------------------------------------------


def operators() -> str:
    """One section a registered operator."""
    from evoprune.evolution.operators import OPERATORS

    kinds = {"init": "makes an individual", "mutate": "changes one", "mate": "changes two", "model": "learns from many"}
    parts = []
    for name, entry in sorted(OPERATORS.items()):
        held = sorted({path for path, _ in tests_of(name, "evolution", ()) if "test_operators" in path})
        parameters = inspect.signature(entry.function).parameters.values()
        options = [(f"`{p.name}`", _default(p.default)) for p in parameters if p.default is not p.empty and p.name != "rng"]
        parts += [f"### `{name}` {{ #{name} }}", f"*{kinds[entry.kind]}* ({entry.kind})", prose(entry.__doc__)]
        parts += [table(("option", "default"), options)] if options else []
        parts += [f"What is verified: {links(held)}"] if held else []
    return "\n\n".join(parts)


def operator_index() -> str:
    """One row an operator."""
    from evoprune.evolution.operators import OPERATORS

    rows = [(f"[`{name}`](#{name})", entry.kind, entry.summary) for name, entry in sorted(OPERATORS.items())]
    return table(("operator", "kind", "does"), rows)


def criteria() -> str:
    """One row a criterion."""
    from evoprune.criteria import CRITERIA

    rows = [
        (
            f"`{name}`", entry.doc, "larger" if entry.direction == "max" else "smaller",
            "yes" if entry.trained else "no", "yes" if entry.relative else "no",
        )
        for name, entry in CRITERIA.items()
    ]  # fmt: skip
    return table(("criterion", "value", "fitter is", "needs training", "depends on the others"), rows)


def models() -> str:
    """One row a named model, with its prunable weights."""
    from evoprune.problems.models import model_table

    rows = [(f"`{row['name']}`", row["doc"], row["task"], row["input"], f"{row['prunable']:,}") for row in model_table()]
    return table(("model", "what it is", "task", "input", "prunable weights"), rows)


def datasets() -> str:
    """One row a named data set."""
    from evoprune.problems.datasets import DATASETS

    return table(("data", "what it is"), [(f"`{name}`", _first(entry)) for name, entry in DATASETS.items()])


def allocations() -> str:
    """One row an allocation."""
    from evoprune.masks.allocation import ALLOCATIONS

    return table(("allocation", "layer densities"), [(f"`{name}`", _first(entry)) for name, entry in ALLOCATIONS.items()])


def rules() -> str:
    """One row a dissipation rule."""
    from evoprune.methods.dissipation import RULES

    rows = [(f"`{name}`", entry.doc, "asked" if entry.counts else "an outcome") for name, entry in RULES.items()]
    return table(("rule", "what leaves", "sparsity"), rows)


def controls() -> str:
    """One row a control of a ticket."""
    from evoprune.evidence.controls import CONTROLS

    return table(("control", "what it changes"), [(f"`{name}`", _first(entry)) for name, entry in CONTROLS.items()])


def search_controls() -> str:
    """One row a control of a search."""
    from evoprune.evidence.search_controls import SEARCH_CONTROLS

    return table(("control", "what it changes"), [(f"`{name}`", _first(entry)) for name, entry in SEARCH_CONTROLS.items()])


def engines() -> str:
    """One row an engine."""
    from evoprune.training.engines import ENGINES

    return table(("engine", "how"), [(f"`{name}`", _first(entry)) for name, entry in ENGINES.items()])


def training_options() -> str:
    """The options that every method and `Population` accept."""
    from evoprune.training.options import Training

    defaults = Training().as_dict()
    return prose(Training.__doc__) + "\n\n" + table(("option", "default"), [(f"`{k}`", f"`{v!r}`") for k, v in defaults.items()])


def _default(value: object) -> str:
    return f"`{value.__name__ if inspect.isfunction(value) else repr(value)}`"


def _first(entry: object) -> str:
    doc = getattr(entry, "doc", None) or getattr(entry, "description", None) or inspect.getdoc(entry) or ""
    return str(doc).strip().splitlines()[0]
