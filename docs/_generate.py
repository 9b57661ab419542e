"""What the docs show and nobody types: tables from the registries, results, what tests hold, and the reference.

A page asks for a table with a line `<!-- generated: NAME -->`; NAME is a key of `TABLES`. mkdocs runs this file as a hook.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

from _commands import commands  # noqa: E402
from _held import tests_of, verified_pages  # noqa: E402
from _reference import public_names, reference_pages  # noqa: E402
from _registries import (  # noqa: E402
    allocations,
    controls,
    cost_setting,
    criteria,
    datasets,
    engines,
    method_index,
    methods,
    models,
    operator_index,
    operators,
    rules,
    search_controls,
    training_options,
)
from _results import benchmark_pages, headline, pictures, published, study  # noqa: E402
from _scaling import SCALING  # noqa: E402

MARKER = re.compile(r"^<!-- generated: ([a-z-]+) -->$", flags=re.MULTILINE)

TABLES: dict[str, Callable[[], str]] = {
    "allocations": allocations,
    "benchmarks": benchmark_pages,
    "commands": commands,
    "controls": controls,
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
    "search-controls": search_controls,
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


__all__ = ["TABLES", "filled", "markers", "reference_pages", "tests_of", "verified_pages"]
