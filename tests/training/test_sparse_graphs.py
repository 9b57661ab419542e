"""Networks of any shape of graph train on the sparse engine as they do one by one."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.tiny import own
from tests.training.test_fused import assert_close, population

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_agrees(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    problem = own(build, shape)
    loop, sparse = (population(problem, engine) for engine in ("loop", "sparse"))
    pd.testing.assert_frame_equal(loop.evaluate(), sparse.evaluate(), rtol=1e-9, atol=0)
    assert_close(loop.train(2), sparse.train(2))


class Sums(nn.Module):
    """A random graph of layers, nonlinearities and sums over any earlier values."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.steps: list[tuple[str, int, int]] = []
        for number in range(rng.randint(3, 9)):
            kind = rng.choice(["layer", "layer", "relu", "tanh", "norm", "sum", "sum", "sum"])
            if kind in ("layer", "norm"):
                module = nn.Linear(8, 8) if kind == "layer" else nn.BatchNorm1d(8)
                nn.init.normal_(module.bias)  # of a unit without weights the norm is this, and not a rounded 0 for a ReLU
                self.add_module(f"step{number}", module)
            self.steps.append((kind, rng.randint(max(0, number - 3), number), rng.randint(0, number)))
        read = {value for kind, one, other in self.steps for value in ((one, other) if kind == "sum" else (one,))}
        self.unread = [value for value in range(len(self.steps) + 1) if value not in read]

    def forward(self, x: Tensor) -> Tensor:
        values = [self.first(x)]
        for number, (kind, one, other) in enumerate(self.steps):
            if kind == "sum":
                values.append(values[one] + values[other])
            elif kind in ("relu", "tanh"):
                values.append(getattr(torch, kind)(values[one]))
            else:
                values.append(self.get_submodule(f"step{number}")(values[one]))
        total = values[len(values) // 2]
        for value in self.unread:
            total = total + values[value]
        return self.last(total)


@pytest.mark.parametrize("seed", range(60))
def test_sums_of_earlier_values(seed: int) -> None:
    assert_agrees(lambda: Sums(seed), (6,))


class Two(nn.Module):
    """The sum of two layers is taken within a branch, and again, one after the other, around it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(8, 16)
        self.e, self.o = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, g = self.a(x), self.b(x)
        return self.o(self.e(torch.relu(h + g)) + h + g)


class Skips(nn.Module):
    """Two layers on the same input, and a random chain of skips over what came before: every sum is of sums."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.first = nn.ModuleList(nn.Linear(8, 4) for _ in range(2))
        self.inner = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.last = nn.Linear(4, 3)
        self.steps = [(rng.choice(["layer", "relu", "view", "sum", "sum", "sum"]), rng.random(), rng.random()) for _ in range(7)]

    def forward(self, x: Tensor) -> Tensor:
        values, layers = [layer(x) for layer in self.first], iter([*self.inner] * 4)
        for kind, one, other in self.steps:
            value = values[-1 - int(one * min(3, len(values)))]
            if kind == "sum":
                values.append(value + values[int(other * len(values))])
            elif kind == "view":
                values.append(value.view(-1, 4, 1, 1).flatten(1))
            else:
                values.append(torch.relu(value) if kind == "relu" else next(layers)(value))
        for value in values[:2]:
            values.append(values[-1] + value)
        return self.last(values[-1])


GRAPHS: dict[str, Callable[[], nn.Module]] = {"two": Two, **{f"skips {seed}": partial(Skips, seed) for seed in range(48)}}


@pytest.mark.parametrize("graph", GRAPHS)
def test_gradients_of_sums_of_sums(graph: str) -> None:
    loop, sparse = (population(own(GRAPHS[graph], (8,)), engine, momentum=0.0, nesterov=False) for engine in ("loop", "sparse"))
    expected, found = loop.dense_gradient(), sparse.dense_gradient()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    for generation in (loop, sparse):
        generation.train_steps(1)
    for row in range(len(loop)):
        after = sparse.parameters.row(row)
        for name, value in loop.parameters.row(row).items():
            torch.testing.assert_close(after[name], value, rtol=1e-9, atol=1e-12)


class Images(nn.Module):
    """Two convolutions and what is to happen with their images."""

    def __init__(self, after: Callable[[Images, Tensor], Tensor], features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        if after in (relu_flatten_sum, view_of_an_image, skips_over_two_sums):
            self.other = nn.Conv2d(4, 4, 3, padding=1)
        if after is skips_over_two_sums:
            self.inner = nn.Conv2d(4, 4, 3, padding=1)
        if after is relu_flatten_norm:
            self.norm = nn.BatchNorm1d(144)
        self.drop, self.after = nn.Dropout(0.3), after
        self.last = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.after(self, self.conv(x)).flatten(1))


def relu_flatten_dropout(model: Images, h: Tensor) -> Tensor:
    return model.drop(torch.relu(h).flatten(1))


def relu_flatten_norm(model: Images, h: Tensor) -> Tensor:
    return model.norm(torch.relu(h).flatten(1))


def relu_flatten_slice(model: Images, h: Tensor) -> Tensor:
    return torch.relu(h).flatten(1)[:, ::2]


def relu_flatten_sum(model: Images, h: Tensor) -> Tensor:
    return torch.relu(h).flatten(1) + model.other(h).flatten(1)


def view_of_an_image(model: Images, h: Tensor) -> Tensor:
    return model.other(h.view(-1, 4, 9, 4))


def view_with_other_channels(model: Images, h: Tensor) -> Tensor:
    return functional.avg_pool2d(torch.relu(h).view(-1, 8, 3, 6), 2, 1)


def skips_over_two_sums(model: Images, h: Tensor) -> Tensor:
    one = h + model.other(torch.relu(h))
    two = one + model.inner(torch.relu(one))
    return two + h


@pytest.mark.parametrize(
    ("after", "features"),
    [
        *((relu_flatten_dropout, 144), (relu_flatten_norm, 144), (relu_flatten_slice, 72), (relu_flatten_sum, 144)),
        *((view_of_an_image, 144), (view_with_other_channels, 80), (skips_over_two_sums, 144)),
    ],
)
def test_images_that_change_shape(after: Callable[[Images, Tensor], Tensor], features: int) -> None:
    assert_agrees(lambda: Images(after, features), (2, 6, 6))


class Rows(nn.Module):
    """A vector becomes an image behind a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 64), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.avg_pool2d(torch.relu(self.first(x)).view(-1, 4, 4, 4), 2).flatten(1))


def test_a_vector_that_becomes_an_image() -> None:
    assert_agrees(Rows, (6,))
