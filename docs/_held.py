"""What tests hold: which speak of a method or an operator, as sentences, and a page for each file of tests."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

__all__ = ["links", "tests_of", "verified_pages"]


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


def links(paths: Sequence[str]) -> str:
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
