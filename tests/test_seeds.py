"""Streams come from names: stable for ever, independent of each other and of everything global."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch

from evoprune.errors import InputError
from evoprune.seeds import check_seed, derive, generator, isolated, seed_all, states, torch_generator
from tests.tiny import DRAWS, global_state


def test_streams_have_the_values_they_always_had() -> None:
    assert derive(0) == 7896617691693857887
    assert derive(7, "masks", 3) == 443703807561609040
    assert generator(7, "masks", 3).integers(2**63) == 2661548018471786349
    assert int(torch.randint(2**62, (1,), generator=torch_generator(7, "masks", 3))) == 4511137084478569408


def test_every_seed_name_and_number_has_a_stream_of_its_own() -> None:
    paths: list[tuple[Any, ...]] = [(0,), (1,), (0, "a"), (0, "b"), (0, "ab"), (0, "a", "b"), (0, "b", "a"), (0, "a", 0)]
    paths += [(0, 1), (0, "1"), (1, 0)]
    assert len({derive(*path) for path in paths}) == len(paths)
    draws = np.array([generator(0, "mask", index).random(200) for index in range(30)])
    assert np.abs(np.corrcoef(draws) - np.eye(30)).max() < 0.35


def test_a_stream_does_not_depend_on_the_global_generators_and_moves_none() -> None:
    seen = []
    for state in (1, 2):
        with global_state(state):
            seen.append((derive(3, "x"), generator(3, "x").random(), torch.rand(1, generator=torch_generator(3, "x")).item()))
    assert seen[0] == seen[1]


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), torch.rand(1).item()  # noqa: NPY002


def test_isolated_seeds_and_puts_back_even_after_an_error() -> None:
    with global_state(5):
        with isolated(3, "x"):
            first = draw()
        seen = []
        with suppress(ZeroDivisionError), isolated(3, "x"):
            seen.append(draw())
            raise ZeroDivisionError
        with isolated(4, "x"):
            third = draw()
        with isolated(), isolated(3, "x"):
            fourth = draw()
    assert first == seen[0] == fourth
    assert all(a != b for a, b in zip(first, third, strict=True))


def test_isolated_without_a_seed_goes_on_from_where_the_globals_stand() -> None:
    with global_state(5), isolated():
        first = draw()
    with global_state(5), isolated():
        second = draw()
    with global_state(6), isolated():
        third = draw()
    assert first == second != third


@pytest.mark.parametrize("kind", DRAWS)
def test_the_states_show_a_draw_from_any_generator_and_seeding_puts_all_back(kind: str) -> None:
    with global_state(5), isolated():
        seed_all(2**62)
        before = states()
        first = DRAWS[kind]()
        assert states() != before
        seed_all(2**62)
        assert states() == before
        assert DRAWS[kind]() == first


@pytest.mark.parametrize("seed", [-1, 1.0, "1", None, True, np.float64(3)])
def test_a_seed_that_is_no_whole_number_is_refused(seed: Any) -> None:
    with pytest.raises(InputError, match="seed"):
        check_seed(seed)


def test_numpys_integers_and_large_ones_are_seeds() -> None:
    assert derive(np.int64(5), "x") == derive(5, "x")  # type: ignore[arg-type]
    assert derive(2**70, "x") != derive(0, "x")
