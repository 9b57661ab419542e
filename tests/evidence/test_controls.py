"""Each control destroys what it says, keeps what it promises, and changes nothing but its result."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evoprune as ep
from evoprune.errors import InputError
from evoprune.evidence.controls import CONTROLS, original, reference_counts
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from tests.tiny import Residual, global_state, mlp, own, small_conv, table

SAME_COUNTS = {"fresh_counts", "shuffle_layers", "shuffle_units", "invert", "permute_weights", "reinitialise", "flip_signs"}
SAME_MASK = {"permute_weights", "reinitialise", "flip_signs"}
ANY = pytest.mark.parametrize("name", CONTROLS)


def made(problem: Problem | None = None, sparsity: float = 0.7, seed: int = 2, **training: Any) -> Ticket:
    problem = problem or mlp("mlp:40-20")
    mask = random_mask(problem.space, sparsity=sparsity, allocation="uniform", seed=seed)
    return Population(problem, [mask], horizon=1, engine="loop", batch_size=18, **training).train(1).ticket()


def kept(ticket: Ticket, layer: int) -> np.ndarray:
    """The initial values of a layer's survivors, in order."""
    return ticket.initial[ticket.mask.space.names[layer]].reshape(-1).numpy()[ticket.mask.survivors[layer]]


@ANY
@settings(max_examples=8)
@given(sparsity=st.sampled_from([0.2, 0.5, 0.7, 0.95]), seed=st.integers(0, 2**32))
def test_counts_are_kept_as_promised(name: str, sparsity: float, seed: int) -> None:
    ticket = made(sparsity=sparsity)
    control = CONTROLS[name](ticket, seed)
    assert control.mask.count == ticket.mask.count
    assert (control.mask == ticket.mask) == (name in SAME_MASK)
    if name in SAME_COUNTS:
        assert control.mask.counts == ticket.mask.counts
    if name == "fresh_random":
        assert control.mask.counts == reference_counts(ticket)
    Mask(control.mask.space, control.mask.survivors)  # well formed


@ANY
def test_a_control_is_pure_and_follows_its_seed(name: str) -> None:
    ticket = made()
    before = copy.deepcopy((ticket.weights, ticket.initial, ticket.provenance)), ticket.mask.hash
    with global_state(3):
        one, same, other = (CONTROLS[name](ticket, seed) for seed in (5, 5, 6))
    after = (ticket.weights, ticket.initial, ticket.provenance), ticket.mask.hash
    assert str(before) == str(after)
    assert one.mask == same.mask
    assert all(torch.equal(one.weights[key], same.weights[key]) for key in one.weights)
    differs = one.mask != other.mask or any(not torch.equal(one.weights[key], other.weights[key]) for key in one.weights)
    assert differs, "another seed gives another control"


@ANY
def test_a_control_is_an_untrained_ticket_that_can_be_trained_kept_and_read_again(name: str, tmp_path: Path) -> None:
    ticket = made()
    control = CONTROLS[name](ticket, 1)
    assert control.provenance["control"] == name
    assert not control.history_rows
    for layer, (key, survivors) in enumerate(zip(control.mask.space.names, control.mask.survivors, strict=True)):
        pruned = np.ones(control.mask.space.sizes[layer], dtype=bool)
        pruned[survivors] = False
        assert not control.weights[key].reshape(-1).numpy()[pruned].any()
    again = Ticket.load(control.save(tmp_path / "control.safetensors"), problem=ticket.problem)
    assert again.mask == control.mask
    assert ticket.problem is not None
    Population(ticket.problem, [control], weights=[control.weights], horizon=1, batch_size=18).train(1)


@pytest.mark.parametrize("name", ["shuffle_layers", "shuffle_all", "fresh_counts"])
def test_a_shuffle_really_shuffles(name: str) -> None:
    ticket = made(mlp("mlp:80-60", features=40), sparsity=0.8)
    shared = [(CONTROLS[name](ticket, seed).mask & ticket.mask).count / ticket.mask.count for seed in range(20)]
    assert 0.17 < np.mean(shared) < 0.23, "strangers share as many survivors as the density"
    first = ticket.mask.space.names[0]
    drawn = [CONTROLS[name](ticket, seed).mask.dense()[first].float().numpy() for seed in range(200)]
    assert np.mean(drawn, axis=0).std() < 0.05, "no place is preferred"


def test_a_shuffle_within_units_keeps_every_fan_in_and_moves_the_rest() -> None:
    for problem in (mlp("mlp:80-60", features=40), own(small_conv, (1, 8, 8))):
        ticket = made(problem, sparsity=0.6)
        control = CONTROLS["shuffle_units"](ticket, 3)
        for name, dense in control.mask.dense().items():
            assert torch.equal(dense.flatten(1).sum(1), ticket.mask.dense()[name].flatten(1).sum(1))
        assert (control.mask & ticket.mask).count < 0.6 * ticket.mask.count


def test_inverting_avoids_every_survivor_where_there_is_room() -> None:
    assert (CONTROLS["invert"](made(sparsity=0.7), 0).mask & made(sparsity=0.7).mask).count == 0
    crowded = made(sparsity=0.2)
    shared = (CONTROLS["invert"](crowded, 0).mask & crowded.mask).counts
    wanted = [2 * count - size for count, size in zip(crowded.mask.counts, crowded.mask.space.sizes, strict=True)]
    assert list(shared) == wanted, "no more of them than it must take"


def test_permuted_weights_are_the_same_values_elsewhere() -> None:
    ticket = made()
    control = CONTROLS["permute_weights"](ticket, 4)
    for layer in range(len(ticket.mask.space)):
        assert np.array_equal(np.sort(kept(control, layer)), np.sort(kept(ticket, layer)))
        assert (kept(control, layer) != kept(ticket, layer)).mean() > 0.8


def test_flipped_signs_keep_magnitudes_and_are_about_half() -> None:
    ticket = made(mlp("mlp:80-60", features=40))
    control = CONTROLS["flip_signs"](ticket, 4)
    assert np.array_equal(np.abs(kept(control, 0)), np.abs(kept(ticket, 0)))
    assert 0.4 < (kept(control, 0) != kept(ticket, 0)).mean() < 0.6


def test_reinitialised_weights_have_nothing_to_do_with_the_old_ones() -> None:
    ticket = made(mlp("mlp:80-60", features=40))
    control = CONTROLS["reinitialise"](ticket, 4)
    assert abs(np.corrcoef(kept(control, 0), kept(ticket, 0))[0, 1]) < 0.1
    assert np.std(kept(control, 0)) == pytest.approx(np.std(kept(ticket, 0)), rel=0.1)


def test_a_module_instance_is_reinitialised_from_its_own_values() -> None:
    ticket = made(own(Residual))
    assert ticket.problem is not None
    dense = ticket.problem.initial_weights()["inp.weight"].flatten().numpy()
    assert set(kept(CONTROLS["reinitialise"](ticket, 1), 0)) <= set(dense)
    assert not np.array_equal(kept(CONTROLS["reinitialise"](ticket, 1), 0), kept(ticket, 0))


@pytest.mark.parametrize("name", sorted(set(CONTROLS) - SAME_MASK))
def test_another_mask_uncovers_the_same_initial_weights(name: str) -> None:
    ticket = made()
    assert ticket.problem is not None
    control, dense = CONTROLS[name](ticket, 1), ticket.problem.initial_weights()
    for key, mask in control.mask.dense().items():
        assert torch.equal(control.weights[key], dense[key] * mask)


@pytest.mark.parametrize("options", [{}, {"own_weights": True}, {"rescale": True}, {"init": "eoi"}], ids=str)
def test_the_ticket_itself_starts_where_it_started(options: dict[str, Any]) -> None:
    ticket = made(**options)
    start = original(ticket)
    for key, value in ticket.initial.items():
        assert torch.equal(start.weights[key], value)
    assert ticket.problem is not None
    for key, value in ticket.problem.initial_weights().items():
        if key not in ticket.mask.space.index:
            assert torch.equal(start.weights[key], value), "biases start where the problem has them, not where training left them"


def test_weights_made_for_a_mask_are_made_for_the_controls_mask() -> None:
    ticket = made(rescale=True)
    assert ticket.problem is not None
    control, dense = CONTROLS["fresh_random"](ticket, 1), ticket.problem.initial_weights()
    key, share = control.mask.space.names[0], control.mask.counts[0] / control.mask.space.sizes[0]
    assert torch.allclose(control.weights[key], dense[key] * control.mask.dense()[key] / share**0.5)


def test_the_reference_follows_the_allocation_that_was_asked_for() -> None:
    problem = Problem("mlp:10-8", table())
    asked = ep.methods["random"](problem, sparsity=0.7, epochs=1, allocation="uniform", batch_size=18)
    assert reference_counts(asked) == asked.mask.counts
    assert reference_counts(made()) == random_mask(made().mask.space, sparsity=0.7).counts


def test_a_ticket_that_keeps_everything_has_nothing_to_check() -> None:
    problem = mlp()
    dense = Population(problem, [Mask.full(problem.space)], horizon=1, batch_size=18).train(1).ticket()
    with pytest.raises(InputError, match="there is no choice to check"):
        CONTROLS["fresh_random"](dense, 0)


def test_another_mask_of_dropped_weights_starts_at_their_mean() -> None:
    ticket = made(drop_rate=0.5)
    control, dense = CONTROLS["fresh_random"](ticket, 1), ticket.problem.initial_weights()
    for name, kept in control.mask.dense().items():
        assert torch.equal(control.weights[name], 0.5 * dense[name] * kept)


def test_other_masks_of_a_late_rewound_ticket_start_at_the_rewinding_point_too(tmp_path: Path) -> None:
    """Else the epochs that came before would count for the mask."""
    problem = mlp("mlp:40-20")
    ticket = ep.methods["imp"](problem, sparsity=0.7, epochs=3, rate=0.7, rewind=2, engine="loop", batch_size=18)
    dense = Population(problem, [Mask.full(problem.space)], horizon=3, engine="loop", batch_size=18).train(2)
    then, [saved] = dense.parameters.row(0), [Ticket.load(ticket.save(tmp_path / "t.safetensors"), problem=problem)]
    for source in (ticket, saved):
        for name in ("fresh_counts", "fresh_random", "shuffle_all", "invert"):
            control = CONTROLS[name](source, 3)
            for layer, kept in control.mask.dense().items():
                assert torch.equal(control.initial[layer], then[layer] * kept), (name, layer)
        assert all(torch.equal(original(source).initial[name], ticket.initial[name]) for name in ticket.initial)
    assert ep.methods["imp"](problem, sparsity=0.7, epochs=1, rate=0.7, engine="loop", batch_size=18).start is None
