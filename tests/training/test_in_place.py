"""What a model changes in place the sparse engine computes as torch does, or refuses."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evoprune.errors import UnsupportedLayer
from tests.tiny import own
from tests.training.test_fused import assert_close, population

pytestmark = pytest.mark.usefixtures("one_thread")

Between = Callable[["Model", Tensor], Tensor]


class Model(nn.Module):
    """Two layers and what is to happen between them."""

    def __init__(self, between: Between) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(6, 8), nn.Linear(8, 3), between
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, self.first(x)))


def sum_with_its_own_relu(model: Model, h: Tensor) -> Tensor:
    return model.relu(h) + h


def relu_whose_result_is_dropped(model: Model, h: Tensor) -> Tensor:
    model.relu(h)
    return h


def method_whose_result_is_dropped(model: Model, h: Tensor) -> Tensor:
    h.relu_()
    return h


def function_whose_result_is_dropped(model: Model, h: Tensor) -> Tensor:
    before = torch.tanh(h)
    functional.relu(h, True)
    return before + h


def sum_in_place(model: Model, h: Tensor) -> Tensor:
    g = torch.tanh(h)
    h.add_(g)
    return h


def sum_by_operator(model: Model, h: Tensor) -> Tensor:
    other = h
    h += torch.tanh(h)
    return other


def twice(model: Model, h: Tensor) -> Tensor:
    h.add_(torch.sigmoid(h))
    model.relu(h)
    return h


def on_a_view_alone(model: Model, h: Tensor) -> Tensor:
    flat = h.view(-1, 8)
    model.relu(flat)
    return flat


@pytest.mark.parametrize(
    "between",
    [
        *(sum_with_its_own_relu, relu_whose_result_is_dropped, method_whose_result_is_dropped, sum_in_place, sum_by_operator),
        *(function_whose_result_is_dropped, twice, on_a_view_alone),
    ],
)
def test_a_change_is_seen_by_whoever_reads_later(between: Between) -> None:
    problem = own(lambda: Model(between))
    loop, sparse = (population(problem, engine) for engine in ("loop", "sparse"))
    pd.testing.assert_frame_equal(loop.evaluate(), sparse.evaluate(), rtol=1e-9, atol=0)
    assert_close(loop.train(2), sparse.train(2))


def on_a_view_of_what_is_read(model: Model, h: Tensor) -> Tensor:
    model.relu(h.view(-1, 8))
    return h


def on_what_has_a_view(model: Model, h: Tensor) -> Tensor:
    flat = h.view(-1, 8)
    model.relu(h)
    return flat


def of_a_parameter(model: Model, h: Tensor) -> Tensor:
    model.last.bias.relu_()
    return h


@pytest.mark.parametrize(
    ("between", "why"),
    [(on_a_view_of_what_is_read, "another name"), (on_what_has_a_view, "another name"), (of_a_parameter, "a parameter in place")],
)
def test_what_would_need_shared_memory_is_refused(between: Between, why: str) -> None:
    def build() -> nn.Module:
        model = Model(between)
        model.last.bias.requires_grad_(False)  # torch changes no parameter in place that is trained
        return model

    with pytest.raises(UnsupportedLayer, match=f"{why}.*engine='dense'"):
        population(own(build))
