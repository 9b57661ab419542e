"""The names a user types are there, cheap to import, and no others."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import evoprune as ep

HEAVY = ("pandas", "scipy", "matplotlib", "numba", "ray", "sklearn", "llvmlite", "rich", "typer", "jinja2", "pooch")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.strip()


@pytest.mark.parametrize(
    "code",
    ["import evoprune", "import evoprune as ep; ep.Mask, ep.MaskSpace, ep.Problem, ep.Ticket, ep.random_mask, ep.Individual"],
    ids=["evoprune", "masks and problems"],
)
def test_importing_loads_nothing_heavy(code: str) -> None:
    assert python(f"import sys; {code}; print([name for name in {HEAVY!r} if name in sys.modules])") == "[]"


def test_importing_moves_no_global_generator_and_opens_no_gpu() -> None:
    code = """
import random, numpy as np, torch
before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
import evoprune as ep
[getattr(ep, name) for name in ep.__all__]
assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
print(torch.cuda.is_initialized())
"""
    assert python(code) == "False"


@pytest.mark.parametrize("name", ep.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(ep, name)
    assert name in dir(ep)
    assert name == "__version__" or value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'evoprune' has no attribute 'kstart'"):
        ep.kstart  # noqa: B018
    assert not hasattr(ep, "np")
    with pytest.raises(ImportError):
        from evoprune import no_such_name  # type: ignore[attr-defined]  # noqa: F401


def test_registries_can_be_asked_by_name() -> None:
    assert ep.methods["kstarts"] is ep.kstarts
    assert ep.criteria["loss"].direction == "min"
    assert {"random", "dropout", "kstarts", "dissipating", "combined", "dense", "evolve"} <= set(ep.methods)
    assert "kstarts" in ep.methods


@pytest.mark.parametrize("name", ep.methods)
def test_every_method_has_a_line_for_the_tables(name: str) -> None:
    method = ep.methods[name]
    assert 10 < len(method.summary) < 130
    assert method.reference
    assert "problem" not in method.options


def test_every_module_says_what_it_is_for() -> None:
    for found in pkgutil.walk_packages(ep.__path__, "evoprune."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        assert (module.__doc__ or "").strip() or not getattr(module, "__all__", ()), found.name


def test_a_package_that_ships_types_says_so() -> None:
    from pathlib import Path

    assert (Path(ep.__file__).parent / "py.typed").exists()
