"""A forward that computes with sizes, counts or masks of places keeps the units that these count, and no others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.training.compact import compact
from tests.training.test_compact import Written, check, sparse

WIDTH = 6


def width_of(forward: Callable[[Written, Tensor], Tensor]) -> int:
    """Units that are left of `WIDTH`, of which two read nothing and are worth nothing, in a net that computes the same."""
    net = Written(forward, a=nn.Linear(4, WIDTH), b=nn.Linear(WIDTH, 3))
    net.register_buffer("even", torch.arange(WIDTH) % 2 == 0)
    net.register_buffer("weights", torch.arange(5))
    model = sparse(net, 1.0, 0)
    with torch.no_grad():
        model.a.weight[2:4] = 0  # type: ignore[index, union-attr]
    return int(check(model, (4,)).a.out_features)


def hidden(self: Written, x: Tensor) -> Tensor:
    return torch.sigmoid(self.a(x))


NUMBERS: dict[str, Callable[[Written, Tensor], Tensor]] = {
    "a scale by width": lambda s, x: s.b(h := hidden(s, x)) / h.size(1) ** 0.5,
    "a scale by shape": lambda s, x: s.b((h := hidden(s, x)) / h.shape[1]),
    "a count": lambda s, x: s.b(h := hidden(s, x)) + h.numel() / h.size(0),
    "places as numbers": lambda s, x: s.b((h := hidden(s, x)) * torch.arange(h.size(1))),
    "a filled tensor": lambda s, x: s.b(h := hidden(s, x)) * torch.full((3,), h.size(1) / 2),
    "a padding by width": lambda s, x: F.pad(s.b(h := hidden(s, x)), (1, 1), value=h.size(1) / 2),
    "a mask of units": lambda s, x: s.b(hidden(s, x) * s.even),
    "a choice by a mask": lambda s, x: s.b(torch.where(s.even, hidden(s, x), 0.0)),
    "places by a mask": lambda s, x: s.b(torch.cat([(h := hidden(s, x))[:, s.even], h[:, ~s.even]], dim=1)),
}
"""Forwards that compute with a number that would be another one in a smaller network."""

SHAPES: dict[str, Callable[[Written, Tensor], Tensor]] = {
    "a view": lambda s, x: s.b((h := hidden(s, x)).view(h.size(0), 1, h.size(1)).flatten(1)),
    "a size by arithmetic": lambda s, x: s.b((h := hidden(s, x)).view(-1, h.size(1) // 1 * 1)),
    "a whole shape": lambda s, x: s.b((h := hidden(s, x)).unsqueeze(1).reshape(h.shape)),
    "the size of the batch": lambda s, x: s.b((h := hidden(s, x)) / (h.size(0) // h.size(0))),
    "integers for other places": lambda s, x: s.b((hidden(s, x).unsqueeze(-1) * s.weights).sum(-1)),
}
"""Forwards that read a size for the shape of something."""


@pytest.mark.parametrize("net", NUMBERS)
def test_units_stay_where_a_forward_computes_with_their_number(net: str) -> None:
    assert width_of(NUMBERS[net]) == WIDTH


@pytest.mark.parametrize("net", SHAPES)
def test_units_go_where_a_forward_asks_for_sizes_alone(net: str) -> None:
    assert width_of(SHAPES[net]) == WIDTH - 2


def test_a_number_that_is_given_out_stays() -> None:
    def forward(self: Written, x: Tensor) -> Tensor:
        return self.b(h := hidden(self, x)), h.size(1)  # type: ignore[return-value]

    model = sparse(Written(forward, a=nn.Linear(4, WIDTH), b=nn.Linear(WIDTH, 3)), 0.0, 0)
    assert compact(model, (4,)).a.out_features == WIDTH
