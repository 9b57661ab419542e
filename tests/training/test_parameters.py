"""One flat layout of survivors, by owner and index."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evoprune.errors import InputError, MaskMismatch
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask, random_masks
from evoprune.training.parameters import Parameters
from tests.tiny import Residual, mlp, own

TRAINED = [name for name, _ in mlp().module().named_parameters()]


def parameters(k: int = 3, sparsity: float = 0.7) -> Parameters:
    return Parameters.of(random_masks(mlp().space, k, sparsity=sparsity), [mlp().initial_weights()] * k, TRAINED)


def test_survivors_are_sorted_by_owner_and_index() -> None:
    own_parameters, initial = parameters(), mlp().initial_weights()
    for layer, name in enumerate(mlp().space.names):
        expected = [initial[name].flatten()[mask.survivors[layer].copy()] for mask in own_parameters.masks]
        assert torch.equal(own_parameters.survivors[name].detach(), torch.cat(expected))
        assert own_parameters.bounds[name].tolist() == [row * len(expected[0]) for row in range(4)]
        assert own_parameters.owners(name).tolist() == [row for row in range(3) for _ in expected[0]]
        dense = torch.zeros(3 * mlp().space.sizes[layer])
        dense[own_parameters.indices(name)] = own_parameters.survivors[name].detach()
        assert torch.equal(dense.view(3, *mlp().space.shapes[layer])[1], own_parameters.row(1)[name])


def test_the_optimizer_sees_survivors_and_dense_parameters_only() -> None:
    numbers = sum(leaf.numel() for leaf in parameters().leaves().values())
    biases = 10 + 8 + 3
    assert numbers == 3 * (mlp().space.budget(0.7) + biases)
    assert all(leaf.is_leaf and leaf.requires_grad and leaf.grad is not None for leaf in parameters().leaves().values())


def test_buffers_and_frozen_parameters_are_not_trained() -> None:
    problem = own(Residual)
    names = [name for name, _ in problem.module().named_parameters() if not name.startswith("bn")]
    own_parameters = Parameters.of(random_masks(problem.space, 2, sparsity=0.5), [problem.initial_weights()] * 2, names)
    assert {"bn.weight", "bn.bias", "bn.running_mean", "bn.num_batches_tracked"} <= set(own_parameters.buffers)
    assert own_parameters.row(1)["bn.num_batches_tracked"].shape == ()


@given(st.permutations(range(4)), st.integers(1, 4))
def test_select_carries_any_tensor_of_a_leafs_shape(order: list[int], number: int) -> None:
    old, rows = parameters(4), list(order[:number])
    new, relayout = old.select(rows)
    for position, row in enumerate(rows):
        for name, value in new.row(position).items():
            assert torch.equal(value, old.row(row)[name])
    for name, leaf in old.leaves().items():
        moved = relayout(name, 2 * leaf.detach())
        assert torch.equal(moved, 2 * new.leaves()[name].detach())


@given(st.integers(0, 999), st.sampled_from([0.0, 0.3, 0.9]))
def test_rewire_keeps_common_survivors_and_starts_new_ones_at_the_given_value(seed: int, sparsity: float) -> None:
    old = parameters()
    rows, masks = [2, 0, 0], random_masks(mlp().space, 3, sparsity=sparsity, seed=seed + 1)
    new, relayout = old.rewire(rows, masks)
    for position, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        common, fresh = (mask & old.masks[row]).dense(), (mask - old.masks[row]).dense()
        for name, keep in common.items():
            assert torch.equal(new.row(position)[name], old.row(row)[name] * keep)
            moved = new.row(position, values={**new.survivors, name: relayout(name, old.survivors[name], 7.0)})[name]
            assert torch.equal(moved, old.row(row)[name] * keep + 7.0 * fresh[name])


def test_an_empty_layer_can_be_trained_emptied_and_filled() -> None:
    space = mlp().space
    full, empty = Mask.full(space), Mask(space, [[], *Mask.full(space).survivors[1:]])
    old = Parameters.of([full, empty], [mlp().initial_weights()] * 2, TRAINED)
    assert not old.row(1)[space.names[0]].any()
    new, _ = old.rewire([1, 0], [full, empty])
    assert not new.row(0)[space.names[0]].any()
    assert torch.equal(new.row(0)[space.names[1]], mlp().initial_weights()[space.names[1]])


def test_rows_are_copies() -> None:
    own_parameters = parameters()
    own_parameters.row(0)[TRAINED[0]].fill_(9)
    own_parameters.row(0)[TRAINED[1]].fill_(9)
    assert float(own_parameters.row(0)[TRAINED[0]].abs().max()) < 9
    assert float(own_parameters.row(0)[TRAINED[1]].abs().max()) < 9


def test_weights_of_another_shape_and_masks_of_another_number_are_refused() -> None:
    foreign = {name: value[:1] for name, value in mlp().initial_weights().items()}
    with pytest.raises(MaskMismatch):
        Parameters.of([random_mask(mlp().space, sparsity=0.5)], [foreign], TRAINED)
    with pytest.raises(InputError):
        Parameters.of([], [], TRAINED)
    with pytest.raises(InputError, match="2 masks for 3"):
        parameters().rewire([0, 1, 2], random_masks(mlp().space, 2, sparsity=0.5))
