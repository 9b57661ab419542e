"""How a child came to be: operators run through here, leave a lineage on the child, and can be replayed from it.

A lineage is plain data, fit for JSON:

| key | meaning |
|---|---|
| `operator` | name in `OPERATORS` |
| `seed` | the 64 bits that the operator drew |
| `options` | what else its rule needs |
| `parents` | hashes of the masks that it came from, in order; those that were evaluated, or given without a lineage |
| `child` | which of the operator's children this is (0 or 1; absent where there is one) |
| `inputs` | only when operators ran one after the other without an evaluation between: one entry an input (see below) |

`varAnd` mates and then mutates, and nobody evaluates, or keeps, the mask between. So an entry of `inputs` is the hash of a parent
or the lineage of the step before. To tell the two apart, operators leave on a child, as `stale`, the fitness values of its
parent: while the individual still has these very values, or none, it was not evaluated. As `made` they leave the lineage with the
hash of the mask that came out, which tells when a function of the user's own has put on another.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from evoprune.errors import InputError
from evoprune.evolution.operators.registry import OPERATORS
from evoprune.masks.mask import Mask, common_space
from evoprune.masks.space import MaskSpace

__all__ = ["Lineage", "draw_seed", "generator", "lineage_of", "mate", "mutate", "record", "replay", "source", "stream"]

Lineage = dict[str, Any]
MAX_STEPS = (
    16  # a longer chain without an evaluation starts anew from the hash of what it reached, so that no lineage grows for ever
)


def draw_seed(rng: random.Random | None = None) -> int:
    """64 bits of `rng`, by default of the global `random`."""
    return random.getrandbits(64) if rng is None else rng.getrandbits(64)


def generator(seed: int) -> np.random.Generator:
    """The numpy generator of a seed."""
    return np.random.Generator(np.random.PCG64(seed))


def stream(rng: random.Random | None = None) -> np.random.Generator:
    """A numpy generator from one 64-bit draw of `rng`, by default of the global `random`."""
    return generator(draw_seed(rng))


# ---- running an operator ---------------------------------------------------------------------------------------------


def mutate(name: str, individual: Any, rng: random.Random | None, **options: Any) -> tuple[Any]:
    """Run the rule `name` on an individual, in place."""
    seed = draw_seed(rng)
    (mask,) = OPERATORS[name].rule(generator(seed), individual.mask, **options)
    record(individual, mask, name, seed, [source(individual)], options)
    return (individual,)


def mate(name: str, ind1: Any, ind2: Any, rng: random.Random | None, **options: Any) -> tuple[Any, Any]:
    """Run the rule `name` on two individuals of one space, in place. Raises `MaskMismatch` when the spaces differ."""
    common_space(ind1.mask, ind2.mask)
    seed = draw_seed(rng)
    masks = OPERATORS[name].rule(generator(seed), ind1.mask, ind2.mask, **options)
    sources = [source(ind1), source(ind2)]
    for child, (individual, mask) in enumerate(zip((ind1, ind2), masks, strict=True)):
        record(individual, mask, name, seed, sources, options, child=child)
    return ind1, ind2


def record(
    individual: Any,
    mask: Mask,
    name: str,
    seed: int,
    sources: list[str | Lineage],
    options: Mapping[str, Any],
    *,
    child: int | None = None,
) -> None:
    """Put on the mask that a step made, with its lineage; what the individual has for a fitness belongs to the mask before."""
    lineage: Lineage = {"operator": name, "seed": seed, "parents": [], "options": dict(options)}
    for each in sources:
        lineage["parents"] += [each] if isinstance(each, str) else each["parents"]
    if child is not None:
        lineage["child"] = child
    if not all(isinstance(each, str) for each in sources):
        lineage["inputs"] = sources
    individual.mask = mask
    with suppress(AttributeError):  # a class with slots does without
        individual.lineage = lineage
        individual.stale = _values(individual)
        individual.made = lineage, mask.hash


def lineage_of(individual: Any) -> Lineage:
    """The lineage of an individual; empty where a function that leaves none has changed the mask since it was written."""
    lineage: Lineage = getattr(individual, "lineage", None) or {}
    written, mask = getattr(individual, "made", (None, None))
    return {} if written is lineage and mask != individual.mask.hash else lineage


def source(individual: Any) -> str | Lineage:
    """Where an operator's input comes from: its hash, or its lineage while it was not evaluated since it was varied."""
    lineage = lineage_of(individual)
    values = _values(individual)
    varied = bool(lineage) and (not values or values is getattr(individual, "stale", None))
    return lineage if varied and _steps(lineage) < MAX_STEPS else str(individual.mask.hash)


def _values(individual: Any) -> tuple[float, ...]:
    """The fitness as the tuple object that DEAP holds: another object means another evaluation; copies and pickles keep it."""
    values: tuple[float, ...] = getattr(getattr(individual, "fitness", None), "wvalues", ())
    return values


def _steps(origin: str | Lineage) -> int:
    return 0 if isinstance(origin, str) else 1 + sum(_steps(each) for each in origin.get("inputs", ()))


# ---- replaying it --------------------------------------------------------------------------------------------------------


def replay(
    lineage: Mapping[str, Any], parents: Mapping[str, Mask] | Iterable[Any] = (), *, space: MaskSpace | None = None
) -> Mask:
    """The mask of the child that has this lineage, exactly.

    parents: masks or individuals, or a mapping of hashes to masks; more than needed is fine. space: for a lineage without
    parents (`initSparse`), the space it was drawn from. Raises `InputError` when a parent is missing or the lineage is not
    one of an operator.
    """
    known = parents if isinstance(parents, Mapping) else {mask.hash: mask for mask in map(_mask, parents)}
    try:
        rule, seed, options = OPERATORS[lineage["operator"]].rule, int(lineage["seed"]), lineage["options"]
        origins, child = lineage.get("inputs", lineage["parents"]), int(lineage.get("child", 0))
    except (KeyError, TypeError):
        raise InputError(f"{lineage!r} is no lineage of an operator: give an individual's own") from None
    inputs: list[Mask | MaskSpace] = [
        _found(each, known) if isinstance(each, str) else replay(each, known, space=space) for each in origins
    ]
    if not inputs:
        if space is None:
            raise InputError(f"{lineage['operator']} drew this mask from a space, not from parents: give space=")
        inputs = [space]
    return rule(generator(seed), *inputs, **options)[child]


def _mask(parent: Any) -> Mask:
    mask: Mask = parent if isinstance(parent, Mask) else parent.mask
    return mask


def _found(parent: str, known: Mapping[str, Mask]) -> Mask:
    if parent not in known:
        raise InputError(f"the parent with hash {parent} is not among the {len(known)} given: replay its own lineage first")
    return known[parent]
