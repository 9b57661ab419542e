"""Survivors are spread exactly: sums, floors, caps, and the surplus of a full layer given back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoprune.errors import InputError, MaskMismatch, UnknownName
from evoprune.masks.allocation import ALLOCATIONS, allocate, spread
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask
from evoprune.masks.space import MaskSpace

LENET = MaskSpace(("0", "1", "2"), ((300, 784), (100, 300), (10, 100)))


@pytest.mark.parametrize(
    ("sparsity", "densities"),
    [
        (0.9, (0.0796, 0.2302, 1)),
        (0.95, (0.0385, 0.1113, 0.9185)),
        (0.98, (0.0154, 0.0445, 0.3674)),
        (0.99, (0.0077, 0.0223, 0.1837)),
    ],
)
def test_erk_gives_the_published_densities(sparsity: float, densities: tuple[float, ...]) -> None:
    counts = allocate(LENET, sparsity, "erk")
    assert sum(counts) == LENET.budget(sparsity)
    assert [count / size for count, size in zip(counts, LENET.sizes, strict=True)] == pytest.approx(densities, abs=0.00051)


def test_the_surplus_of_full_layers_is_given_back() -> None:
    assert sum(allocate(LENET, 0.5, "erk")) == 133_100
    assert allocate(LENET, 0.5, "erk") == pytest.approx((102_100, 30_000, 1_000), abs=2)


spaces = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=6).map(
    lambda shapes: MaskSpace(tuple(map(str, range(len(shapes)))), tuple(map(tuple, shapes)))
)


@given(spaces, st.integers(0, 999), st.sampled_from(["uniform", "erk", "smart_ratio"]), st.integers(0, 3))
def test_counts_sum_to_the_budget_within_floor_and_size(space: MaskSpace, permille: int, name: str, floor: int) -> None:
    budget = space.budget(f"0.{permille:03d}")
    floors = [min(floor, size) for size in space.sizes]
    if sum(floors) > budget:
        with pytest.raises(InputError, match="choose a sparsity of at most"):
            allocate(space, f"0.{permille:03d}", name, floor=floor)
        return
    counts = allocate(space, f"0.{permille:03d}", name, floor=floor)
    assert sum(counts) == budget
    assert all(low <= count <= size for low, count, size in zip(floors, counts, space.sizes, strict=True))


@given(spaces, st.integers(0, 999), st.sampled_from(["uniform", "erk"]))
def test_one_scale_holds_for_all_layers_that_are_not_at_a_bound(space: MaskSpace, permille: int, name: str) -> None:
    counts = allocate(space, f"0.{permille:03d}", name, floor=0)
    ideal = ALLOCATIONS[name](space) * np.array(space.sizes)
    low = max((count - 1) / share for count, share in zip(counts, ideal, strict=True))
    free = [(count + 1) / share for count, share, size in zip(counts, ideal, space.sizes, strict=True) if count < size]
    assert not free or low <= min(free) + 1e-9  # no integer is more than one away from the common scale


def test_integers_come_by_largest_remainder_ties_by_layer() -> None:
    space = MaskSpace(("a", "b", "c"), ((10,), (10,), (10,)))
    assert spread(space, np.array([1.0, 1.0, 1.0]), 4) == (2, 1, 1)
    assert spread(space, np.array([1.0, 1.0, 2.0]), 10) == (3, 2, 5)
    assert spread(space, np.array([0.16, 0.16, 0.18]), 5) == (2, 1, 2)


def test_uniform_is_the_same_density_everywhere() -> None:
    assert allocate(LENET, 0.9, "uniform") == (23_520, 3_000, 100)


def test_smart_ratio_keeps_the_last_layer_at_three_tenths_and_falls_with_depth() -> None:
    space = MaskSpace(tuple("abcd"), ((1000,),) * 3 + ((100,),))
    counts = allocate(space, 0.9, "smart_ratio")
    assert counts[-1] == 30
    assert sum(counts) == space.budget(0.9)
    assert np.array(counts[:3]) / sum(counts[:3]) == pytest.approx(np.array([20, 12, 6]) / 38, abs=0.01)


def test_the_densities_of_a_mask_are_copied() -> None:
    mask = random_mask(LENET, sparsity=0.9, allocation="erk")
    assert allocate(LENET, 0.9, mask) == mask.counts
    halved = allocate(LENET, 0.95, mask)
    assert sum(halved) == LENET.budget(0.95)
    assert np.array(halved) / np.array(mask.counts) == pytest.approx(0.5, abs=0.001)


def test_a_layer_that_the_mask_empties_does_not_spoil_the_others() -> None:
    space = MaskSpace(("a", "b", "c"), ((1000,), (1000,), (1000,)))
    mask = Mask(space, [np.arange(300), [], np.arange(100)])
    counts = allocate(space, 0.9, mask, floor=0)
    assert counts == (225, 0, 75)


def test_counts_are_taken_as_they_are_when_they_sum_to_the_budget() -> None:
    assert allocate(LENET, 0.99, (2000, 600, 62)) == (2000, 600, 62)
    with pytest.raises(InputError, match="sum to 2663"):
        allocate(LENET, 0.99, (2000, 600, 63))
    with pytest.raises(MaskMismatch):
        allocate(LENET, 0.99, (2000, 662))
    with pytest.raises(MaskMismatch):
        allocate(LENET, 0.5, (1000, 131_098, 1002))


def test_an_unknown_allocation_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'uniform'"):
        allocate(LENET, 0.9, "unifrom")


def test_a_mask_of_another_model_is_refused() -> None:
    other = MaskSpace(("x",), ((10,),))
    with pytest.raises(MaskMismatch):
        allocate(LENET, 0.9, random_mask(other, sparsity=0.5))


def test_a_budget_below_the_floors_says_the_largest_sparsity() -> None:
    with pytest.raises(InputError, match=r"at most 0\.99998"):
        allocate(LENET, 0.999999)
    with pytest.raises(InputError, match="floor"):
        allocate(LENET, 0.9, floor=-1)
