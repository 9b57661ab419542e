"""The reference: one page a package, with the public names of its modules, and the names of the top level."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path
from types import ModuleType

from _tables import prose, table

ROOT = Path(__file__).resolve().parent.parent

__all__ = ["public_names", "reference_pages"]

PAGES = {
    "masks": ("masks", "The genome: space, budget, allocation, mask, topology, files."),
    "problems": ("problems", "What is trained: data sets, models, losses, initial weights."),
    "training": ("training", "How a generation is trained: population, trace, engines, ledger, ticket."),
    "criteria": ("criteria", "What training told, as one number an individual."),
    "evolution": ("evolution", "DEAP: individual, operators, toolbox, batch map, journal, tournament, loop, executors."),
    "methods": ("methods", "One file a method, and the scorers."),
    "evidence": ("evidence", "Statistics, tables, plots."),
    "runs": ("runs and comparisons", "Run folders and comparisons on disk."),
    "foundations": ("foundations", "Errors, seeds, files and formats, registries, and the tests for methods of your own."),
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
