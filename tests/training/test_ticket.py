"""A ticket is what it says, in memory, in a file, in a user's module."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evoprune.errors import DamagedFile, InputError, MaskMismatch
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from tests.tiny import Always, Residual, Tied, global_state, mlp, own, small_conv, table

PROBLEMS: dict[str, Any] = {
    "mlp": mlp,
    "residual": lambda: own(Residual),
    "tied": lambda: own(Tied),
    "conv": lambda: own(small_conv, (1, 8, 8)),
}


def ticket(problem: Problem | None = None, **options: Any) -> Ticket:
    problem = problem or mlp()
    mask = random_mask(problem.space, sparsity=0.7, seed=2)
    options = {"horizon": 2, "batch_size": 18, "engine": "loop", **options}
    return Population(problem, [mask], **options).train(2).ticket()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_file_gives_everything_back(name: str, tmp_path: Path) -> None:
    problem = PROBLEMS[name]()
    made = ticket(problem)
    again = Ticket.load(made.save(tmp_path / "ticket.safetensors"), problem=problem)
    assert again.mask == made.mask
    for first, second in ((made.weights, again.weights), (made.initial, again.initial)):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert value.dtype == second[key].dtype
            assert torch.equal(value, second[key]), key
    assert again.history.equals(made.history)
    assert again.ledger == made.ledger
    assert again.provenance == made.provenance
    x = problem.split("validation").inputs
    assert torch.equal(again.module()(x), made.module()(x))


def test_equal_tickets_give_equal_bytes(tmp_path: Path) -> None:
    made = ticket()
    assert made.save(tmp_path / "a").read_bytes() == made.save(tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_module_is_fresh_and_has_the_trained_sparse_weights(name: str) -> None:
    problem = PROBLEMS[name]()
    made = ticket(problem)
    module = made.module()
    assert not module.training
    assert Mask.of_module(module) == made.mask
    values = made.problem.split("validation")  # type: ignore[union-attr]
    loss = problem.loss.per_sample(module(values.inputs)[None], values.goals).mean()
    assert float(loss.detach()) == pytest.approx(made.val_loss, rel=1e-5)
    with torch.no_grad():
        next(module.parameters()).zero_()
    assert Mask.of_module(made.module()) == made.mask


def test_apply_copies_weights_and_statistics_into_the_users_module() -> None:
    made = ticket(own(Residual))
    mine = Residual()
    assert made.apply(mine) is mine
    for name, value in mine.state_dict().items():
        assert torch.equal(value, made.weights[name])


def test_the_initial_weights_are_the_problems_under_the_mask() -> None:
    made, initial = ticket(), mlp().initial_weights()
    for name, kept in made.mask.dense().items():
        assert torch.equal(made.initial[name], initial[name] * kept)
        assert not torch.equal(made.initial[name], made.weights[name])


@pytest.mark.parametrize("name", PROBLEMS)
def test_in_torchs_prune_form_it_survives_copies_state_dicts_and_adamw_with_decay(name: str) -> None:
    problem = PROBLEMS[name]()
    made = ticket(problem)
    pruned = copy.deepcopy(made.to_torch_prune(problem.module())).eval()
    x, y = problem.split("train").inputs, problem.split("train").targets
    with torch.no_grad():
        assert torch.allclose(pruned(x), made.module()(x), atol=1e-6)
    pruned = copy.deepcopy(pruned)
    fresh = made.to_torch_prune(problem.module()).eval()
    fresh.load_state_dict(pruned.state_dict())
    assert torch.equal(fresh(x), pruned(x))
    kept = made.mask.dense()
    for module in (pruned, fresh):
        module.train()
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.01, weight_decay=0.1)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), y).backward()  # type: ignore[arg-type]
            optimizer.step()
        module(x)
        for layer in module.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                shape = tuple(layer.weight.shape)
                candidates = [mask for key, mask in kept.items() if mask.shape == shape]
                assert any(not layer.weight[~mask].any() for mask in candidates)
                assert int((layer.weight != 0).sum()) in [int(mask.sum()) for mask in candidates]
                moved = layer.weight_orig != problem.initial_weights()[next(k for k, m in kept.items() if m.shape == shape)]
                assert moved.any()


def test_another_model_is_refused_and_not_touched() -> None:
    made = ticket()
    for module in (nn.Linear(6, 10), mlp("mlp:10-9").module(), nn.Sequential(nn.Linear(6, 10))):
        before = copy.deepcopy(module.state_dict())
        with pytest.raises(MaskMismatch):
            made.apply(module)
        with pytest.raises(MaskMismatch):
            made.to_torch_prune(module)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_module_with_the_same_weights_but_other_statistics_is_refused() -> None:
    made = ticket(own(Residual))
    mine = Residual()
    mine.bn = nn.BatchNorm1d(12, track_running_stats=False)
    with pytest.raises(MaskMismatch, match="running_mean"):
        made.apply(mine)


def test_loading_for_another_problem_is_refused(tmp_path: Path) -> None:
    path = ticket().save(tmp_path / "ticket")
    with pytest.raises(MaskMismatch):
        Ticket.load(path, problem=mlp("mlp:10-9"))


def test_test_opens_the_locked_split_and_logs_each_opening() -> None:
    problem = own(Residual)
    made = ticket(problem)
    assert problem.test_openings == []
    first, second = made.test(), made.test(reason="the paper's table")
    assert first == second
    assert problem.test_openings == ["Ticket.test()", "the paper's table"]
    arrays = table()
    train = problem.split("train")
    assert len(train) + len(problem.split("validation")) == 80
    split = problem._data.test
    outputs = made.module()(split.inputs).detach()
    assert len(arrays["x_test"]) == 20
    assert first["accuracy"] == int((outputs.argmax(1) == split.targets).sum()) / 20
    assert first["loss"] == pytest.approx(float(nn.functional.cross_entropy(outputs, split.targets)), rel=1e-5)


def test_a_model_that_draws_in_evaluation_has_one_test_result() -> None:
    made, results = ticket(own(Always)), []
    for state in (1, 2):
        with global_state(state):
            results.append(made.test())
    assert results[0] == results[1]


class Fourier(nn.Module):
    """A buffer of integers, first in the alphabet, and parameters that are complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out, self.wave = nn.Linear(6, 8), nn.Linear(8, 3), nn.Parameter(torch.randn(5, dtype=torch.complex64))
        self.register_buffer("at", torch.arange(5, -1, -1))

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.fft.rfft(self.inp(x[:, self.at])) * self.wave  # type: ignore[index]
        out: Tensor = self.out(torch.relu(torch.fft.irfft(waves, n=8)))
        return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.filterwarnings("ignore:Casting complex values to real")
def test_buffers_of_integers_and_complex_parameters_are_tested_as_they_are(dtype: str, tmp_path: Path) -> None:
    problem = Problem(Fourier, table())
    made = ticket(problem, dtype=dtype)
    judged, split = made.test(), problem._data.test
    assert Ticket.load(made.save(tmp_path / "ticket"), problem=problem).test() == judged
    with torch.no_grad():
        loss = nn.functional.cross_entropy(made.module()(split.inputs), split.targets)
    assert judged["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_reconstruction_has_a_test_loss_and_no_accuracy() -> None:
    problem = Problem("autoencoder", table((6,), None))
    judged = ticket(problem).test()
    assert judged["accuracy"] is None
    assert judged["loss"] > 0  # type: ignore[operator]


def test_a_loaded_ticket_of_arrays_asks_for_its_problem_and_still_applies(tmp_path: Path) -> None:
    again = Ticket.load(ticket().save(tmp_path / "ticket"))
    for ask in (again.module, again.test, again.compact):
        with pytest.raises(InputError, match=r"Ticket\.load"):
            ask()
    assert Mask.of_module(again.apply(mlp().module())) == again.mask


@pytest.mark.parametrize("standardize", [True, False])
def test_a_ticket_of_named_model_and_data_makes_its_problem_again_as_it_was(standardize: bool, tmp_path: Path) -> None:
    problem = Problem("mlp:12", "digits", seed=4, standardize=standardize)
    made = ticket(problem, batch_size=100)
    again = Ticket.load(made.save(tmp_path / "ticket"))
    assert again.test() == made.test()


def test_a_ticket_of_numpys_numbers_is_kept(tmp_path: Path) -> None:
    mask = random_mask(mlp().space, sparsity=0.7)
    options = {"horizon": np.int64(1), "seed": np.int64(3), "lr": np.float32(0.125), "batch_size": np.int64(18)}
    made = Population(mlp(), [mask], **options).train(np.int64(1)).ticket()
    assert Ticket.load(made.save(tmp_path / "ticket")).provenance == made.provenance


def test_a_damaged_file_names_itself_and_what_is_lost(tmp_path: Path) -> None:
    path = ticket().save(tmp_path / "mine.safetensors")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DamagedFile, match=r"mine\.safetensors.*the ticket"):
        Ticket.load(path)
    with pytest.raises(InputError, match="cannot read"):
        Ticket.load(tmp_path / "absent")


def test_a_flipped_bit_of_a_weight_is_noticed(tmp_path: Path) -> None:
    path = ticket().save(tmp_path / "mine.safetensors")
    whole = bytearray(path.read_bytes())
    whole[-2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DamagedFile, match=r"mine\.safetensors was altered.*the ticket"):
        Ticket.load(path)


def test_a_ticket_shows_itself_in_one_line() -> None:
    assert "49 of 164" in repr(ticket())
    assert "\n" not in repr(ticket())


def test_of_several_networks_one_must_be_chosen() -> None:
    masks = [random_mask(mlp().space, sparsity=0.7, seed=seed) for seed in range(2)]
    generation = Population(mlp(), masks, horizon=1, batch_size=18).train(1)
    with pytest.raises(InputError, match="row="):
        generation.ticket()
    assert generation.ticket(1).mask == masks[1]
    assert generation.ticket(0).mask == masks[0]
