"""What the dense engine does for a GPU, on the CPU: products batch-last, wide chunks, torch.compile and its fall-back."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evoprune.masks.sampling import random_masks
from evoprune.masks.space import MaskSpace
from evoprune.problems.problem import Problem
from evoprune.training.engines import dense
from evoprune.training.engines.batch_last import batch_last
from evoprune.training.engines.dense import DenseEngine
from evoprune.training.population import Population
from tests.tiny import Residual, dropped, images, mlp, own, small_conv


def population(problem: Problem, **options: Any) -> Population:
    options = {"horizon": 2, "batch_size": 8, "lr": 0.02, "engine": "dense", "device": "cpu", "dtype": "float64", **options}
    return Population(problem, random_masks(problem.space, 3, sparsity=0.6), **options)


def assert_close(first: Population, second: Population) -> None:
    for name, value in first.parameters.leaves().items():
        torch.testing.assert_close(second.parameters.leaves()[name], value, rtol=0, atol=1e-9, msg=name)


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules() if isinstance(module, nn.Linear)]


# ---- batch-last products ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [mlp, lambda: own(dropped), lambda: own(small_conv, (1, 8, 8)), lambda: images("lenet5")])
def test_products_batch_last_are_the_same_products(build: Callable[[], Problem], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = population(build()).train(1)
    monkeypatch.setattr(dense, "BATCH_LAST_ON", ("cpu",))
    found = population(build()).train(1)
    assert "_BatchLast" in kinds(found.engine.model)
    assert_close(plain, found)
    assert found.trace.rows()[-1]["val_loss"] == pytest.approx(plain.trace.rows()[-1]["val_loss"], abs=1e-9)
    assert set(kinds(build().module())) == {"Linear"}, "the problem's own model was changed"


def test_their_weight_gradients_need_no_copy_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The point of them: a gradient of stacked weights that lies transposed is read and written once more."""
    assert _copies_of_weights() > 0
    monkeypatch.setattr(dense, "BATCH_LAST_ON", ("cpu",))
    assert _copies_of_weights() == 0


def _copies_of_weights() -> int:
    generation = population(mlp("mlp:40-30", features=50))
    weights = [3 * size for size in generation.problem.space.sizes]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        generation._gradients(*generation.batches.at(0))
    copies = [event for event in profile.events() if event.name == "aten::clone"]
    return sum(functools.reduce(lambda a, b: a * b, event.input_shapes[0], 1) in weights for event in copies)


def test_only_layers_that_nothing_reads_in_another_order_are_taken() -> None:
    """A `view` refuses what lies in another order; a user's own forward may hold one."""
    tail = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    assert kinds(batch_last(tail)) == ["Linear", "_BatchLast", "_BatchLast"]
    assert set(kinds(batch_last(Residual()))) == {"Linear"}
    assert kinds(batch_last(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))) == ["Linear"]
    assert batch_last(nn.Sequential(nn.Linear(3, 2)))(torch.ones(2, 5, 3)).shape == (2, 5, 2)


def test_bf16_keeps_the_outputs_of_batch_last_products_in_bf16() -> None:
    layer = batch_last(nn.Sequential(nn.Linear(4, 3)))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(2, 4)).dtype == torch.bfloat16


# ---- chunks ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "device", "rows"),
    [
        (lambda: nn.Linear(1000, 100), "cpu", 40),
        (lambda: nn.Linear(10, 10), "cpu", 64),
        (lambda: nn.Linear(10, 10), "cuda", 512),
        (lambda: nn.Linear(2000, 1000), "cuda", 200),
        (lambda: nn.Conv2d(3, 8, 3), "cuda", 64),
        (lambda: nn.Linear(30_000, 30_000, device="meta"), "cuda", 1),
    ],
)
def test_a_chunk_follows_from_model_and_device(build: Callable[[], nn.Module], device: str, rows: int) -> None:
    model = build()
    engine = DenseEngine(model, MaskSpace.of(model), batch_size=8, device=torch.device(device), dtype=torch.float32)
    assert engine.rows == rows


# ---- torch.compile -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without code generation: tracing, functionalisation and autograd are the real ones."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


@pytest.mark.usefixtures("quick_compiler")
def test_compiled_steps_are_the_steps(caplog: pytest.LogCaptureFixture) -> None:
    """With running statistics, which a step changes in place, and evaluation, which is not compiled."""
    problem = own(Residual)
    with caplog.at_level(logging.WARNING, logger="evoprune"):
        compiled = population(problem, compile=True).train(1)
    assert isinstance(compiled.engine, DenseEngine)
    assert compiled.engine.compiled is not None, caplog.text
    assert not caplog.records
    plain = population(problem).train(1)
    assert_close(plain, compiled)
    for name, value in plain.parameters.buffers.items():
        torch.testing.assert_close(compiled.parameters.buffers[name], value, rtol=0, atol=1e-9)


class Breaking(nn.Module):
    """What the compiler cannot trace in one piece, and everything else can."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.one(x))
        torch._dynamo.graph_break()
        out: Tensor = self.two(h)
        return out


@pytest.mark.usefixtures("quick_compiler")
def test_what_the_compiler_does_not_take_runs_as_it_is_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="evoprune"):
        found = population(own(Breaking), compile=True).train(1)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("torch.compile does not take this model (")
    assert line.endswith("): it runs uncompiled")
    assert "\n" not in line
    assert_close(population(own(Breaking)).train(1), found)


def test_memory_that_runs_out_in_a_compiled_step_is_no_fault_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = mlp()
    expected = population(problem).train(1)
    found = population(problem, compile=True)
    assert isinstance(found.engine, DenseEngine)

    def short(values: dict[str, Tensor], states: dict[str, Tensor], batch: Tensor, shared: bool) -> Tensor:
        if len(next(iter(values.values()))) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found.engine.forward(values, states, batch, shared)  # type: ignore[attr-defined, no-any-return]

    monkeypatch.setattr(found.engine, "compiled", short)
    assert_close(expected, found.train(1))
    assert [chunk.k for chunk in found._chunks] == [1, 1, 1]
    assert found.engine.compiled is short
