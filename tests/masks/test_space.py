"""The space names what can be pruned, and budgets are exact."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from evoprune.errors import InputError
from evoprune.masks.space import MaskSpace, check_sparsity
from evoprune.masks.topology import Topology
from evoprune.problems.problem import Problem
from tests.tiny import Residual, Tied, table


@given(st.integers(0, 999_999), st.integers(1, 10**9))
def test_the_budget_is_the_exact_decimal_rounding(millionths: int, size: int) -> None:
    space = MaskSpace(("w",), ((size,),))
    text = f"0.{millionths:06d}"
    expected = math.floor((1 - Fraction(text)) * size + Fraction(1, 2))
    assert space.budget(text) == space.budget(float(text)) == space.budget(Decimal(text)) == expected


def test_a_half_survivor_rounds_up() -> None:
    assert MaskSpace(("w",), ((10,),)).budget(0.95) == 1
    assert MaskSpace(("w",), ((50,),)).budget(0.99) == 1
    assert MaskSpace(("w",), ((1000,),)).budget(0.9) == 100  # binary 1 - 0.9 is below a tenth


@pytest.mark.parametrize("sparsity", [1, 1.0, -0.1, float("nan"), float("inf"), "lots", None, True, False, [0.9], "1e400"])
def test_a_sparsity_outside_zero_to_one_is_refused(sparsity: object) -> None:
    with pytest.raises(InputError, match="sparsity"):
        check_sparsity(sparsity)


def test_weights_of_linear_and_conv_layers_are_prunable_and_nothing_else() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3), nn.LayerNorm(3), nn.Embedding(4, 3)
    )
    space = MaskSpace.of(model)
    assert space.names == ("0.weight", "3.weight")
    assert space.shapes == ((2, 1, 3, 3), (3, 8))
    assert space.sizes == (18, 24)
    assert space.prunable == 42


def test_a_tied_weight_counts_once_under_its_first_name() -> None:
    assert MaskSpace.of(Tied()).names == ("inp.weight", "one.weight", "out.weight")


def test_a_frozen_layer_is_not_pruned() -> None:
    model = Residual()
    model.mid.requires_grad_(False)
    assert MaskSpace.of(model).names == ("inp.weight", "out.weight")


def test_a_model_that_is_one_layer_has_a_space() -> None:
    assert MaskSpace.of(nn.Linear(3, 2)).names == ("weight",)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(3, 2).requires_grad_(False), nn.LazyLinear(3), "lenet5", torch.ones(3)])
def test_what_cannot_be_pruned_is_refused_in_one_line(model: nn.Module) -> None:
    with pytest.raises(InputError) as caught:
        MaskSpace.of(model)
    assert "\n" not in str(caught.value)


def test_equal_spaces_have_equal_fingerprints_in_a_pickle_too() -> None:
    space = MaskSpace.of(Residual())
    assert space.prunable == 252  # a cached property stays behind
    again = pickle.loads(pickle.dumps(space))
    assert again == space == MaskSpace.of(Residual())
    assert again.fingerprint == space.fingerprint
    assert MaskSpace(space.names, ((13, 6), *space.shapes[1:])).fingerprint != space.fingerprint
    assert MaskSpace(("x", *space.names[1:]), space.shapes).fingerprint != space.fingerprint


@pytest.mark.parametrize("parametrize", [spectral_norm, weight_norm])
def test_parametrized_layers_are_not_prunable_and_stay_as_they_are(parametrize: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(parametrize(nn.Linear(6, 12)), nn.ReLU(), nn.Linear(12, 3))
    before = copy.deepcopy(model.state_dict())
    assert MaskSpace.of(model).names == Topology.of(model, (6,)).space.names == ("2.weight",)
    problem = Problem(model, table((6,)))
    for same in (model, problem.module()):
        assert all(torch.equal(value, before[name]) for name, value in same.state_dict().items())


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_weights_is_not_prunable() -> None:
    assert MaskSpace.of(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 0))).names == ("0.weight",)
    with pytest.raises(InputError, match="nothing to prune"):
        MaskSpace.of(nn.Linear(6, 0))
    with pytest.raises(InputError, match=r"'w' of shape \(0, 6\) has no weights: leave it out"):
        MaskSpace(("w",), ((0, 6),))
