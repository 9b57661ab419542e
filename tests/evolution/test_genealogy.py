"""Genealogy: every winner can be made again from operators and seeds alone."""

from __future__ import annotations

import copy
import json
import pickle
import random
from typing import Any

import numpy as np
import pytest

import evoprune as ep
from evoprune.errors import InputError
from evoprune.evolution.genealogy import diversity
from evoprune.evolution.operators.lineage import lineage_of
from evoprune.masks import Mask
from evoprune.masks.sampling import random_masks
from tests.tiny import mlp


def search(**options: Any) -> Any:
    toolbox = ep.make_toolbox(mlp(), sparsity=0.8, epochs=1, batch_size=24, engine="dense", **options)
    random.seed(3)
    *_, state = ep.generations(toolbox.population(n=6), toolbox, 0.4, 0.6, 5)
    return state


@pytest.mark.parametrize("options", [{}, {"mutate": "mutGuided"}, {"mutate": "mutMoveBudget", "mate": "cxLayers"}])
def test_every_individual_is_replayed_to_its_exact_mask(options: dict[str, Any]) -> None:
    state = search(**options)
    for one in [*state.population, state.best]:
        assert state.genealogy.replay(one.mask.hash, mlp().space) == one.mask
    frame = state.genealogy.frame()
    assert {"generation", "mask", "parents", "operator", "operator_seed", "loss", "diversity"} <= set(frame.columns)
    assert set(frame.loc[frame["generation"] == 0, "operator"]) == {"initSparse"}
    known = set(frame["mask"])
    assert all(parent in known for parents in frame["parents"] for parent in parents)
    json.dumps(list(frame["lineage"]))


def test_ancestors_come_before_their_children() -> None:
    state = search()
    order = state.genealogy.ancestors(state.best.mask.hash)
    assert order[-1] == state.best.mask.hash
    lineages = {row["mask"]: row["parents"] for _, row in state.genealogy.frame().iterrows()}
    for place, mask in enumerate(order):
        assert set(lineages[mask]) <= set(order[:place])


def test_unknown_and_given_masks_say_what_to_do() -> None:
    state = search()
    with pytest.raises(InputError, match="was evaluated"):
        state.genealogy.ancestors("none")
    toolbox = ep.make_toolbox(mlp(), sparsity=0.8, epochs=1, batch_size=24, engine="dense")
    given = toolbox.from_mask(ep.random_mask(mlp().space, sparsity=0.8))
    (state,) = ep.generations([given], toolbox, 0, 0, 0)
    with pytest.raises(InputError, match="known="):
        state.genealogy.replay(given.mask.hash, mlp().space)
    assert state.genealogy.replay(given.mask.hash, mlp().space, {given.mask.hash: given.mask}) == given.mask


def test_diversity_is_the_mean_over_pairs() -> None:
    masks = [ep.random_mask(mlp().space, sparsity=0.7, seed=seed) for seed in range(5)]
    pairs = [1 - (a & b).count / a.count for a in masks for b in masks if a is not b]
    assert diversity(masks) == pytest.approx(sum(pairs) / len(pairs))
    assert diversity([masks[0]] * 3) == 0
    assert diversity(masks[:1]) == 0
    assert diversity([Mask.full(mlp().space)] * 2) == 0


def test_journal_holds_the_lineage(tmp_path: Any) -> None:
    search(journal=tmp_path / "run.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()[1:]]
    assert all("operator" in line["lineage"] for line in lines)


def shift(individual: Any) -> tuple[Any]:
    """An operator that leaves no lineage."""
    mask = individual.mask
    individual.mask = mask.replace(0, np.sort((mask.survivors[0] + 1) % mask.space.sizes[0]))
    return (individual,)


def test_what_an_operator_without_a_lineage_made_has_none() -> None:
    toolbox = ep.make_toolbox(mlp(), sparsity=0.8, epochs=1, batch_size=24, engine="dense")
    toolbox.register("mutate", shift)
    random.seed(3)
    *_, state = ep.generations(toolbox.population(n=4), toolbox, 0.5, 0.9, 2)
    frame = state.genealogy.frame()
    assert frame.loc[frame["generation"] > 0, "operator"].isna().any()
    assert set(frame.loc[frame["generation"] == 0, "operator"]) == {"initSparse"}
    made = frame[frame["operator"].isna()]
    assert (made["parents"] == ()).all()
    with pytest.raises(InputError, match="give it in known="):
        state.genealogy.replay(made["mask"].iloc[0], mlp().space)


def test_an_operator_on_top_of_one_without_a_lineage_names_the_mask_between() -> None:
    one = ep.initSparse(ep.Individual, mlp().space, sparsity=0.8)
    shift(one)
    between = one.mask
    ep.mutSwap(one)
    assert one.lineage["parents"] == [between.hash]
    assert "inputs" not in one.lineage
    assert ep.replay(one.lineage, [between]) == one.mask
    for twin in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert lineage_of(twin) == one.lineage
        assert lineage_of(shift(twin)[0]) == {}


def test_operators_take_individuals_with_slots() -> None:
    class Slim:
        __slots__ = ("fitness", "mask")

        def __init__(self, mask: Mask) -> None:
            self.mask, self.fitness = mask, ep.FitnessMin()

    one, other = (Slim(mask) for mask in random_masks(mlp().space, 2, sparsity=0.8))
    before = one.mask
    ep.mutSwap(one)
    ep.cxSetUniform(one, other)
    assert one.mask != before
    assert one.mask.count == before.count
