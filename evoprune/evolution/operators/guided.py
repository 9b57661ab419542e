"""mutGuided: off what training moved least, on what its gradients ask for."""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import numpy.typing as npt

from evoprune.errors import InputError
from evoprune.evolution.operators.lineage import draw_seed, generator, record, source
from evoprune.evolution.operators.registry import operator
from evoprune.evolution.operators.sets import changed, membership, merged, outside, with_layers
from evoprune.evolution.operators.swap import drawn_layer
from evoprune.evolution.operators.told import Scores, Told
from evoprune.masks.mask import Indices, Mask, common_space
from evoprune.masks.sampling import random_subset
from evoprune.registry import one_of
from evoprune.values import probability, whole

__all__ = ["mutGuided"]

Changes = dict[int, tuple[Indices, Indices]]
"""By layer: the survivors that leave, the indices that enter."""


def apply(draw: np.random.Generator, mask: Mask, *, changes: dict[str, list[str]], **told: object) -> tuple[Mask]:
    """The rule of `mutGuided`, which draws nothing: the lineage holds the changes, since what training told is not kept."""
    unpack = {}
    for layer, (off, on) in changes.items():
        dtype = kind(mask, int(layer))
        unpack[int(layer)] = unpacked(off, dtype), unpacked(on, dtype)
    return (apply_changes(mask, unpack),)


@operator("mutate", apply)
def mutGuided(
    individual: Any,
    *,
    swaps: int | None = None,
    share: float | None = None,
    off: str = "movement",
    on: str = "gradient",
    noise: bool = False,
    rng: random.Random | None = None,
) -> tuple[Any]:
    """Turn off the survivors that moved least in the last training, and on the pruned weights of the largest gradient told.

    swaps: how many in one layer, drawn as by `mutSwap`, heavy-tailed when None. share: instead, this share of the survivors of
    every layer (rounded, as far as there is room). off: "movement" or "random". on: "gradient" or "random". noise: multiply
    the scores by uniform random numbers, so that children of one parent differ more.

    Reads `individual.told` (see `Told`; a toolbox's map tells the dense gradient on one batch). What it does not tell is
    random: without movement what leaves, without candidates what enters. Survivors that came after the training are spared.
    Ties are broken at random. The lineage's options say what guided (`off`, `on`), and hold the changes.
    [Mocanu 2018, arXiv:1707.04780 (off: nearest to zero); Evci 2020, arXiv:1911.11134]
    """
    one_of("way off", off, ("movement", "random"))
    one_of("way on", on, ("gradient", "random"))
    if swaps is not None and share is not None:
        raise InputError(f"swaps={swaps!r} and share={share!r} contradict each other: give one of them")
    mask, told = individual.mask, usable(individual)
    seed = draw_seed(rng)
    draw = generator(seed)
    guides = {"off": off if told else "random", "on": on if told and told.grown is not None else "random"}
    changes: Changes = {}
    for layer, number in plan(draw, mask, swaps, share).items():
        leaving = leave(draw, mask, layer, number, told if guides["off"] == "movement" else None, noise)
        changes[layer] = leaving, enter(draw, mask, layer, number, told if guides["on"] == "gradient" else None, noise)
    packs = {str(layer): [packed(each, kind(mask, layer)) for each in pair] for layer, pair in changes.items()}
    record(individual, apply_changes(mask, changes), "mutGuided", seed, [source(individual)], {**guides, "changes": packs})
    return (individual,)


def usable(individual: Any) -> Told | None:
    """What training told about an individual; None when nothing, or when its network had diverged."""
    told: Told | None = getattr(individual, "told", None)
    if told is None or not all(np.isfinite(layer).all() for layer in told.movement):
        return None
    common_space(individual.mask, told.mask)
    return told


def plan(draw: np.random.Generator, mask: Mask, swaps: int | None, share: float | None) -> dict[int, int]:
    """How many are exchanged, by layer."""
    if share is None:
        drawn = drawn_layer(draw, mask, None if swaps is None else whole("swaps", swaps))
        return dict([drawn]) if drawn else {}
    part = probability("share", share)
    numbers = (min(round(part * count), size - count) for count, size in zip(mask.counts, mask.space.sizes, strict=True))
    return {layer: number for layer, number in enumerate(numbers) if number}


def leave(draw: np.random.Generator, mask: Mask, layer: int, number: int, told: Told | None, noise: bool) -> Indices:
    """The survivors of a layer that leave: those that moved least; those that were not trained only when no other is left."""
    survivors = mask.survivors[layer]
    if told is None:
        return survivors[random_subset(draw, len(survivors), number)]
    known, places = membership(survivors, told.mask.survivors[layer])
    candidates, movement = survivors[known], told.movement[layer][places[known]]
    chosen = candidates[least(draw, noisy(draw, movement, noise), min(number, len(candidates)))]
    new = survivors[~known]
    return merged(chosen, new[random_subset(draw, len(new), number - len(chosen))])


def enter(draw: np.random.Generator, mask: Mask, layer: int, number: int, told: Told | None, noise: bool) -> Indices:
    """The pruned weights of a layer that enter: the candidates of the largest scores; random ones when there are too few."""
    survivors, size = mask.survivors[layer], mask.space.sizes[layer]
    chosen = survivors[:0]
    if told is not None and told.grown is not None:
        indices, scores = told.grown[layer]
        free = ~membership(indices, survivors)[0] & np.isfinite(scores)
        candidates, scores = indices[free], scores[free]
        chosen = np.sort(candidates[least(draw, -noisy(draw, scores, noise), min(number, len(candidates)))])
    taken = merged(survivors, chosen)
    return merged(chosen, outside(taken, random_subset(draw, size - len(taken), number - len(chosen))))


def noisy(draw: np.random.Generator, scores: Scores, noise: bool) -> Scores:
    return scores * draw.random(len(scores)) if noise else scores


def least(draw: np.random.Generator, scores: Scores, number: int) -> Indices:
    """Sorted positions of the `number` smallest scores, ties broken at random."""
    if number == 0:
        return np.zeros(0, dtype=np.int64)
    threshold = np.partition(scores, number - 1)[number - 1]
    below, equal = np.flatnonzero(scores < threshold), np.flatnonzero(scores == threshold)
    return merged(below, equal[random_subset(draw, len(equal), number - len(below))])


def apply_changes(mask: Mask, changes: Changes) -> Mask:
    """`mask` with the changes made."""
    layers = {}
    for layer, (leaving, entering) in changes.items():
        survivors = mask.survivors[layer]
        layers[layer] = changed(survivors, np.searchsorted(survivors, leaving), entering)
    return with_layers(mask, layers)


def kind(mask: Mask, layer: int) -> str:
    """The type that holds every index of a layer."""
    return "<u4" if mask.space.sizes[layer] <= 2**32 else "<u8"


def packed(indices: Indices, dtype: str) -> str:
    """Indices as text."""
    return base64.b64encode(indices.astype(dtype).tobytes()).decode()


def unpacked(text: str, dtype: str) -> npt.NDArray[np.int64]:
    return np.frombuffer(base64.b64decode(text), dtype=dtype).astype(np.int64)
