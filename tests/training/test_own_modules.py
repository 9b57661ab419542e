"""What users' own modules do beside their layers: computed as torch does, or refused, and data stay as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evoprune.errors import InputError, TrainingFailed, UnsupportedLayer
from evoprune.problems.problem import Problem
from tests.tiny import own, table
from tests.training.test_fused import SGD, assert_close, masks_of, population

pytestmark = pytest.mark.usefixtures("one_thread")


class Plain(nn.Module):
    """Two layers, and what comes in between."""

    def __init__(self, features: int = 6) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(features, 8), nn.Linear(8, 3)

    def between(self, h: Tensor) -> Tensor:
        return torch.relu(h)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


class Frozen(Plain):
    """Its batch norm and its dropout never train."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        self.drop.eval()
        return self

    def between(self, h: Tensor) -> Tensor:
        return self.drop(torch.relu(self.norm(h)))


def test_modules_stay_in_the_mode_that_train_gives_them() -> None:
    loop, sparse = (population(own(Frozen), engine) for engine in ("loop", "sparse"))
    assert_close(loop.train(2), sparse.train(2))
    assert not sparse.parameters.buffers["norm.running_mean"].any()


class Remembering(Plain):
    """Keeps what it saw last."""

    def between(self, h: Tensor) -> Tensor:
        self.seen = h
        return torch.relu(h)


def test_a_trace_leaves_nothing_on_the_model() -> None:
    sparse = population(own(Remembering))
    assert not hasattr(sparse.engine.model, "seen")
    assert_close(population(own(Remembering), "loop").train(1), sparse.train(1))


class WithoutGradients(Plain):
    def between(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            scale = torch.sigmoid(h)
        return h + scale


def hooks(kind: str, where: str = "first") -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = Plain()
        module = model.get_submodule(where)
        getattr(module, f"register_{kind}_hook")(lambda *_: None)
        return model

    return build


def replaced_forward() -> nn.Module:
    model = Plain()
    model.first.forward = lambda x: x @ model.first.weight.t()
    return model


class Foreign(Plain):
    def between(self, h: Tensor) -> Tensor:
        return nn.functional.linear(h, self.matrix)

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.ones(8, 8)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (WithoutGradients, "turns gradients off"),
        (hooks("forward"), "'first'.*has hooks"),
        (hooks("forward_pre", ""), "Plain, which has hooks"),
        (hooks("full_backward", "last"), "'last'.*has hooks"),
        (replaced_forward, "'first'"),
        (Foreign, "no parameter of the model"),
    ],
)
def test_what_no_kernel_shows_is_refused(build: Callable[[], nn.Module], why: str) -> None:
    problem = own(build)
    with pytest.raises(UnsupportedLayer, match=f"{why}.*engine='dense'"):
        population(problem)
    assert population(problem, "auto").engine.name in ("dense", "loop")


def test_backward_hooks_are_left_to_the_loop() -> None:
    problem = own(hooks("full_backward"))
    with pytest.raises(UnsupportedLayer, match=r"'first'.*engine='loop'"):
        population(problem, "dense")
    assert population(problem, "auto").engine.name == "loop"


class Checkpointed(Plain):
    """Computes its middle again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.middle, self.reentrant = nn.Linear(8, 8), reentrant

    def between(self, h: Tensor) -> Tensor:
        again = lambda h: torch.relu(self.middle(h))  # noqa: E731
        return checkpoint(again, torch.relu(h), use_reentrant=self.reentrant)


class Aside(Plain):
    """Keeps a weight where no call can put another one."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = (self.last.weight,)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(torch.relu(self.first(x)), self.kept[0])


@pytest.mark.parametrize("build", [partial(Checkpointed, True), partial(Checkpointed, False), Aside])
def test_gradients_that_come_from_other_weights_are_refused(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(InputError, match="other weights than those it is called with"):
        own(build)


def test_an_embedding_that_changes_its_weights_is_left_to_the_loop() -> None:
    problem = Problem(nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Flatten(), nn.Linear(24, 3)), tokens())
    with pytest.raises(UnsupportedLayer, match="dense engine cannot renorm weights, as '0' does: use engine='loop'"):
        population(problem, "dense")
    generation = population(problem, "auto").train(1)
    assert generation.engine.name == "loop"
    assert generation.parameters.stacked["0.weight"][:, :3].norm(dim=-1).max() < 1.01  # of the tokens that occur most


def tokens() -> dict[str, Any]:
    data = table()
    return {name: torch.as_tensor(value).abs().long() % 9 if name[0] == "x" else value for name, value in data.items()}


class AnotherInTraining(Plain):
    def forward(self, x: Tensor) -> Any:
        outputs = super().forward(x)
        return (outputs, outputs) if self.training else outputs


class Forwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        raise RuntimeError("not written")


class Backless(Plain):
    def between(self, h: Tensor) -> Tensor:
        return Forwards.apply(h)


class Overwriting(Plain):
    def between(self, h: Tensor) -> Tensor:
        self.last.bias.relu_()
        return h


class Rounded(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (AnotherInTraining, "gives tuple in training"),
        (Backless, r"fails where gradients are wanted \(not written\)"),
        (Overwriting, "fails where gradients are wanted .a leaf Variable"),
        (Rounded, "no gradient reaches the model from the loss cross_entropy"),
    ],
)
def test_a_model_that_cannot_train_is_refused(build: Callable[[], nn.Module], says: str) -> None:
    with pytest.raises(InputError, match=says):
        own(build)


def test_a_layer_that_nothing_reaches_is_named(caplog: pytest.LogCaptureFixture) -> None:
    own(replaced_forward)
    assert "no gradient reaches first.weight" in caplog.text


@pytest.mark.parametrize("engine", ["loop", "dense", "sparse"])
def test_a_batch_of_one_needs_a_model_that_takes_it(engine: str) -> None:
    assert not population(own(Plain), engine, batch_size=1).train(1).trace.failed.any()
    with pytest.raises(InputError, match=r"fails on a batch of 1 in training.*choose a larger batch_size="):
        population(own(Normed), engine, batch_size=1)


class Normed(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def between(self, h: Tensor) -> Tensor:
        return torch.relu(self.norm(h))


# ---- auto ---------------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """No vmap goes through an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.last = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.read(x)[0][:, -1])


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("build", "shape", "engine"),
    [
        (Recurrent, (2, 3), "loop"),
        (lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(10, 3)), (2, 3), "dense"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 2, padding="same"), nn.Flatten(), nn.Linear(32, 3)), (1, 4, 4), "dense"),
    ],
)
def test_auto_takes_the_first_engine_that_can(
    build: Callable[[], nn.Module], shape: tuple[int, ...], engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    problem = own(build, shape)
    with caplog.at_level(logging.WARNING, "evoprune"):
        found = population(problem, "auto", masks_of(problem.space, 3, 0.3))
    assert found.engine.name == engine
    assert "not sparse" in caplog.text
    assert_close(population(problem, "loop").train(1), found.train(1))


def test_a_shape_without_a_kernel_is_refused_before_training() -> None:
    problem = own(lambda: nn.Sequential(nn.Linear(3, 5), nn.Flatten(), nn.Linear(10, 3)), (2, 3))
    with pytest.raises(UnsupportedLayer) as refusal:
        population(problem)
    assert str(refusal.value).count("the sparse engine cannot run") == 1


# ---- data ---------------------------------------------------------------------------------------------------------------


class Changing(Plain):
    """Scales its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.div_(2))


@pytest.mark.parametrize("engine", ["loop", "dense"])
def test_a_model_that_changes_its_input_changes_no_data(engine: str) -> None:
    problem = own(Changing)
    before = {name: problem.split(name).inputs.clone() for name in ("train", "validation")}
    generation = population(problem, engine, dtype="float32")
    pd.testing.assert_frame_equal(generation.evaluate(), generation.evaluate())
    ticket = generation.train(1).ticket(0)
    assert ticket.test() == ticket.test()
    for name, inputs in before.items():
        assert torch.equal(problem.split(name).inputs, inputs)
    rows: list[Any] = [generation.parameters.row(row) for row in range(3)]
    for row, mask in enumerate(generation.masks):
        alone = population(problem, engine, [mask], dtype="float32").train(1).parameters.row(0)
        for name, value in alone.items():
            torch.testing.assert_close(rows[row][name], value)


class Averaging(Plain):
    """Assigns its buffer anew."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def between(self, h: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return torch.relu(h - self.mean)


@pytest.mark.parametrize("engine", ["loop", "dense", "auto"])
def test_a_buffer_that_is_assigned_is_kept(engine: str) -> None:
    problem = own(Averaging)
    generation = population(problem, engine)
    assert generation.engine.name in ("loop", "dense")
    mask, model = generation.masks[0], problem.module().double()
    for name, kept in mask.dense().items():
        model.get_parameter(name).data.mul_(kept)
        model.get_parameter(name).register_hook(kept.double().mul)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    for step in range(generation.batches.per_epoch):
        inputs, targets = generation.batches.at(step)
        optimizer.param_groups[0]["lr"] = generation.rate(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    torch.testing.assert_close(generation.train(1).parameters.row(0)["mean"], model.mean)


# ---- numbers ------------------------------------------------------------------------------------------------------------


class Scaled(Plain):
    """A learned temperature, a parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def between(self, h: Tensor) -> Tensor:
        return torch.tanh(h * self.temperature)


@pytest.mark.parametrize("engine", ["loop", "dense"])
def test_a_parameter_without_dimensions_trains(engine: str) -> None:
    generation = population(own(Scaled), engine).train(1)
    assert not generation.trace.failed.any()
    assert not torch.equal(generation.parameters.stacked["temperature"], generation.parameters.initial["temperature"])


class NanInEvaluation(Plain):
    """Gives NaN where it does not train, but for the two samples that a problem tries it on."""

    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x)
        return outputs if self.training or len(x) == 2 else outputs * torch.nan


def test_a_validation_loss_of_nan_is_a_failure() -> None:
    generation = population(own(NanInEvaluation), "loop")
    with pytest.raises(TrainingFailed, match="turned NaN"):
        generation.train(1)
    assert generation.trace.failed.all()
