"""Guided mutation does what training told, says what guided it, and is random where nothing was told."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest

from evoprune.errors import MaskMismatch
from evoprune.evolution.individual import Individual
from evoprune.evolution.operators import Told, cxSetUniform, mutGuided, mutSwap, replay
from evoprune.masks.sampling import random_mask
from evoprune.masks.space import MaskSpace

SPACE = MaskSpace(("a", "b"), ((20, 20), (10, 10)))


def trained(seed: int = 0, candidates: bool = True) -> Individual:
    """An individual whose movement is known, with the pruned weights as candidates, scored in a random order."""
    draw = np.random.default_rng(seed)
    individual = Individual(random_mask(SPACE, sparsity=0.9, allocation="uniform", seed=seed))
    individual.fitness.values = (1.0,)
    grown = []
    for own, size in zip(individual.mask.survivors, SPACE.sizes, strict=True):
        pruned = draw.permutation(np.setdiff1d(np.arange(size), own))
        grown.append((pruned, np.arange(len(pruned), dtype=np.float32)))
    movement = tuple(draw.permutation(count).astype(np.float32) for count in individual.mask.counts)
    individual.told = Told(individual.mask, movement, tuple(grown) if candidates else None)  # type: ignore[attr-defined]
    return individual


def test_the_least_moved_leave_and_the_best_candidates_enter() -> None:
    parent, random_ = trained(), random.Random(1)
    told: Told = parent.told  # type: ignore[attr-defined]
    child = copy.deepcopy(parent)
    mutGuided(child, share=0.25, rng=random_)
    assert (child.lineage["options"]["off"], child.lineage["options"]["on"]) == ("movement", "gradient")
    for layer, (old, new) in enumerate(zip(parent.mask.survivors, child.mask.survivors, strict=True)):
        number = round(0.25 * len(old))
        assert set(old) - set(new) == set(old[told.movement[layer] < number])
        indices, scores = told.grown[layer]  # type: ignore[index]
        assert set(new) - set(old) == set(indices[scores >= len(scores) - number])
    assert replay(child.lineage, [parent]) == child.mask
    assert replay(child.lineage, [parent.mask]) == child.mask  # without what training told


def test_without_anything_told_it_is_random_and_says_so() -> None:
    children = []
    for seed in range(20):
        child = Individual(random_mask(SPACE, sparsity=0.9))
        mutGuided(child, swaps=5, rng=random.Random(seed))
        assert (child.lineage["options"]["off"], child.lineage["options"]["on"]) == ("random", "random")
        children.append(child.mask.hash)
    assert len(set(children)) == 20


def test_candidates_alone_may_be_missing() -> None:
    child = trained(candidates=False)
    before = child.mask
    mutGuided(child, swaps=4, rng=random.Random(1))
    assert (child.lineage["options"]["off"], child.lineage["options"]["on"]) == ("movement", "random")
    assert (before ^ child.mask).count == 8


def test_either_side_can_be_random_on_request() -> None:
    parent = trained()
    children = [mutGuided(copy.deepcopy(parent), share=0.2, off="random", rng=random.Random(seed))[0].mask for seed in range(9)]
    assert len({(parent.mask - child).hash for child in children}) == 9
    assert len({(child - parent.mask).hash for child in children}) == 1
    children = [mutGuided(copy.deepcopy(parent), share=0.2, on="random", rng=random.Random(seed))[0].mask for seed in range(9)]
    assert len({(parent.mask - child).hash for child in children}) == 1
    assert len({(child - parent.mask).hash for child in children}) == 9


def test_noise_makes_children_differ_and_still_listens() -> None:
    parent = trained()
    told: Told = parent.told  # type: ignore[attr-defined]
    ranks = []
    for seed in range(30):
        child = mutGuided(copy.deepcopy(parent), share=0.2, noise=True, rng=random.Random(seed))[0]
        gone = ~np.isin(parent.mask.survivors[0], child.mask.survivors[0])
        ranks.append(told.movement[0][gone].mean())
    assert len(set(ranks)) > 10
    assert np.mean(ranks) < 0.6 * told.movement[0].mean()


def test_what_came_after_the_training_is_spared() -> None:
    a, b = trained(1), trained(2)
    cxSetUniform(a, b, rng=random.Random(1))
    known = np.isin(a.mask.survivors[0], a.told.mask.survivors[0])  # type: ignore[attr-defined]
    assert 0 < known.sum() < len(known)
    before = a.mask.survivors
    mutGuided(a, share=0.3, rng=random.Random(2))
    gone = ~np.isin(before[0], a.mask.survivors[0])
    assert (known | ~gone).all()
    mutGuided(a, swaps=10**6, rng=random.Random(3))  # more than are known: the others leave too
    assert a.mask.counts == b.mask.counts


def test_too_few_candidates_are_completed_at_random() -> None:
    individual = trained()
    told: Told = individual.told  # type: ignore[attr-defined]
    few = tuple((indices[:2], scores[:2]) for indices, scores in told.grown)  # type: ignore[union-attr]
    individual.told = Told(told.mask, told.movement, few)  # type: ignore[attr-defined]
    before = individual.mask
    mutGuided(individual, share=0.5, rng=random.Random(1))
    for layer, (indices, _) in enumerate(few):
        assert np.isin(indices, individual.mask.survivors[layer]).all()
    assert individual.mask.counts == before.counts
    assert (individual.mask - before).counts == tuple(count // 2 for count in before.counts)


def test_ties_are_broken_at_random() -> None:
    parent = trained()
    still = Told(parent.mask, tuple(np.zeros(count) for count in parent.mask.counts))
    children = set()
    for seed in range(10):
        child = copy.deepcopy(parent)
        child.told = still
        children.add(mutGuided(child, share=0.2, rng=random.Random(seed))[0].mask.hash)
    assert len(children) == 10


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_diverged_network_tells_nothing(bad: float) -> None:
    individual = trained()
    movement = [array.copy() for array in individual.told.movement]  # type: ignore[attr-defined]
    movement[1][0] = bad
    individual.told = Told(individual.mask, tuple(movement))  # type: ignore[attr-defined]
    mutGuided(individual, share=0.2, rng=random.Random(1))
    assert individual.lineage["options"]["off"] == "random"


def test_candidates_without_a_number_are_left_out() -> None:
    individual = trained()
    told: Told = individual.told  # type: ignore[attr-defined]
    grown = tuple((indices, np.full(len(scores), np.nan)) for indices, scores in told.grown)  # type: ignore[union-attr]
    individual.told = Told(told.mask, told.movement, grown)  # type: ignore[attr-defined]
    counts = individual.mask.counts
    mutGuided(individual, share=0.2, rng=random.Random(1))
    assert individual.mask.counts == counts


def test_clones_share_what_was_told_and_swaps_outlive_it() -> None:
    parent = trained()
    child = copy.deepcopy(parent)
    assert child.told is parent.told  # type: ignore[attr-defined]
    mutSwap(child)
    mutGuided(child)
    assert child.mask.counts == parent.mask.counts


def test_arrays_that_do_not_fit_are_refused() -> None:
    mask = random_mask(SPACE, sparsity=0.9)
    movement = tuple(np.zeros(count) for count in mask.counts)
    with pytest.raises(MaskMismatch, match="one number a survivor"):
        Told(mask, movement[:1])
    with pytest.raises(MaskMismatch, match="one number a survivor"):
        Told(mask, (movement[0][:-1], movement[1]))
    with pytest.raises(MaskMismatch, match="layers"):
        Told(mask, movement, ())
    with pytest.raises(MaskMismatch, match="one score a candidate"):
        Told(mask, movement, ((np.arange(2), np.zeros(3)),) * 2)
