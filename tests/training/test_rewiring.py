"""Who trains may change: selecting, pruning, growing, branching and rewinding leave the others as they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evoprune.errors import InputError, MaskMismatch
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask, random_masks
from evoprune.training.options import OPTIMIZERS
from evoprune.training.population import Population
from tests.tiny import mlp
from tests.training.test_population import ENGINES, ROWS, assert_same, population, values


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("engine", ENGINES)
def test_select_goes_on_as_if_the_losers_had_never_left(engine: str, optimizer: str) -> None:
    options = {"engine": engine, "optimizer": optimizer, "weight_decay": 1e-3}
    whole, cut = population(**options).train(4), population(**options).train(2).select([3, -5]).train(2)
    for position, row in enumerate([3, 0]):
        assert_same(values(whole, row), values(cut, position))
    assert cut.trace.individuals == [3, 0]
    assert len(cut.trace.history(3)) == 4
    assert len(cut.trace.history(1)) == 2


def slots(generation: Population) -> dict[tuple[str, str], Tensor]:
    """Optimizer state of the survivors, dense, by layer and slot: `(K, size)`."""
    dense = {}
    for name, leaf in generation.parameters.survivors.items():
        for key, value in generation.optimizer.state[leaf].items():
            if isinstance(value, Tensor) and value.shape == leaf.shape:
                size = generation.problem.space.sizes[generation.problem.space.index[name]]
                dense[name, key] = torch.zeros(len(generation) * size)
                dense[name, key][generation.parameters.indices(name)] = value
                dense[name, key] = dense[name, key].view(len(generation), size)
    return dense


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_prune_keeps_value_and_optimizer_state_of_survivors(optimizer: str) -> None:
    generation = population(optimizer=optimizer).train(2)
    before, state = [values(generation, row) for row in range(ROWS)], slots(generation)
    smaller = [Mask(mask.space, [own[::2] for own in mask.survivors]) for mask in generation.masks]
    generation.prune(smaller)
    assert generation.masks == tuple(smaller)
    assert any(value.abs().sum() > 0 for value in state.values())
    for row, mask in enumerate(smaller):
        kept = mask.dense()
        assert_same(values(generation, row), {name: v * kept[name] if name in kept else v for name, v in before[row].items()})
        for (name, key), value in slots(generation).items():
            assert torch.equal(value[row], state[name, key][row] * kept[name].flatten()), (name, key)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_grown_weights_start_at_zero_with_no_state(optimizer: str) -> None:
    generation = population(optimizer=optimizer).train(2)
    before, state, old = [values(generation, row) for row in range(ROWS)], slots(generation), generation.masks
    new = random_masks(generation.problem.space, ROWS, sparsity=0.6, seed=9)
    generation.grow(new)
    for row, mask in enumerate(new):
        common = (mask & old[row]).dense()
        assert (mask - old[row]).count > 0
        for name, keep in common.items():
            assert torch.equal(values(generation, row)[name], before[row][name] * keep)
        for (name, key), value in slots(generation).items():
            assert torch.equal(value[row], state[name, key][row] * common[name].flatten()), (name, key)


def test_branch_copies_one_network_under_many_masks() -> None:
    generation = population(masks=[Mask.full(mlp().space)]).train(2)
    parent, state = values(generation, 0), slots(generation)
    masks = random_masks(mlp().space, 4, sparsity=0.5)
    generation.branch([0] * 4, masks)
    assert generation.trace.individuals == [1, 2, 3, 4]
    for row, mask in enumerate(masks):
        kept = mask.dense()
        assert_same(values(generation, row), {name: v * kept[name] if name in kept else v for name, v in parent.items()})
        assert all(torch.equal(v[row], state[key][0] * kept[key[0]].flatten()) for key, v in slots(generation).items())
        assert [entry["epoch"] for entry in generation.trace.history(row + 1)] == [1, 2]
    assert generation.trace.last("survivors").tolist() == [mask.count for mask in masks]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "rprop"])
def test_nothing_revives_a_pruned_weight(optimizer: str, engine: str) -> None:
    generation = population(optimizer=optimizer, weight_decay=0.1, engine=engine, k=2).train(1)
    smaller = [Mask(mask.space, [own[: (len(own) + 1) // 2] for own in mask.survivors]) for mask in generation.masks]
    generation.prune(smaller).train(3)
    for row, mask in enumerate(smaller):
        for name, keep in mask.dense().items():
            assert not values(generation, row)[name][~keep].any()
        assert Mask.of_dense(mask.space, values(generation, row)) <= mask
    assert generation.trace.last("survivors").tolist() == [mask.count for mask in smaller]


def test_rewind_goes_back_to_the_start_and_clears_momentum() -> None:
    generation = population().train(2)
    start = [generation.parameters.row(row, values=generation.parameters.initial) for row in range(ROWS)]
    generation.rewind()
    initial = mlp().initial_weights()
    for row, mask in enumerate(generation.masks):
        kept = mask.dense()
        for name, value in values(generation, row).items():
            assert torch.equal(value, initial[name] * kept[name] if name in kept else initial[name])
            assert name not in kept or torch.equal(value, start[row][name])
    assert not generation.optimizer.state
    assert generation.epoch == 2


@pytest.mark.parametrize("rows", [[], [5], [-6], [0, 0], [0, -5]])
def test_rows_that_are_not_there_cannot_be_selected(rows: list[int]) -> None:
    with pytest.raises(InputError, match="distinct positions"):
        population().select(rows)


def test_prune_refuses_to_bring_weights_back() -> None:
    generation = population(k=2)
    with pytest.raises(InputError, match="grow"):
        generation.prune(random_masks(generation.problem.space, 2, sparsity=0.7, seed=1))


@pytest.mark.parametrize("change", ["prune", "grow"])
def test_another_number_of_masks_is_refused(change: str) -> None:
    generation = population(k=3)
    with pytest.raises(InputError, match="2 masks for 3"):
        getattr(generation, change)(list(generation.masks[:2]))


def test_masks_of_another_model_are_refused_everywhere() -> None:
    foreign = random_mask(mlp("mlp:5").space, sparsity=0.5)
    with pytest.raises(MaskMismatch):
        population(masks=[random_mask(mlp().space, sparsity=0.5), foreign])
    generation = population(k=1)
    for change in (generation.prune, generation.grow):
        with pytest.raises(MaskMismatch):
            change([foreign])
