"""The sparse engine's kernels for a GPU, in Triton's interpreter on the CPU, against the loop over ordinary modules."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytest.importorskip("triton", reason="Triton is not installed (it is for Linux)")

import triton.language as tl

from evoprune.errors import UnsupportedLayer
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_masks
from evoprune.masks.space import MaskSpace
from evoprune.problems.problem import Problem
from evoprune.training.engines.base import ENGINES
from evoprune.training.engines.blocks import BlockEngine, layer
from evoprune.training.engines.blocks.layer import UNITS
from evoprune.training.engines.blocks.product import product
from evoprune.training.engines.dense import DenseEngine
from evoprune.training.engines.loop import LoopEngine
from evoprune.training.options import Training
from evoprune.training.population import Population
from tests.tiny import dropped, images, mlp, own, small_conv
from tests.training.test_own_modules import Frozen
from tests.training.test_sparse_agrees import (
    Block,
    Mixed,
    backward,
    chunks_of,
    dense_layers,
    engine_of,
    gradients,
    masks_of,
    parameters_of,
    trained,
)

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the kernels are compiled: see test_cuda.py")


def small_block() -> nn.Module:
    """A strided residual block, so that a shortcut, padding and two norms are met."""
    return nn.Sequential(nn.Conv2d(1, 2, 1), Block(2, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def pools() -> nn.Module:
    """Pools of three kinds around convolutions, a gate between two products, every nonlinearity."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.GELU(), nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, 1, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.SiLU(), nn.Flatten(), nn.Linear(8, 3),
        nn.Sigmoid(), nn.Linear(3, 2),
    )  # fmt: skip


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: dense_layers(20, 8, 5, 3), (20,)),
    "pools": (pools, (1, 6, 6)),
    "block": (small_block, (1, 4, 4)),
    "frozen": (Frozen, (6,)),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_gradients_and_running_statistics_agree_with_the_loop(name: str) -> None:
    build, shape = CASES[name]
    torch.manual_seed(0)
    model = build().double()
    masks = masks_of(MaskSpace.of(model), 2, 0.4)
    x = torch.randn(5, *shape, dtype=torch.float64)
    (expected, wanted, first), (found, got, second) = (trained(kind, model, masks, x) for kind in (LoopEngine, BlockEngine))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(second.buffers, first.buffers, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 2, 0), (2, 1, 1), (3, 2, 0), ((2, 3), (2, 1), (0, 2))])
def test_every_geometry_of_a_convolution(kernel: Any, stride: Any, padding: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Conv2d(2, 2, kernel, stride, padding)).double()
    masks = masks_of(MaskSpace.of(model), 2, 0.6)
    x = torch.randn(3, 1, 4, 5, dtype=torch.float64)
    results = [trained(kind, model, masks, x)[:2] for kind in (LoopEngine, BlockEngine)]
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("samples", [1, 31, 70])
def test_rows_longer_than_a_tile_and_batches_that_are_no_multiple_of_one(samples: int) -> None:
    """Dense masks: more survivors a row than a program reads at a time; own batches, one an individual."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 3), nn.ReLU(), nn.Linear(3, 2, bias=False)).double()
    masks = masks_of(MaskSpace.of(model), 2, 1.0)
    x = torch.randn(2, samples, 40, dtype=torch.float64)
    results = [trained(kind, model, masks, x, rows, shared=False)[:2] for kind, rows in ((LoopEngine, 1), (BlockEngine, 2))]
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", [1, 2])
def test_empty_rows_and_layers_and_a_single_output(k: int) -> None:
    """The first individual keeps nothing of the middle layer, nor of a unit of the first; one batch is a single sample."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    space = MaskSpace.of(model)
    empty = Mask(space, [np.arange(7, 23), np.empty(0, dtype=np.int64), np.array([1])])
    masks = [empty, *masks_of(space, k - 1, 0.5)] if k > 1 else [empty]
    for samples in (1, 5):
        x = torch.randn(samples, 6, dtype=torch.float64)
        results = [trained(kind, model, masks, x)[:2] for kind in (LoopEngine, BlockEngine)]
        assert results[1][0].shape == (k, samples, 1)
        torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


def test_inputs_of_more_numbers_than_32_bits_count(tmp_path: Path) -> None:
    """The third individual's inputs begin beyond 2^31 numbers, in a file of which only what is touched exists."""
    runs, samples, k = 2**28 + 8, 4, 3
    data = torch.from_file(str(tmp_path / "inputs"), shared=True, size=k * runs * samples, dtype=torch.bfloat16)
    data = data.view(k, runs, samples)
    assert 2 * runs * samples > 2**31
    data[:, -1] = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
    out = torch.zeros(k, 1, samples)
    pointers, first = torch.tensor([[0, 1]] * k, dtype=torch.int32), torch.arange(k + 1)
    indices, weights = torch.full((k,), runs - 1, dtype=torch.int32), torch.tensor([1.0, 10, 100])
    product[(1, k, 1)](
        out, data, weights, weights, pointers, indices, first, 1, 1, 1, samples, runs * samples, 1, 1,
        STRIDED=False, BIASED=False, RELU=False, SUM=tl.float32, **UNITS.options,
    )  # fmt: skip
    assert out[:, 0].tolist() == [[1, 2, 3, 4], [50, 60, 70, 80], [900, 1000, 1100, 1200]]


def test_gradients_are_those_of_finite_differences() -> None:
    """Of inputs, survivors and biases, through a gate, by autograd's own check."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    parameters = parameters_of(model, masks_of(MaskSpace.of(model), 2, 0.7))
    chunk = engine_of(BlockEngine, model).chunk(parameters, 0, 2)
    leaves = {**chunk.survivors, **chunk.stacked}
    x = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)

    def outputs(x: Tensor, *values: Tensor) -> Tensor:
        for group in (chunk.survivors, chunk.stacked):
            group.update({name: value for name, value in zip(leaves, values, strict=True) if name in group})
        return chunk(x, shared=False)

    assert torch.autograd.gradcheck(outputs, (x, *leaves.values()))


def test_a_value_that_is_read_twice_is_closed_once() -> None:
    """A ReLU before a sum and a product: the gradient of both comes together before the gate."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.a(x))
            return F.relu(self.b(h) + h) + self.a(h)

    torch.manual_seed(1)
    model = Twice().double()
    masks = masks_of(MaskSpace.of(model), 2, 0.7)
    x = torch.randn(4, 5, dtype=torch.float64)
    results = [trained(kind, model, masks, x)[:2] for kind in (LoopEngine, BlockEngine)]
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


def test_bf16_rounds_activations_and_sums_in_float32() -> None:
    torch.manual_seed(0)
    model = dense_layers(20, 8, 5, 3)
    masks = masks_of(MaskSpace.of(model), 2, 0.3)
    x = torch.randn(4, 20)
    exact, wanted, _ = trained(BlockEngine, model, masks, x)
    parameters, engine = parameters_of(model, masks, torch.float32), engine_of(BlockEngine, model, torch.float32)
    engine.precision = "bf16"
    rounded = backward(engine, chunks_of(engine, parameters), x)
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).abs().max()) <= 2.0**-5 * float(exact.abs().max())
    largest = max(float(value.abs().max()) for value in wanted.values())
    for name, value in gradients(parameters).items():
        assert float((value - wanted[name]).abs().max()) <= 2.0**-4 * largest, name


def test_dense_gradients_are_the_dense_engines() -> None:
    torch.manual_seed(0)
    model = dense_layers(20, 8, 5, 3).double()
    masks = masks_of(MaskSpace.of(model), 2, 0.3)
    x = torch.randn(4, 20, dtype=torch.float64)
    found = [
        engine_of(kind, model).chunk(parameters_of(model, masks), 0, 2).dense_gradients(x, lambda outputs: outputs.sin().sum())
        for kind in (DenseEngine, BlockEngine)
    ]
    torch.testing.assert_close(found[1], found[0])


@pytest.fixture
def as_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """`engine="sparse"` as it is on a GPU."""
    monkeypatch.setitem(ENGINES._entries, "sparse", BlockEngine)


@pytest.mark.usefixtures("as_sparse")
@pytest.mark.parametrize("build", [lambda: mlp("mlp:6-4", samples=24), lambda: own(dropped)])
def test_a_population_trains_selects_and_is_evaluated_as_with_the_dense_engine(build: Callable[[], Any]) -> None:
    problem = build()
    masks = random_masks(problem.space, 2, sparsity=0.6)
    results = []
    for engine in ("dense", "sparse"):
        options: dict[str, Any] = {"horizon": 3, "batch_size": 8, "dtype": "float64", "device": "cpu", "engine": engine}
        generation = Population(problem, masks, **options)
        generation.train_steps(1).select([1]).train_steps(1)
        assert generation.engine.name == engine
        judged = torch.tensor(generation.evaluate()["loss"].to_list())
        results.append({**generation.parameters.leaves(), "loss": generation._loss, "judged": judged})
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


class Met(TorchDispatchMode):
    """Operations that meet a tensor of the CPU: on a GPU each would make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(value, Tensor) and value.device.type == "cpu" for value in tree_leaves((args, kwargs))):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


class Launched:
    """Stands for a kernel, which needs numbers."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *_, **__: None


@pytest.mark.usefixtures("as_sparse")
@pytest.mark.parametrize("build", [lambda: own(small_conv, (1, 8, 8)), lambda: images("resnet20", 8, 3)])
def test_the_host_waits_for_nothing_within_a_step(build: Callable[[], Problem], monkeypatch: pytest.MonkeyPatch) -> None:
    """Around the kernels: numbers that were read would raise on torch's "meta" device, and none are sent after the first step."""
    monkeypatch.setattr(Training, "resolved_device", lambda self: torch.device("meta"))
    for kernel in ("product", "sampled", "transposed"):
        monkeypatch.setattr(layer, kernel, Launched())
    problem = build()
    generation = Population(problem, random_masks(problem.space, 3, sparsity=0.6), horizon=4, batch_size=8, engine="sparse")
    order = generation.batches.order(0)
    generation._take(order[0])
    with Met() as met:
        generation._take(order[1])
    assert met.found == []


def test_sparse_on_a_gpu_is_this_engine_and_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    model = dense_layers(4, 3, 2)
    options: dict[str, Any] = {"batch_size": 4, "device": torch.device("cuda"), "dtype": torch.float32}
    assert isinstance(ENGINES["sparse"](model, MaskSpace.of(model), **options), BlockEngine)
    monkeypatch.setitem(sys.modules, "evoprune.training.engines.blocks", None)
    with pytest.raises(UnsupportedLayer, match=r"pip install triton, or use engine='dense'"):
        ENGINES["sparse"](model, MaskSpace.of(model), **options)


def test_without_the_interpreter_a_cpu_is_refused() -> None:
    script = (
        "import torch; from evoprune.masks.space import MaskSpace; from evoprune.training.engines.blocks import BlockEngine\n"
        "model = torch.nn.Linear(3, 2)\n"
        "BlockEngine(model, MaskSpace.of(model), batch_size=2, device=torch.device('cpu'), dtype=torch.float32)"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, env=environment)
    assert "UnsupportedLayer: these kernels run on CUDA, not on cpu: use device='cuda', or engine='dense'" in done.stderr


def test_what_it_cannot_run_is_named() -> None:
    with pytest.raises(UnsupportedLayer, match="momentum=None"):
        trained(BlockEngine, Mixed().double(), masks_of(MaskSpace.of(Mixed()), 1, 0.5), torch.randn(2, 2, 13, 13).double())
    with pytest.raises(UnsupportedLayer, match="engine='dense'"):
        engine_of(BlockEngine, nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2)))


def test_the_kernels_compile_for_gpus_within_their_registers(tmp_path: Path) -> None:
    """Triton's compiler needs no GPU; what the interpreter lets pass, types that change in a loop for one, it refuses."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = [sys.executable, str(Path(__file__).with_name("compiled_blocks.py"))]
    done = subprocess.run(script, check=False, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-1000:]
    lines = [line.split() for line in done.stdout.split("\n")[:-1]]
    assert len(lines) == 9
    for kernel, target, stored, size, spilled in lines:
        assert int(size) > 1000, f"no machine code of {kernel} for {target}"
        assert int(spilled) == 0, f"{kernel} on {stored} has {spilled} bytes in memory that registers should hold"


def test_results_are_the_same_bits_every_time_and_for_every_chunk() -> None:
    """No atomics: a sum has one order. Rows do not see who shares their chunk."""
    torch.manual_seed(0)
    model = dense_layers(20, 8, 5, 3)
    masks = masks_of(MaskSpace.of(model), 3, 0.2)
    x = torch.randn(6, 20)
    first, again, cut = (trained(BlockEngine, model, masks, x, rows)[:2] for rows in (3, 3, 2))
    for other in (again, cut):
        assert torch.equal(first[0], other[0])
        assert all(torch.equal(value, other[1][name]) for name, value in first[1].items())
    assert np.isfinite(first[0].numpy()).all()
