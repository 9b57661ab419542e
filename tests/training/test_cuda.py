"""On a GPU: engines, precisions, recorded steps, memory and methods agree with the CPU. Skipped where there is none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import evoprune as ep
from evoprune.masks.sampling import random_masks
from evoprune.methods import METHODS
from evoprune.problems.problem import Problem
from evoprune.testing import contract_test
from evoprune.training.capacity import largest_population
from evoprune.training.options import CAPTURABLE, OPTIMIZERS
from evoprune.training.population import Population
from evoprune.training.recorded import WARM
from tests.tiny import Residual, dropped, images, mlp, own, small_conv, table

pytestmark = pytest.mark.cuda

MODELS: dict[str, Callable[[], Problem]] = {
    "mlp": mlp,
    "residual": lambda: own(Residual),
    "conv and norm": lambda: own(small_conv, (1, 8, 8)),
    "lenet5": lambda: images("lenet5", samples=80),
    "resnet20": lambda: images("resnet20", 8, 3, samples=80),
}


def population(problem: Problem, device: str, engine: str, **options: Any) -> Population:
    options = {"horizon": 3, "batch_size": 8, "lr": 0.02, **options}
    return Population(problem, random_masks(problem.space, 4, sparsity=0.7), device=device, engine=engine, **options)


def assert_close(found: Population, expected: Population, *, atol: float) -> None:
    for name, value in expected.parameters.leaves().items():
        torch.testing.assert_close(found.parameters.leaves()[name].cpu(), value.cpu(), rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ["loop", "dense", "sparse"])
def test_every_engine_trains_what_the_loop_on_the_cpu_trains(model: str, engine: str) -> None:
    """In float64, past the steps that run before a recording; select and prune record anew."""
    results = []
    for device, kind in (("cpu", "loop"), ("cuda", engine)):
        generation = population(MODELS[model](), device, kind, dtype="float64").train(2).select([3, 1])
        results.append(generation.train(1))
    assert_close(results[1], results[0], atol=1e-7)
    assert results[1].trace.last("val_loss") == pytest.approx(results[0].trace.last("val_loss"), abs=1e-6)


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_recorded_step_is_the_step(engine: str, optimizer: str) -> None:
    recorded, single = (
        population(mlp(), "cuda", engine, optimizer=optimizer, cuda_graphs=graphs).train(2) for graphs in (True, False)
    )
    assert recorded._recorded is not None
    assert recorded._recorded._replays is not None, "the step was not recorded"
    assert (recorded._recorded._replays[1] is not None) == (optimizer in CAPTURABLE)
    assert_close(recorded, single, atol=1e-6)


@pytest.mark.parametrize("precision", ["full", "bf16"])
def test_a_compiled_step_is_recorded_and_is_the_step(precision: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="evoprune"):
        compiled, plain = (population(mlp(), "cuda", "dense", compile=how, precision=precision).train(2) for how in (True, False))
    assert not caplog.records
    assert compiled._recorded is not None
    assert compiled._recorded._replays is not None
    assert_close(compiled, plain, atol=1e-4 if precision == "full" else 0.05)


def test_a_step_in_which_the_host_waits_runs_singly_and_torch_goes_on_as_before(caplog: pytest.LogCaptureFixture) -> None:
    """Random numbers on the device included, which a capture that failed would have refused."""

    def reading(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        scale = float(outputs.detach().abs().max() > 1e6)
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none") * (1 + scale)

    problem = Problem("mlp:10-8", table(), loss=reading)
    with caplog.at_level(logging.WARNING, logger="evoprune"):
        found = population(problem, "cuda", "dense", dtype="float64").train(1)
    assert "the host waits for the device in it" in caplog.text
    assert_close(found, population(problem, "cpu", "loop", dtype="float64").train(1), atol=1e-7)
    assert torch.rand(3, device="cuda").isfinite().all()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_no_step_waits_for_the_device(engine: str, optimizer: str) -> None:
    """torch itself raises where the host would wait."""
    generation = population(mlp(samples=400), "cuda", engine, optimizer=optimizer)
    order = generation.batches.order(0)
    assert generation._recorded is not None
    for step in range(WARM + 6):
        torch.cuda.set_sync_debug_mode("error" if step >= WARM + 2 else "default")
        try:
            generation._recorded.step(generation, order)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        generation.steps += 1


def test_a_step_with_dropout_runs_singly_and_draws_the_same_for_every_chunk() -> None:
    whole, cut = (population(own(dropped), "cuda", "dense") for _ in range(2))
    cut.engine.limit = 1
    cut._cut()
    assert_close(cut.train(1), whole.train(1), atol=1e-5)


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_fewer_digits_learn_the_same(engine: str, precision: str) -> None:
    """The stated check: mean validation accuracy of 16 networks within 3 points of full precision."""
    if (engine, precision) == ("sparse", "tf32"):
        pytest.skip("these kernels use no matrix units")
    problem = ep.Problem("lenet-300-100", "digits", seed=0)
    masks = random_masks(problem.space, 16, sparsity=0.9)
    means = []
    for how in ("full", precision):
        generation = Population(problem, masks, horizon=10, device="cuda", engine=engine, precision=how).train(10)
        means.append(generation.trace.last("val_accuracy").mean())
    assert means[1] == pytest.approx(means[0], abs=0.03)


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("model", ["mlp", "conv and norm", "lenet5"])
def test_the_same_seed_gives_the_same_bits_on_one_gpu(engine: str, model: str) -> None:
    first, second = (population(MODELS[model](), "cuda", engine).train(3) for _ in range(2))
    for name, value in first.parameters.leaves().items():
        assert torch.equal(value, second.parameters.leaves()[name])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract(name: str) -> None:
    contract_test(name, device="cuda")


@pytest.fixture
def little_memory() -> Iterator[int]:
    """About 1 GB of the device for this process."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2**30 / total))
    yield 2**30
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.usefixtures("little_memory")
def test_out_of_memory_halves_the_chunk_and_the_largest_population_is_found() -> None:
    problem = mlp("mlp:2000-2000")
    masks = random_masks(problem.space, 64, sparsity=0.99)
    generation = Population(problem, masks, horizon=2, device="cuda", engine="dense").train(1)
    assert len(generation._chunks) > 1, "64 networks of four million weights fitted into a gigabyte"
    assert not generation.trace.failed.any()
    k = largest_population(problem, masks[0], device="cuda", engine="dense")
    assert 64 <= k < 4096


def test_auto_takes_cuda_and_the_dense_engine() -> None:
    generation = Population(mlp(), random_masks(mlp().space, 2, sparsity=0.98), horizon=1)
    assert (generation.device.type, generation.engine.name) == ("cuda", "dense")
    assert generation.train(1).ledger.device == "cuda"
    ticket = generation.ticket(0)
    assert all(value.device.type == "cpu" for value in ticket.module().state_dict().values())


def test_data_stay_on_the_device_from_one_population_to_the_next() -> None:
    first, second = (population(mlp(), "cuda", "dense") for _ in range(2))
    assert first.batches.inputs.data_ptr() == second.batches.inputs.data_ptr()
