"""A ticket as a module in the form of `torch.nn.utils.prune`: it learns, is copied and ends as an ordinary one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from evoprune.masks.sampling import random_mask
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from tests.tiny import mlp, table


def ticket_of(problem: Problem) -> Ticket:
    mask = random_mask(problem.space, sparsity=0.5)
    return Population(problem, [mask], horizon=1, batch_size=18, engine="loop").train(1).ticket()


def test_prune_remove_ends_in_an_ordinary_module() -> None:
    problem = mlp()
    ticket = ticket_of(problem)
    module = ticket.to_torch_prune(problem.module())
    inputs = problem.split("validation").inputs
    before = module(inputs)
    for layer in module.modules():
        if hasattr(layer, "weight_mask"):
            prune.remove(layer, "weight")
    assert torch.equal(module(inputs), before)
    assert set(dict(module.named_parameters())) == set(dict(problem.module().named_parameters()))


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.attend, self.out = nn.Linear(2, 8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x.reshape(-1, 3, 2))
        out: Tensor = self.out((h + self.attend(h, h, h, need_weights=False)[0]).mean(1))
        return out


def test_the_last_layer_of_attention_learns_in_torchs_form() -> None:
    problem = Problem(Attends, table((6,)))
    ticket = ticket_of(problem)
    module = copy.deepcopy(ticket.to_torch_prune(problem.module()))
    split, optimizer = problem.split("train"), torch.optim.SGD(module.parameters(), lr=0.1)
    before = module.attend.out_proj.weight_orig.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(split.inputs), split.goals).backward()
        optimizer.step()
    with torch.no_grad():
        module(split.inputs)
    kept = ticket.mask.dense()["attend.out_proj.weight"]
    weight = module.attend.out_proj.weight
    assert not torch.equal(module.attend.out_proj.weight_orig, before)
    assert torch.equal(weight, module.attend.out_proj.weight_orig * kept)
    copy.deepcopy(module)


class ReadsTwice(nn.Module):
    """An autoencoder whose decoder is the encoder's weight, read after the layer was called."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.bias = nn.Linear(6, 5), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.encoder(x)), self.encoder.weight.t(), self.bias)


class OnlyReads(nn.Module):
    """Layers that are never called."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(x, self.a.weight, self.a.bias)), self.b.weight, self.b.bias)


@pytest.mark.parametrize("build", [ReadsTwice, OnlyReads])
def test_weights_that_a_forward_reads_get_their_gradient(build: Callable[[], nn.Module]) -> None:
    problem = Problem(build, table((6,), None))
    ticket, x = ticket_of(problem), problem.split("train").inputs
    pruned, plain = ticket.to_torch_prune(build()), ticket.apply(build())
    for _ in range(3):
        pruned = copy.deepcopy(pruned)  # after a forward, in the later rounds
        for module in (pruned, plain):
            module.zero_grad()
            F.mse_loss(module(x), x).backward()
        for name, mask in ticket.mask.dense().items():
            own, dense = pruned.get_parameter(f"{name}_orig"), plain.get_parameter(name)
            assert own.grad is not None
            assert dense.grad is not None
            torch.testing.assert_close(own.grad, dense.grad * mask)
            with torch.no_grad():
                own -= 0.5 * own.grad
                dense -= 0.5 * dense.grad * mask


def test_parts_that_are_called_alone_learn_and_are_copied_too() -> None:
    problem = Problem(Attends, table((6,)))
    module = ticket_of(problem).to_torch_prune(problem.module())
    with pytest.raises(RuntimeError):
        module(torch.randn(4, 5))
    copy.deepcopy(module)  # after a forward that failed
    for part, layer, inputs in ((module.inp, module.inp, 1), (module.attend, module.attend.out_proj, 3)):
        with torch.no_grad():
            layer.weight_orig.mul_(2)
        outputs = part(*[torch.randn(4, 3, layer.in_features if part is layer else 8)] * inputs)
        (outputs[0] if inputs == 3 else outputs).square().sum().backward()
        assert layer.weight_orig.grad.abs().sum() > 0
        assert torch.equal(layer.weight, layer.weight_orig * layer.weight_mask)
        copy.deepcopy(module)
