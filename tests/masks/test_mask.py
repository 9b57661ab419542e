"""A mask is an immutable, well-formed set of survivors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evoprune.errors import InputError, MaskMismatch
from evoprune.masks.mask import Mask, common_space
from evoprune.masks.space import MaskSpace

SPACE = MaskSpace(("a", "b"), ((3, 4), (5,)))
OTHER = MaskSpace(("a", "c"), ((3, 4), (5,)))
sets = st.tuples(st.sets(st.integers(0, 11)), st.sets(st.integers(0, 4)))


def of(*layers: set[int], space: MaskSpace = SPACE) -> Mask:
    return Mask(space, [np.array(sorted(layer), dtype=np.int64) for layer in layers])


@pytest.mark.parametrize("bad", [[1, 0], [1, 1], [-1], [12], [0.5], [[1]], ["x"]])
def test_survivors_that_are_not_increasing_indices_of_the_layer_are_refused(bad: list[object]) -> None:
    with pytest.raises(InputError):
        Mask(SPACE, [bad, []])


def test_another_number_of_layers_is_refused() -> None:
    with pytest.raises(MaskMismatch):
        Mask(SPACE, [[0]])


def test_survivors_are_read_only_int64_in_order() -> None:
    mask = Mask(SPACE, [[1, 5], np.array([0, 4], dtype=np.uint8)])
    for survivors in mask.survivors:
        assert survivors.dtype == np.int64
        with pytest.raises(ValueError, match="read-only"):
            survivors[0] = 3
    assert mask.counts == (2, 2)
    assert mask.count == 4
    assert mask.sparsity == pytest.approx(1 - 4 / 17)


def test_a_mask_does_not_change_with_the_array_it_was_made_from() -> None:
    given_array = np.array([1, 5])
    view = given_array[:]
    view.flags.writeable = False  # read-only, but its base is not
    masks = Mask(SPACE, [given_array, []]), Mask(SPACE, [view, []])
    given_array[0] = 3
    assert [mask.survivors[0].tolist() for mask in masks] == [[1, 5], [1, 5]]


@pytest.mark.parametrize("name", ["survivors", "space", "anything"])
def test_attributes_cannot_be_set(name: str) -> None:
    with pytest.raises(AttributeError, match="immutable"):
        setattr(of({1}, {2}), name, ())


@given(sets, sets)
def test_masks_are_equal_exactly_when_their_survivors_are(
    first: tuple[set[int], set[int]], second: tuple[set[int], set[int]]
) -> None:
    a, b = of(*first), of(*second)
    assert (a == b) is (first == second)
    assert (a.hash == b.hash) is (first == second)
    assert (len({a, b}) == 1) is (first == second)


def test_a_hash_tells_layers_and_models_apart() -> None:
    hashes = {of({1}, set()).hash, of(set(), {1}).hash, of({1}, {1}).hash, of({1}, set(), space=OTHER).hash}
    assert len(hashes) == 4
    assert of({1}, set()) != of({1}, set(), space=OTHER)
    assert of({1}, set()) != "a mask"


def test_the_hash_is_the_same_in_every_version() -> None:
    assert of({0, 3, 11}, {2}).hash == "13f11432fb488f0dedec41d29653173d"


@given(sets)
def test_copies_share_the_buffers_and_pickles_come_back_equal(layers: tuple[set[int], set[int]]) -> None:
    mask = of(*layers)
    assert copy.copy(mask) is copy.deepcopy(mask) is mask
    again = pickle.loads(pickle.dumps(mask))
    assert again == mask
    assert again.hash == mask.hash
    assert all(not survivors.flags.writeable for survivors in again.survivors)


def test_a_pickle_holds_the_survivors_and_little_else() -> None:
    space = MaskSpace(("w",), ((10**6,),))
    assert len(pickle.dumps(Mask(space, [np.arange(1000)]))) < 8 * 1000 + 500


@given(sets, sets)
def test_set_operations_are_those_of_sets_in_every_layer(
    first: tuple[set[int], set[int]], second: tuple[set[int], set[int]]
) -> None:
    a, b = of(*first), of(*second)
    pairs = list(zip(first, second, strict=True))
    assert a & b == of(*(x & y for x, y in pairs))
    assert a | b == of(*(x | y for x, y in pairs))
    assert a - b == of(*(x - y for x, y in pairs))
    assert a ^ b == of(*(x ^ y for x, y in pairs))
    assert (a <= b) is all(x <= y for x, y in pairs)
    union = sum(len(x | y) for x, y in pairs)
    assert a.jaccard(b) == pytest.approx(sum(len(x & y) for x, y in pairs) / union if union else 1.0)


def test_masks_of_different_models_do_not_mix() -> None:
    with pytest.raises(MaskMismatch):
        of({1}, set()) & of({1}, set(), space=OTHER)
    with pytest.raises(MaskMismatch):
        common_space(of({1}, set()), of({1}, set(), space=OTHER))


@given(sets)
def test_dense_and_of_dense_are_inverse(layers: tuple[set[int], set[int]]) -> None:
    mask = of(*layers)
    dense = mask.dense()
    assert [tuple(value.shape) for value in dense.values()] == list(SPACE.shapes)
    assert [set(value.flatten().nonzero().flatten().tolist()) for value in dense.values()] == list(layers)
    assert Mask.of_dense(SPACE, dense) == mask


def test_of_dense_refuses_missing_and_misshapen_arrays() -> None:
    with pytest.raises(MaskMismatch, match="'b'"):
        Mask.of_dense(SPACE, {"a": np.ones((3, 4))})
    with pytest.raises(MaskMismatch, match="shape"):
        Mask.of_dense(SPACE, {"a": np.ones((4, 3)), "b": np.ones(5)})


def test_the_mask_of_a_module_is_its_weights_that_are_not_zero() -> None:
    module = torch.nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0, 1.0, -2.0], [0.0, 0.0, 3.0]]))
    assert Mask.of_module(module).survivors[0].tolist() == [1, 2, 5]


def test_replace_changes_one_layer_of_a_copy() -> None:
    mask = of({1}, {2})
    assert mask.replace("b", [0, 4]) == of({1}, {0, 4}) == mask.replace(1, [0, 4])
    assert mask == of({1}, {2})
    with pytest.raises(InputError):
        mask.replace("b", [5])


def test_the_full_mask_keeps_everything() -> None:
    assert Mask.full(SPACE).counts == SPACE.sizes
