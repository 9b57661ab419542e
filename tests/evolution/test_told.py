"""What a generation's training tells the operators that come after it, and what children start from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import evoprune as ep
from evoprune.evolution.store import Start
from evoprune.problems.problem import Problem
from tests.tiny import mlp, table


def made(**options: Any) -> Any:
    return ep.make_toolbox(mlp(), **{"sparsity": 0.8, "epochs": 1, "batch_size": 24, "engine": "dense", **options})


def test_movement_and_the_largest_gradients_are_told_and_paid_for() -> None:
    toolbox = made(mutate="mutGuided", epochs=2)
    individuals = toolbox.population(n=3)
    plain = made(epochs=2).map
    plain.batch(individuals)
    list(toolbox.map(toolbox.evaluate, individuals))
    alone = ep.Population(mlp(), individuals, horizon=2, batch_size=24, engine="dense").train(2)
    evaluated = alone.ledger.evaluation_samples
    gradients = alone.dense_gradient()
    for row, one in enumerate(individuals):
        assert one.told.mask == one.mask
        assert toolbox.mutate(toolbox.clone(one))[0].lineage["options"]["on"] == "gradient"
        for layer, name in enumerate(mlp().space.names):
            span = alone.parameters.span(name, row, row + 1)
            moved = (alone.parameters.survivors[name].detach()[span] - alone.parameters.initial[name][span]).abs().numpy()
            assert one.told.movement[layer] == pytest.approx(moved, rel=1e-5)
            size, own = gradients[name][row].abs().flatten().numpy(), one.mask.survivors[layer]
            pruned = np.setdiff1d(np.arange(len(size)), own)
            indices, scores = one.told.grown[layer]
            best = pruned[np.argsort(-size[pruned], kind="stable")[: min(len(own), len(pruned))]]
            assert indices.tolist() == np.sort(best).tolist()
            assert scores == pytest.approx(size[indices], rel=1e-5)
    assert toolbox.map.ledger.samples == plain.ledger.samples + 3 * 24
    assert toolbox.map.ledger.survivor_updates == plain.ledger.survivor_updates + 3 * 24 * 3 * mlp().prunable
    assert toolbox.map.ledger.evaluation_samples == evaluated


def test_children_of_failed_parents_start_from_the_initial_weights() -> None:
    module = mlp().module()
    with torch.no_grad():
        module.get_parameter(mlp().space.names[0])[0, 0] = 1e30  # whoever keeps this weight may diverge
    toolbox = ep.make_toolbox(Problem(module, table()), sparsity=0.5, epochs=1, batch_size=18, inherit="weights", seed=0)
    individuals = toolbox.population(n=12)
    list(toolbox.map(toolbox.evaluate, individuals))
    failed = [one for one in individuals if one.failed]
    assert failed
    children = [toolbox.mutate(toolbox.clone(one))[0] for one in failed]
    list(toolbox.map(toolbox.evaluate, children))
    assert {child.inherited for child in children} == {None}


def test_new_survivors_are_rescaled_with_the_others_where_that_is_asked() -> None:
    toolbox = made(inherit="weights", rescale=True)
    (parent,) = toolbox.population(n=1)
    parent.fitness.values = toolbox.evaluate(parent)
    child = toolbox.mutate(toolbox.clone(parent))[0]
    initial = mlp().initial_weights()
    start = Start(child.mask, initial, toolbox.map.store.get(parent.evaluation), rescale=True)
    for layer, name in enumerate(mlp().space.names):
        new = np.setdiff1d(child.mask.survivors[layer], parent.mask.survivors[layer])
        share = child.mask.counts[layer] / mlp().space.sizes[layer]
        torch.testing.assert_close(start[name].reshape(-1)[new], initial[name].reshape(-1)[new] / share**0.5)
