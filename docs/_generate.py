"""What the docs show and nobody types: tables from the registries, results, what tests hold, and the reference.

A page asks for a table with a line `<!-- generated: NAME -->`; NAME is a key of `TABLES`. mkdocs runs this file as a hook.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

from _results import benchmark_pages, headline, pictures, published, study  # noqa: E402
from _scaling import SCALING  # noqa: E402
from _tables import table  # noqa: E402

MARKER = re.compile(r"^<!-- generated: ([a-z-]+) -->$", flags=re.MULTILINE)
SPARSITY, EPOCHS, MODEL, DATA = 0.95, 10, "mlp:64", "digits"
"""Of the one run of every method whose ledger is shown as its cost."""

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
        "What is verified: " + _links(["methods/test_contract.py"]) + " (the contract that every method keeps)"
        if not (held := [*tests_of(name, "methods", _functions(name)), *tests_of(name, "evolution", _functions(name))])
        else "What is verified, beside [the contract](verified/methods-test_contract.md) that every method keeps:",
        "\n".join(f"- {sentence} ({_links([path])})" for path, sentence in held),
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


# ---- what tests hold -----------------------------------------------------------------------------------------------------


def tests_of(name: str, folder: str, own: Iterable[str]) -> list[tuple[str, str]]:
    """(file, sentence) of every test under tests/`folder` that speaks of `name`, or lies in `test_name.py`."""
    functions, found = {name, *own}, []
    strict = name in _ambiguous()
    for path in sorted((ROOT / "tests" / folder).glob("test_*.py")):
        for test, strings, called, functions_used in _read_tests(path):
            spoken = called if strict else strings | called
            if path.stem == f"test_{name}" or name in spoken or functions & functions_used:
                found.append((f"{folder}/{path.name}", _sentence(test)))
    return found


@cache
def _read_tests(path: Path) -> list[tuple[str, set[str], set[str], set[str]]]:
    """Of every test: its name, the texts in it, the registered names it calls, the imported functions it uses."""
    tree = ast.parse(path.read_text())
    tables = {
        target.id: _strings(node)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("evoprune")
        for alias in node.names
    }
    read = []
    for test in _tests(tree):
        called = {name for name in map(_called, ast.walk(test)) if name}
        names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
        strings = _strings(test).union(*(tables.get(name, set()) for name in names))
        read.append((test.name, strings, called, names & imported))
    return read


def _tests(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def _called(node: ast.AST) -> str | None:
    """`name` in `ep.name`, `ep.methods["name"]` and `METHODS["name"]`."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ep":
        return node.attr
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        holder = node.value
        known = holder.attr if isinstance(holder, ast.Attribute) else holder.id if isinstance(holder, ast.Name) else ""
        return node.slice.value if known.lower() in ("methods", "scorers", "operators") else None
    return None


@cache
def _ambiguous() -> frozenset[str]:
    """Names of methods that are names of something else too."""
    from evoprune.criteria import CRITERIA
    from evoprune.masks.allocation import ALLOCATIONS
    from evoprune.training.engines import ENGINES
    from evoprune.training.initializers import INITIALIZERS

    return frozenset({*CRITERIA, *ALLOCATIONS, *ENGINES, *INITIALIZERS})


def _strings(tree: ast.AST) -> set[str]:
    """Text constants, without those that name an engine, a criterion, or another option of that kind."""
    aside = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in ("engine", "criterion", "first", "match", "ids", "rule", "allocation")
        for value in ast.walk(node.value)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in aside
    }


def _sentence(test: str) -> str:
    return test.removeprefix("test_").replace("_", " ")


def _links(paths: Sequence[str]) -> str:
    return ", ".join(f"[`tests/{path}`](verified/{_page(path)})" for path in paths)


def _page(path: str) -> str:
    return path.replace("/", "-").removesuffix(".py") + ".md"


def verified_pages() -> dict[str, str]:
    """A page for each test file of methods and operators: its tests as sentences, then its source."""
    pages = {}
    for folder, pattern in (("methods", "test_*.py"), ("evolution", "test_*.py")):
        for path in sorted((ROOT / "tests" / folder).glob(pattern)):
            source = path.read_text()
            tree = ast.parse(source)
            lines = [f"- {_sentence(test.name)}" for test in _tests(tree)]
            name = f"{folder}/{path.name}"
            pages[f"verified/{_page(name)}"] = (
                f"---\nsearch:\n  exclude: true\n---\n\n# tests/{name}\n\n{ast.get_docstring(tree) or ''}\n\n"
                + "\n".join(lines)
                + f"\n\n```python\n{source.rstrip()}\n```\n"
            )
    return pages


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
        parts += [f"What is verified: {_links(held)}"] if held else []
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


def prose(doc: str | None) -> str:
    """A docstring as markdown."""
    return re.sub(r"[<*](?! )", lambda found: "&lt;" if found[0] == "<" else r"\*", inspect.cleandoc(doc or ""))


# ---- reference -----------------------------------------------------------------------------------------------------------

PAGES = {
    "masks": ("masks", "The genome: space, budget, allocation, mask, topology, files."),
    "problems": ("problems", "What is trained: data sets, models, losses, initial weights."),
    "training": ("training", "How a generation is trained: population, trace, engines, ledger, ticket."),
    "criteria": ("criteria", "What training told, as one number an individual."),
    "evolution": ("evolution", "DEAP: individual, operators, toolbox, batch map, journal, tournament, loop, executors."),
    "methods": ("methods", "One file a method, and the scorers."),
    "evidence": ("evidence", "Statistics, tables, plots."),
    "runs": ("runs and comparisons", "Run folders and comparisons on disk."),
    "foundations": ("foundations", "Errors, seeds, files, registries, and the tests for methods of your own."),
}
INNER = ("kernels", "sparse", "cli", "__main__")
"""Parts of a module's name that make it inner: documented in the source, not here."""


def page_of(module: str) -> str:
    """The reference page of a module `evoprune.…`."""
    top = module.split(".")[1]
    return {"compare": "runs"}.get(top, top if top in PAGES else "foundations")


@cache
def public_modules() -> dict[str, tuple[str, ...]]:
    """Modules that define public names, and the names, in the order of the files."""
    found = {}
    for path in sorted((ROOT / "evoprune").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if len(parts) < 2 or parts[-1] == "__init__" or set(parts) & set(INNER):
            continue
        tree = ast.parse(path.read_text())
        names = tuple(name for name in _exported(tree) if name in _documented(tree))
        if names:
            found[".".join(parts)] = names
    return found


def _exported(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return [name for name in ast.literal_eval(node.value) if isinstance(name, str)]
    return []


def _documented(tree: ast.Module) -> set[str]:
    """Functions and classes with a docstring, and assigned names with a text below them."""
    found = set()
    for node, after in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            found.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(after, ast.Expr):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and isinstance(after.value, ast.Constant):
                found.add(target.id)
    return found


def reference_pages() -> dict[str, str]:
    """One page a package: the public names of its modules."""
    pages = {}
    for page, (title, about) in PAGES.items():
        parts = [f"# {title}", about]
        for module, names in public_modules().items():
            if page_of(module) == page:
                tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
                parts += [f"## `{module}`", prose(ast.get_docstring(tree))]
                parts += [f"::: {module}.{name}" for name in names]
        pages[f"reference/{page}.md"] = "\n\n".join(part for part in parts if part) + "\n"
    return pages


def public_names() -> str:
    """The names of the top level."""
    import evoprune as ep

    rows = []
    for name in sorted((name for name in ep.__all__ if not name.startswith("__")), key=str.lower):
        value = getattr(ep, name)
        holder = getattr(value, "function", value)
        module, own = getattr(holder, "__module__", ""), getattr(holder, "__name__", name)
        known = own in public_modules().get(module, ())
        shown = f"[`{name}`][{module}.{own}]" if known else f"`{name}`"
        rows.append((shown, _summary(value, module, own), f"`{_home(value, module)}`"))
    return table(("name", "what it is", "defined in"), rows)


def _summary(value: object, module: str, name: str) -> str:
    """The first line of a docstring; from the source where a class has given `__doc__` another meaning."""
    doc = inspect.getdoc(value)
    if not doc:
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        doc = next(ast.get_docstring(node) for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name) or ""
    return doc.strip().splitlines()[0]


def _home(value: object, module: str) -> str:
    return value.__name__ if isinstance(value, ModuleType) else module


# ---- the hook ------------------------------------------------------------------------------------------------------------

TABLES: dict[str, Callable[[], str]] = {
    "allocations": allocations,
    "benchmarks": benchmark_pages,
    "cost-setting": cost_setting,
    "criteria": criteria,
    "datasets": datasets,
    "engines": engines,
    "headline": headline,
    "method-index": method_index,
    "methods": methods,
    "models": models,
    "operator-index": operator_index,
    "operators": operators,
    "public-names": public_names,
    "published": published,
    "rules": rules,
    "training-options": training_options,
    **SCALING,
    **study(),
}


def filled(text: str) -> str:
    """`text` with every marker replaced by its table. Raises `KeyError` for a marker that nobody makes."""
    return MARKER.sub(lambda found: TABLES[found[1]](), text)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are generated whole, and the pictures of the results."""
    from mkdocs.structure.files import File

    for path, text in {**reference_pages(), **verified_pages()}.items():
        files.append(File.generated(config, path, content=text))
    for path, source in pictures().items():
        files.append(File.generated(config, path, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the markers of a page."""
    return filled(markdown)


def on_serve(server: Any, **_: Any) -> Any:
    """Build again when a source or a result changes."""
    for folder in ("evoprune", "benchmarks"):
        server.watch(str(ROOT / folder))
    return server


def markers(text: str) -> Iterator[str]:
    """Names of the markers in a page."""
    return (found[1] for found in MARKER.finditer(text))


__all__ = ["TABLES", "filled", "markers", "reference_pages", "verified_pages"]
