"""A recorded step is the step. On a CPU the recorder keeps the call itself, so that all but CUDA's own part runs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_masks
from evoprune.problems.problem import Problem
from evoprune.training import options as training_options
from evoprune.training.population import Population
from evoprune.training.recorded import RECORDERS, WATCHERS
from tests.tiny import DRAWS, Residual, Skipping, dropped, images, mlp, own


def _keep(call: Callable[[], None], pool: Any, device: torch.device) -> tuple[Callable[[], None], Any]:
    return call, pool


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORDERS, "cpu", _keep)


def population(problem: Problem, **options: Any) -> Population:
    options = {"horizon": 4, "batch_size": 8, "lr": 0.02, "engine": "dense", "device": "cpu", **options}
    return Population(problem, random_masks(problem.space, 4, sparsity=0.6), **options)


def history(generation: Population) -> Population:
    """Everything that a recording must follow: epochs, sums, fewer rows, fewer weights, steps within an epoch, a new start."""
    generation.train(1).train(1, record=("grad", "grad_path")).select([2, 0, 3])
    masks = [Mask(mask.space, [indices[::2] for indices in mask.survivors]) for mask in generation.masks]
    generation.prune(masks).train_steps(3)
    return generation.train_steps(generation.batches.per_epoch - 3).rewind().train(1)


def assert_equal(first: Population, second: Population) -> None:
    for name, value in first.parameters.leaves().items():
        assert torch.equal(value, second.parameters.leaves()[name]), name
    assert first.trace.rows() == second.trace.rows()


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("build", [mlp, lambda: own(Residual), lambda: images("lenet5", samples=80)])
def test_a_recorded_step_is_the_step_bit_by_bit(build: Callable[[], Problem]) -> None:
    recorded = history(population(build()))
    assert recorded._recorded is not None
    assert recorded._recorded._replays is not None, "nothing was recorded"
    single = history(population(build(), cuda_graphs=False))
    assert single._recorded is None
    assert_equal(recorded, single)


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adagrad"])
def test_a_learning_rate_on_the_device_follows_the_schedule(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = population(mlp(), optimizer=optimizer, cuda_graphs=False).train(3)
    monkeypatch.setattr(training_options, "CAPTURABLE_ON", ("cpu",))
    fused = population(mlp(), optimizer=optimizer).train(3)
    [group] = fused.optimizer.param_groups
    assert isinstance(group["lr"], torch.Tensor) == (optimizer != "adagrad")
    for name, value in plain.parameters.leaves().items():
        torch.testing.assert_close(fused.parameters.leaves()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("recording")
def test_a_saved_state_goes_on_with_the_step_count_where_the_optimizer_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_options, "CAPTURABLE_ON", ("cpu",))
    whole = population(mlp(), optimizer="adam").train(4)
    half = population(mlp(), optimizer="adam").train(2)
    assert_equal(population(mlp(), optimizer="adam").restore(half.state()).train(2), whole)


@pytest.mark.usefixtures("recording")
@pytest.mark.parametrize("build", [dropped, *(partial(Skipping, draws) for draws in DRAWS)], ids=["dropout", *DRAWS])
def test_a_step_that_draws_random_numbers_is_not_recorded_and_says_so(
    build: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="evoprune"):
        recorded = population(own(build)).train(2)
    assert recorded._recorded is not None
    assert recorded._recorded._replays is None
    assert "draws random numbers" in caplog.text
    assert_equal(recorded, population(own(build), cuda_graphs=False).train(2))


def test_a_recording_that_fails_loses_nothing_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(call: Callable[[], None], pool: Any, device: torch.device) -> tuple[Callable[[], None], Any]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setitem(RECORDERS, "cpu", fails)
    with caplog.at_level(logging.WARNING, logger="evoprune"):
        recorded = population(mlp()).train(2)
    assert caplog.text.count("operation not permitted when stream is capturing") == 1
    assert "and more" not in caplog.text
    assert_equal(recorded, population(mlp(), cuda_graphs=False).train(2))


def test_gradients_stay_recorded_where_the_optimizer_cannot_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def only_gradients(call: Callable[[], None], pool: Any, device: torch.device) -> tuple[Callable[[], None], Any]:
        if pool is not None:
            raise RuntimeError("no room for this one")
        return call, "a pool"

    monkeypatch.setattr(training_options, "CAPTURABLE_ON", ("cpu",))
    monkeypatch.setitem(RECORDERS, "cpu", only_gradients)
    with caplog.at_level(logging.WARNING, logger="evoprune"):
        recorded = population(mlp()).train(3)
    assert recorded._recorded is not None
    assert recorded._recorded._replays is not None
    assert recorded._recorded._replays[1] is None
    assert caplog.text.count("the optimizer's step cannot be recorded as a CUDA graph (no room for this one)") == 1
    assert_equal(recorded, population(mlp(), cuda_graphs=False).train(3))


class Stream:
    """Stands for CUDA's part of a recording: which stream is current, whether the end of a capture fails, which graphs let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> None:
        self.current, self.fails, self.ended, self.freed = "main", fails, False, 0
        for name, value in {
            "device": lambda device: nullcontext(),
            "current_stream": lambda: self.current,
            "set_stream": lambda stream: setattr(self, "current", stream),
            "CUDAGraph": lambda: SimpleNamespace(replay="replay", pool=self.pool, reset=self.reset),
            "graph": self.capture,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr("evoprune.training.recorded._stream", lambda device: "own")

    @contextmanager
    def capture(self, graph: Any, *, pool: Any, stream: Any) -> Iterator[None]:
        """As torch's, which ends the capture whatever happens in it, and leaves its stream set where `capture_end` raises."""
        self.current, self.ended = stream, False
        try:
            yield
        finally:
            if self.fails:
                raise RuntimeError("operation failed due to a previous error during capture")
            self.ended, self.current = True, "main"

    def pool(self) -> str:
        if not self.ended:
            raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
        return "pool"

    def reset(self) -> None:
        self.freed += 1


def test_a_capture_that_fails_gives_the_stream_back_and_keeps_what_the_allocator_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    from evoprune.training.recorded import _FAILED

    monkeypatch.setattr("evoprune.training.recorded._FAILED", kept := [])
    stream, calls = Stream(monkeypatch, fails=True), []
    with pytest.raises(RuntimeError, match="during capture"):
        RECORDERS["cuda"](lambda: calls.append(stream.current), None, torch.device("cuda"))
    assert (calls, stream.current, len(kept)) == (["own"], "main", 1)
    stream.fails = False
    assert RECORDERS["cuda"](lambda: None, None, torch.device("cuda")) == ("replay", "pool")
    assert (stream.current, len(kept), stream.freed, _FAILED) == ("main", 1, 0, [])


def test_a_capture_in_which_memory_runs_out_gives_back_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept, its memory would be missing for the step that runs in its place."""
    monkeypatch.setattr("evoprune.training.recorded._FAILED", kept := [])
    stream = Stream(monkeypatch, fails=False)

    def call() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        RECORDERS["cuda"](call, None, torch.device("cuda"))
    assert (stream.current, kept, stream.freed) == ("main", [], 1)


def test_torchs_words_about_waiting_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch says when it is asked to look is no wait, and what others say is passed on."""
    modes: list[Any] = []

    def look(mode: Any) -> None:
        modes.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations")  # noqa: B028

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", look)
    with WATCHERS["cuda"](torch.device("cuda")) as waits:
        pass
    assert waits == []
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        with WATCHERS["cuda"](torch.device("cuda")) as waits:
            warnings.warn("from the model", stacklevel=1)
            warnings.warn("called a synchronizing CUDA operation (Triggered internally at …)", stacklevel=1)
    assert [str(other.message) for other in others] == ["from the model"]
    assert len(waits) == 1
    assert waits[0].startswith("test_recorded.py, line ")
    assert modes == ["warn", 0] * 2


@pytest.mark.usefixtures("recording")
def test_the_control_without_gradients_and_dropped_weights_are_not_recorded() -> None:
    assert population(mlp(), drop_rate=0.3)._recorded is None
    assert_equal(population(mlp()).train(2, gradients=False), population(mlp(), cuda_graphs=False).train(2, gradients=False))


@pytest.mark.usefixtures("recording")
def test_a_recording_holds_no_population_in_memory() -> None:
    import gc
    import weakref

    generation = population(mlp()).train(1)
    watch = weakref.ref(generation.parameters)
    gc.disable()
    try:
        recorded = generation._recorded
        del generation
        assert recorded is not None
        recorded._replays = None  # a graph's replay holds memory of its own; the recorder above holds the call itself
        assert watch() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("model", ["mlp", "lenet5", "resnet20"])
@pytest.mark.parametrize("options", [{}, {"optimizer": "adam"}, {"drop_rate": 0.3}, {"precision": "bf16"}])
def test_nothing_comes_back_to_the_host_within_an_epoch(
    model: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on torch's "meta" device hold no numbers: whatever reads one on the host, or meets one of the CPU, raises."""
    monkeypatch.setattr(training_options.Training, "resolved_device", lambda self: torch.device("meta"))
    problem = mlp() if model == "mlp" else images(model, *((28, 1) if model == "lenet5" else (8, 3)))
    if options.get("precision"):
        monkeypatch.setattr("evoprune.training.engines.loop.autocast", lambda *_: torch.autocast("cpu", torch.bfloat16))
    generation = population(problem, **options)
    generation.trace.start_sums(("grad", "grad_path"))
    generation._advance(2)
    assert generation.steps == 2
    with pytest.raises(NotImplementedError, match="meta"):
        generation._loss.cpu()
