"""Out of memory: chunks are halved and training goes on, with the result that it would have had."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from evoprune.errors import EvopruneError, NotEnoughMemory
from evoprune.masks.sampling import random_masks
from evoprune.shortage import out_of_memory
from evoprune.training.capacity import largest_population
from evoprune.training.engines.dense import DenseEngine
from evoprune.training.memory import available_memory, check_memory, largest
from evoprune.training.population import Population
from tests.tiny import Residual, own

LIMITED = """
import logging, resource, sys
import torch
from evoprune.masks.sampling import random_masks
from evoprune.training.population import Population
from tests.tiny import mlp

torch.set_num_threads(1)
problem = mlp("mlp:700-700")
masks = random_masks(problem.space, 6, sparsity=0.9)
generation = Population(problem, masks, horizon=2, engine="dense", device="cpu", lr=1e-3)
whole = len(generation._chunks)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20, resource.RLIM_INFINITY))
logging.basicConfig(level=logging.WARNING)
generation.train(2)
print(whole, len(generation._chunks), *generation.trace.last("val_loss"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on address space is Linux's")
def test_a_process_that_runs_out_of_memory_halves_the_chunk_and_goes_on() -> None:
    """Six networks of half a million weights: three stacked copies of them do not fit into 14 MB, those of one or two do."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is free at once
    free, tight = (
        subprocess.run(
            [sys.executable, "-c", LIMITED, limit], check=True, capture_output=True, text=True, timeout=120, env=environment
        )
        for limit in ("4000", "14")
    )
    assert free.stdout.split()[:2] == ["1", "1"]
    assert int(tight.stdout.split()[1]) > 1
    assert "out of memory: going on with" in tight.stderr
    assert [float(value) for value in tight.stdout.split()[2:]] == pytest.approx(
        [float(value) for value in free.stdout.split()[2:]], abs=1e-5
    )


LIMITED_STEP = """
import gc, logging, resource, torch
from evoprune.masks.sampling import random_masks
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from tests.tiny import table

torch.set_num_threads(2)
net = torch.nn.Sequential(torch.nn.Conv2d(1, 24, 3, padding=1), torch.nn.BatchNorm2d(24), torch.nn.ReLU(), torch.nn.Flatten(),
                          torch.nn.Linear(24 * 400, 3))
problem = Problem(net, table((1, 20, 20), 3, 120))
masks = random_masks(problem.space, 4, sparsity=0.9)

def trained():
    return Population(problem, masks, horizon=1, engine="sparse", device="cpu", batch_size=100).train(1)

values = list(trained().parameters.leaves().values())
gc.collect()
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 16 * 2**20, resource.RLIM_INFINITY))
logging.basicConfig(level=logging.WARNING)
generation = trained()
same = [torch.equal(a, b) for a, b in zip(values, generation.parameters.leaves().values(), strict=True)]
print(generation.engine.width, generation._fused() is not None, all(same))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on address space is Linux's")
def test_a_step_of_the_sparse_engine_that_does_not_fit_trains_fewer_at_a_time() -> None:
    """Activations and gradients of a batch take 10 MB a thread: two do not fit into 16 MB, one does."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_STEP], check=True, capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.stdout.split() == ["1", "True", "True"], done.stdout + done.stderr
    assert "out of memory: going on with 1 networks at a time" in done.stderr


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_losses_gradients_and_running_statistics_are_as_if_it_had_fitted(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = own(Residual)
    masks = random_masks(problem.space, 8, sparsity=0.5)
    options = {"horizon": 1, "engine": "dense", "device": "cpu", "dtype": "float64"}
    expected = Population(problem, masks, **options).train(1)
    run = DenseEngine.chunk(expected.engine, expected.parameters, 0, 1).run.__func__  # type: ignore[attr-defined]

    def short(chunk, weights, states, batch, shared):  # type: ignore[no-untyped-def]
        output = run(chunk, weights, states, batch, shared)  # the running statistics have moved on
        if chunk.k > 2 and where == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if chunk.k > 2 and output.requires_grad:
            output.register_hook(_no_memory)
        return output

    monkeypatch.setattr("evoprune.training.engines.dense._DenseChunk.run", short)
    found = Population(problem, masks, **options)
    found.train(1)
    assert [chunk.k for chunk in found._chunks] == [2] * 4
    assert found.engine.width == 2
    for name, value in {**expected.parameters.leaves(), **expected.parameters.buffers}.items():
        torch.testing.assert_close({**found.parameters.leaves(), **found.parameters.buffers}[name], value, rtol=0, atol=1e-10)
    assert found.trace.last("train_loss") == pytest.approx(expected.trace.last("train_loss"), abs=1e-10)


@pytest.mark.parametrize("vmapped", [True, False])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")], ids=repr)
def test_a_loss_that_runs_out_of_memory_is_taken_of_fewer_networks(error: Exception, vmapped: bool) -> None:
    full = [False]

    def greedy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if full[0]:
            full[0] = False
            raise error
        if not vmapped:
            float(outputs.detach().sum())
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    problem = own(Residual, loss=greedy)
    options = {"horizon": 2, "engine": "dense", "device": "cpu", "dtype": "float64"}
    expected, found = (Population(problem, random_masks(problem.space, 4, sparsity=0.5), **options).train(1) for _ in range(2))
    full[0] = True
    found.train(1)
    assert [chunk.k for chunk in found._chunks] == [2, 2]
    assert problem.loss._vmap is vmapped  # type: ignore[attr-defined]
    assert found.trace.last("val_loss") == pytest.approx(expected.train(1).trace.last("val_loss"), abs=1e-10)


def _no_memory(gradient: torch.Tensor) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_one_network_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    problem = own(Residual)
    monkeypatch.setattr("evoprune.training.engines.dense._DenseChunk.run", never)
    with pytest.raises(torch.OutOfMemoryError):
        Population(problem, random_masks(problem.space, 4, sparsity=0.5), horizon=1, engine="dense", device="cpu").train(1)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 63, 64, 65, 1000, 4096])
def test_the_largest_number_is_found_to_within_an_eighth(limit: int) -> None:
    tried = []

    def attempt(number: int) -> None:
        tried.append(number)
        if number > limit:
            raise MemoryError

    found = largest(attempt, first=64, most=4096)
    assert limit - max(1, limit // 8) < found <= limit
    assert len(tried) <= 20


def test_the_largest_population_is_found_by_training_it() -> None:
    problem = own(Residual)
    [mask] = random_masks(problem.space, 1, sparsity=0.5)
    assert largest_population(problem, mask, most=70, engine="dense", device="cpu") == 70


def test_another_error_is_raised_and_so_is_one_that_does_not_fit() -> None:
    def attempt(number: int) -> None:
        raise (EvopruneError("no such layer") if number > 1 else MemoryError("one is too many"))

    with pytest.raises(EvopruneError):
        largest(attempt, first=8, most=64)
    with pytest.raises(MemoryError):
        largest(attempt, first=1, most=64)


def test_what_counts_as_out_of_memory() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert out_of_memory(RuntimeError("GET was unable to find an engine to execute this computation"))
    assert not out_of_memory(RuntimeError("expected scalar type Float but found Double"))


def test_more_networks_than_a_gpu_holds_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free is what the driver has, and what torch holds and does not use."""
    for name, value in {"mem_get_info": (2**30, 2**34), "memory_reserved": 2**31, "memory_allocated": 2**30}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    cuda = torch.device("cuda", 0)
    assert available_memory(cuda) == 2**31
    check_memory(100, 2**31, cuda)
    with pytest.raises(NotEnoughMemory, match=r"100 networks need at least 3.0 GiB and 2.0 GiB are free: train fewer") as caught:
        check_memory(100, 3 * 2**30, cuda)
    assert "\n" not in str(caught.value)
    assert out_of_memory(caught.value), "a search would not halve its sub-batches"


def test_the_recording_and_the_old_chunks_are_let_go_before_memory_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = own(Residual)
    generation = Population(problem, random_masks(problem.space, 4, sparsity=0.5), horizon=1, engine="dense", device="cpu")
    held: list[Any] = []
    monkeypatch.setattr(
        "evoprune.training.population.release_memory", lambda: held.extend((generation._chunks, generation._recorded))
    )
    generation._halve(MemoryError())
    generation._cut_again()
    assert held == [[], None]
    assert [chunk.k for chunk in generation._chunks] == [2, 2]  # half of what there is, not of what could be
