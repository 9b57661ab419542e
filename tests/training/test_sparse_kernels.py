"""Kernels of the sparse engine one by one, beside what torch computes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from evoprune.masks.mask import Mask
from evoprune.masks.space import MaskSpace
from evoprune.training.engines.sparse import SparseEngine
from evoprune.training.engines.sparse.sources import Batch, Source
from evoprune.training.engines.sparse.values import Layout, Value
from tests.tiny import own
from tests.training.test_fused import assert_close, fused, population
from tests.training.test_sparse_agrees import chunks_of, engine_of, gradients, masks_of, parameters_of

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(1, 1, 1), (7, 1, 1), (37, 1, 1), (1, 5, 5), (3, 4, 18)]
POOLS: dict[str, nn.MaxPool2d] = {
    "2": nn.MaxPool2d(2),
    "2, a line left over": nn.MaxPool2d(2, stride=3),
    "2, overlapping": nn.MaxPool2d(2, stride=1),
    "2, ceil": nn.MaxPool2d(2, ceil_mode=True),
    "2, border": nn.MaxPool2d(2, padding=1),
    "3": nn.MaxPool2d(3),
    "3, border, as many windows as fit without": nn.MaxPool2d(3, padding=1),
    "4, border, as many windows as fit without": nn.MaxPool2d(4, padding=1),
    "3, overlapping, border": nn.MaxPool2d(3, stride=2, padding=1),
    "tall": nn.MaxPool2d((3, 1), stride=(1, 2)),
}


def plan_of(layout: Layout, samples: int, **more: Any) -> Any:
    return SimpleNamespace(samples=samples, block=layout.block, blocks=-(-samples // layout.block), shared=True, rows=1, **more)


def inside(buffer: torch.Tensor, layout: Layout, rows: int = 1) -> torch.Tensor:
    """The samples that lie in a buffer, `(rows, blocks · block, channels, height, width)`; borders are zero."""
    pad, sides = layout.pad, (layout.height + 2 * layout.pad, layout.width + 2 * layout.pad)
    lying = buffer.view(rows, -1, layout.channels, *sides, layout.block)
    cut = lying[..., pad : sides[0] - pad, pad : sides[1] - pad, :]
    assert lying.count_nonzero() == cut.count_nonzero()
    return cut.permute(0, 1, 5, 2, 3, 4).reshape(rows, -1, layout.channels, layout.height, layout.width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pad", [0, 2])
@pytest.mark.parametrize(("samples", "block"), [(16, 16), (40, 16), (40, 48), (5, 16)])
def test_a_batch_is_the_samples_at_its_indices(
    dtype: torch.dtype, shape: tuple[int, int, int], pad: int, samples: int, block: int
) -> None:
    data = torch.arange(60 * torch.Size(shape).numel(), dtype=dtype).add(1).view(60, *shape)
    layout = Layout(*shape, pad, block)
    batch = Batch(data, layout, plan_of(layout, samples))
    for seed in range(2):
        indices = torch.randperm(60, generator=torch.Generator().manual_seed(seed))[:samples]
        batch.take(indices, threads=2)
        found = inside(batch.buffer, layout)[0]
        assert found[:samples].equal(data[indices])
        assert not found[samples:].any()


def test_every_individual_has_the_batch_of_its_own() -> None:
    layout = Layout(2, 5, 17, 1, 16)
    value = Value((2, 5, 17), pad=1)
    batches = torch.randn(3, 20, 2, 5, 17, generator=torch.Generator().manual_seed(0))
    plan = plan_of(layout, 20, network=SimpleNamespace(source=value))
    plan.shared, plan.rows = False, 4  # there is room for one more than there are
    source = Source(plan, torch.float32)
    source.fill(batches.movedim(-1, 2).contiguous().movedim(2, -1))  # not contiguous
    found = inside(source.buffer, layout, rows=4)
    assert found[:3, :20].equal(batches)
    assert not found[3].any()


def pooled(pool: nn.MaxPool2d) -> nn.Sequential:
    """Max pooling of what a convolution alone gave, with and without ReLU, and of an activation."""
    body = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), pool, nn.Conv2d(3, 4, 2, padding=1), pool, nn.Conv2d(4, 3, 2, padding=2), nn.Tanh(), pool
    )  # fmt: skip
    features = body(torch.zeros(1, 2, 12, 12)).numel()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(features, 3))


def assert_agrees(build: Callable[[], nn.Module], shape: tuple[int, int, int], batch_size: int = 20) -> None:
    problem = own(build, shape)
    masks = masks_of(problem.space, 3, 0.5)
    loop, sparse = (population(problem, engine, masks, batch_size=batch_size) for engine in ("loop", "sparse"))
    for generation in (loop, sparse):
        generation.train(3)
    assert fused(sparse)
    assert_close(loop, sparse)


@pytest.mark.parametrize("pool", POOLS)
def test_max_pooling_agrees_with_the_loop(pool: str) -> None:
    assert_agrees(lambda: pooled(POOLS[pool]), (2, 12, 12))


@pytest.mark.parametrize("window", [2, 3, 4])
@pytest.mark.parametrize("padding", [0, 1])
def test_windows_that_divide_the_side_agree_with_the_loop(window: int, padding: int) -> None:
    """With a border the windows are shifted, and the last line lies in none."""

    def build() -> nn.Module:
        pool = nn.MaxPool2d(window, padding=padding)
        features = 3 * pool(torch.zeros(1, 1, 12, 12)).numel()
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(features, 3))

    assert_agrees(build, (2, 14, 14))


class ReadTwice(nn.Module):
    """What is pooled is read by a strided convolution too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 2, stride=2), nn.Linear(75, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(x))
        return self.out((functional.max_pool2d(x, 2) + self.second(x)).flatten(1))


class Viewed(nn.Module):
    """Views of views stand between the convolution and the pooling; the pooling is the end of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, (12, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x).flatten(1).view(-1, 3, 1, 3)
        return functional.max_pool2d(y, (1, 3)).flatten(1)


def pooled_input() -> nn.Module:
    return nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(2, 3, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3))


def normed() -> nn.Module:
    """One of two poolings has a norm behind it."""
    layers = [nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 2), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.parametrize("build", [ReadTwice, Viewed, pooled_input, normed], ids=lambda build: build.__name__)
@pytest.mark.parametrize("batch_size", [17, 40])
def test_a_pooling_anywhere_agrees_with_the_loop(build: Callable[[], nn.Module], batch_size: int) -> None:
    assert_agrees(build, (2, 12, 12), batch_size)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_max_pooling_keeps_nan_and_gives_the_gradient_to_the_first_of_equals(pool: str, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), POOLS[pool], nn.Flatten(), nn.LazyLinear(1, bias=False)).to(dtype)
    batch = torch.randint(-2, 3, (20, 1, 12, 12), generator=torch.Generator().manual_seed(0)).to(dtype)  # many equals
    batch[3, 0, 5, 5] = batch[7, 0, 0, 0] = batch[7, 0, 0, 1] = torch.nan
    model(batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.arange(1.0, parameter.numel() + 1).view_as(parameter))
    parameters = parameters_of(model, [Mask.full(MaskSpace.of(model))], dtype)
    engine = engine_of(SparseEngine, model, dtype, batch=20)
    [chunk] = chunks_of(engine, parameters)
    chunk.train()
    torch.testing.assert_close(chunk(batch)[0].detach(), model(batch).detach(), rtol=0, atol=0, equal_nan=True)
    good = torch.cat([batch[:3], batch[8:]])
    expected = torch.autograd.grad(model(good).sum(), list(model.parameters()))
    chunk(good).sum().backward()
    for left, right in zip(gradients(parameters).values(), expected, strict=True):
        torch.testing.assert_close(left.view(right.shape), right, rtol=0, atol=0)
