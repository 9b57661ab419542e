"""The sparse engine computes what the loop over ordinary modules computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.masks.mask import Mask
from evoprune.masks.space import MaskSpace
from evoprune.training.engines.base import Chunk, Engine
from evoprune.training.engines.dense import DenseEngine
from evoprune.training.engines.loop import LoopEngine
from evoprune.training.engines.sparse import SparseEngine
from evoprune.training.parameters import Parameters

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


class Block(nn.Module):
    """A residual block with an option-A shortcut where it changes size."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.stride, self.new = stride, filters - channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return F.relu(y + x)


class Mixed(nn.Module):
    """Most operations at once: uneven windows, a module used twice, pooling of three kinds, every nonlinearity."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(2, 6, 3, stride=2, padding=1, bias=False)
        self.b1 = nn.BatchNorm2d(6)
        self.c2 = nn.Conv2d(6, 6, (3, 1), padding=(1, 0), bias=False)
        self.c3 = nn.Conv2d(6, 5, 1, stride=2)
        self.linear = nn.Linear(20, 7, bias=False)
        self.b2 = nn.BatchNorm1d(7, momentum=None)
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.b1(self.c1(x)))
        x = F.relu(self.c2(self.c2(x))) + x
        x = torch.tanh(self.c3(F.max_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, 3, 2, 1)))
        x = F.adaptive_avg_pool2d(x, 2).view(x.size(0), -1)
        return self.out(torch.sigmoid(F.silu(self.b2(self.linear(x)))))


def dense_layers(*widths: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def lenet5() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 3),
    )  # fmt: skip


def conv4() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip


def resnet() -> nn.Module:
    stem = [nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
    blocks = [Block(4, 4, 1), Block(4, 4, 1), Block(4, 8, 2), Block(8, 8, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet-300-100": (lambda: dense_layers(50, 30, 10, 3), (50,)),
    "autoencoder": (lambda: dense_layers(36, 20, 10, 4, 10, 20, 36), (1, 6, 6)),
    "lenet5": (lenet5, (1, 16, 16)),
    "conv4": (conv4, (3, 8, 8)),
    "resnet20": (resnet, (3, 8, 8)),
    "mixed": (Mixed, (2, 13, 13)),
}


def masks_of(space: MaskSpace, k: int, density: float, seed: int = 0) -> list[Mask]:
    """Random masks: another allocation for each, an empty layer in the second, an empty output row in every one."""
    rng = np.random.default_rng(seed)
    masks = []
    for row in range(k):
        layers = []
        for layer, (size, shape) in enumerate(zip(space.sizes, space.shapes, strict=True)):
            count = min(size, max(1, int(size * density * rng.uniform(0.5, 1.5)))) if (row, layer) != (1, 1) else 0
            kept = np.sort(rng.choice(size, count, replace=False))
            layers.append(kept[kept >= size // shape[0]] if layer == 0 and density < 1 else kept)
        masks.append(Mask(space, layers))
    return masks


def parameters_of(model: nn.Module, masks: Sequence[Mask], dtype: torch.dtype = torch.float64) -> Parameters:
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    return Parameters.of(masks, [weights] * len(masks), trained, dtype=dtype)


def engine_of(kind: type[Engine], model: nn.Module, dtype: torch.dtype = torch.float64, batch: int = 8) -> Engine:
    return kind(model, MaskSpace.of(model), batch_size=batch, device=CPU, dtype=dtype)


def chunks_of(engine: Engine, parameters: Parameters, rows: int | None = None) -> list[Chunk]:
    width, k = rows or engine.rows, len(parameters)
    return [engine.chunk(parameters, start, min(k, start + width)) for start in range(0, k, width)]


def backward(engine: Engine, chunks: Sequence[Chunk], x: Tensor, **options: bool) -> Tensor:
    """Outputs of all individuals; the gradients of a fixed function of them are added to the parameters."""
    outputs = []
    engine.model.train()
    for chunk in chunks:
        given = x if options.get("shared", True) else x[chunk.start : chunk.stop]
        output = chunk.train()(given, **options)
        weights = torch.linspace(-1, 2, output[0].numel(), dtype=output.dtype).view(output.shape[1:])
        (output.sin() * weights).sum().backward()
        outputs.append(output.detach())
    return torch.cat(outputs)


def trained(
    kind: type[Engine], model: nn.Module, masks: Sequence[Mask], x: Tensor, rows: int | None = None, **options: bool
) -> Any:
    """Outputs and gradients of one step from the model's own weights, and the parameters."""
    parameters, engine = parameters_of(model, masks, x.dtype), engine_of(kind, model, x.dtype)
    outputs = backward(engine, chunks_of(engine, parameters, rows), x, **options)
    return outputs, gradients(parameters), parameters


def gradients(parameters: Parameters) -> dict[str, Tensor]:
    return {name: leaf.grad.clone() for name, leaf in parameters.leaves().items() if leaf.grad is not None}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_agrees_with_the_loop_in_float64(name: str, optimizer: str) -> None:
    build, shape = NETWORKS[name]
    for density in (0.5, 0.05, 0.001) if optimizer == "sgd" else (0.1,):
        torch.manual_seed(0)
        model = build().double()
        masks = masks_of(MaskSpace.of(model), 3, density)
        batches = torch.randn(9, 8, *shape, dtype=torch.float64)
        results = []
        for kind in (LoopEngine, SparseEngine):
            parameters, engine = parameters_of(model, masks), engine_of(kind, model)
            chunks = chunks_of(engine, parameters)
            leaves = list(parameters.leaves().values())
            steps: torch.optim.Optimizer = torch.optim.AdamW(leaves, lr=1e-3)
            if optimizer == "sgd":
                steps = torch.optim.SGD(leaves, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-3)
            for batch in batches:
                backward(engine, chunks, batch)
                steps.step()
                steps.zero_grad(set_to_none=False)
            model.eval()
            with torch.no_grad():
                outputs = torch.cat([chunk.eval()(batches[0][:5]) for chunk in chunks])
            results.append({**parameters.leaves(), **parameters.buffers, "outputs": outputs})
        for key, expected in results[0].items():
            torch.testing.assert_close(results[1][key], expected, rtol=1e-8, atol=1e-8)


class Branches(nn.Module):
    """Norms in every place: in both branches of a sum, one after the other, read twice across others, on vectors, at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.join = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(5))
        for norm in self.norms:  # a unit without survivors is constant: its ReLU is not to hang on the sign of a rounded 0
            nn.init.uniform_(norm.bias, 0.1, 0.5)
        self.linear, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.left(x)) + self.norms[1](self.right(x)))
        y = F.relu(self.norms[3](self.norms[2](self.join(x))))
        x = self.norms[4](self.join(y) + x) + y
        return self.last(self.linear(x.mean((2, 3))))


@pytest.mark.parametrize("name", ["resnet20", "mixed", "branches"])
@pytest.mark.parametrize("training", [True, False])
def test_norms_over_several_blocks_of_the_batch(name: str, training: bool) -> None:
    build, shape = {**NETWORKS, "branches": (Branches, (2, 6, 5))}[name]
    torch.manual_seed(0)
    model = build().double()
    masks = masks_of(MaskSpace.of(model), 3, 0.5)
    x = torch.randn(150, *shape, dtype=torch.float64)
    results = []
    for kind in (LoopEngine, SparseEngine):
        parameters, engine = parameters_of(model, masks), engine_of(kind, model)
        chunks = chunks_of(engine, parameters)
        backward(engine, chunks, x[:37])  # running statistics of their own
        outputs = torch.cat([chunk.train(training)(x) for chunk in chunks])
        outputs.sin().sum().backward()
        results.append([outputs.detach(), gradients(parameters), parameters.buffers])
    torch.testing.assert_close(results[1], results[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("line", [0.0, 30.0])
def test_the_variance_of_numbers_far_from_zero_loses_no_digits(line: float) -> None:
    """line: how far the first line of every image lies from the rest."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1, bias=False), nn.Flatten())
    masks = masks_of(MaskSpace.of(model), 1, 1.0)
    torch.manual_seed(0)
    x = 300 + torch.randn(40, 1, 6, 6)
    x[:, :, 0] += line
    exact, _, _ = trained(LoopEngine, model.double(), masks, x.double())
    found, _, _ = trained(SparseEngine, model.float(), masks, x)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("samples", [8, 37, 150])
def test_one_step_in_float32_is_close_to_float64(name: str, samples: int) -> None:
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = build()
    masks = masks_of(MaskSpace.of(model), 3, 0.3)
    x = torch.randn(samples, *shape)
    _, exact, _ = trained(LoopEngine, model.double(), masks, x.double())
    _, found, _ = trained(SparseEngine, model.float(), masks, x)
    largest = max(float(value.abs().max()) for value in exact.values())
    for key, value in exact.items():
        assert float((found[key] - value).abs().max()) <= 1e-4 * largest, key


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(1, 1, 0), (1, 2, 0), (2, 1, 1), (3, 2, 0), (3, 3, 2), ((2, 5), (2, 1), (0, 3)), (5, 1, 2)]
)
def test_every_geometry_of_a_convolution(kernel: Any, stride: Any, padding: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, kernel, stride, padding)).double()
    masks = masks_of(MaskSpace.of(model), 2, 0.6)
    x = torch.randn(5, 2, 8, 9, dtype=torch.float64)
    results = [trained(kind, model, masks, x)[:2] for kind in (LoopEngine, SparseEngine)]
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 2)).double()
    parameters = parameters_of(model, masks_of(MaskSpace.of(model), 2, 0.4))
    chunk = engine_of(SparseEngine, model).chunk(parameters, 0, 2).train()
    chunk.in_place = False
    x = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *leaves: chunk(x), tuple(chunk.leaves.values()))


def test_dense_gradients_count_pruned_weights_too() -> None:
    for build, shape in (NETWORKS["lenet-300-100"], NETWORKS["resnet20"], NETWORKS["mixed"]):
        torch.manual_seed(0)
        model = build().double().train()
        masks = masks_of(MaskSpace.of(model), 2, 0.3)
        parameters = parameters_of(model, masks)
        x = torch.randn(6, *shape, dtype=torch.float64)
        before = {name: value.clone() for name, value in parameters.buffers.items()}
        chunk = engine_of(SparseEngine, model).chunk(parameters, 0, 2).train()
        found = chunk.dense_gradients(x, lambda outputs: outputs.square().sum())
        for row in range(2):
            own = parameters.row(row)
            weights = {name: own[name].requires_grad_() for name in parameters.space.names}
            value = torch.func.functional_call(model, {**own, **weights}, (x,)).square().sum()
            for name, expected in zip(weights, torch.autograd.grad(value, list(weights.values())), strict=True):
                torch.testing.assert_close(found[name][row], expected, rtol=1e-9, atol=1e-9)
        assert all(torch.equal(value, before[name]) for name, value in parameters.buffers.items())
        assert all(not value.any() for value in gradients(parameters).values())


def test_a_batch_for_each_individual() -> None:
    for build, shape in (NETWORKS["lenet-300-100"], NETWORKS["conv4"]):
        torch.manual_seed(0)
        model = build().double()
        masks = masks_of(MaskSpace.of(model), 3, 0.4)
        x = torch.randn(3, 5, *shape, dtype=torch.float64)
        results = [trained(kind, model, masks, x, shared=False)[:2] for kind in (LoopEngine, SparseEngine)]
        torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


class Tied(nn.Module):
    """One weight under two names, one frozen layer, one layer read by two others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.frozen, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.b.weight = self.a.weight
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.frozen(x))
        y = self.a(x)
        return self.out(F.relu(self.b(F.relu(y))) + y + x)


def test_tied_frozen_and_shared_parts() -> None:
    torch.manual_seed(0)
    model = Tied().double()
    masks = masks_of(MaskSpace.of(model), 2, 0.7)
    x = torch.randn(9, 6, dtype=torch.float64)
    assert "frozen.weight" in parameters_of(model, masks).buffers
    results = [trained(kind, model, masks, x)[:2] for kind in (LoopEngine, SparseEngine)]
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


def test_dropout_draws_the_same_numbers_as_the_dense_engine() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Dropout(0.4), nn.Flatten(), nn.Linear(48, 9), nn.Dropout(0.2), nn.Linear(9, 2)
    )
    model = model.double()
    masks = masks_of(MaskSpace.of(model), 3, 0.5)
    x = torch.randn(40, 1, 6, 6, dtype=torch.float64)
    results = []
    for kind in (DenseEngine, SparseEngine):
        assert engine_of(kind, model).random
        torch.manual_seed(3)
        results.append(trained(kind, model, masks, x, rows=3)[:2])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)
    assert not engine_of(SparseEngine, dense_layers(4, 3, 2).double()).random
