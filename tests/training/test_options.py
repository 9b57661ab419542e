"""Every option is checked where it enters."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

from evoprune.errors import InputError, UnknownName
from evoprune.masks.sampling import random_masks
from evoprune.training.options import OPTIMIZERS, SCHEDULES, Training
from evoprune.training.population import Population
from tests.gpus import show_gpus
from tests.tiny import mlp

BAD: list[tuple[str, Any]] = [
    *[("lr", value) for value in (-0.1, float("nan"), float("inf"), "fast", True)],
    *[("momentum", value) for value in (1.0, -0.1, None, "0.9")],
    *[("weight_decay", value) for value in (-1e-4, float("nan"), None)],
    *[("batch_size", value) for value in (0, -3, 2.0, True, "32")],
    *[("step_every", value) for value in (0, 1.5)],
    ("step_factor", -1),
    ("rescale", 1),
    ("own_weights", "yes"),
    ("nesterov", None),
    ("schedule", "cosin"),
    ("dtype", "float16"),
    ("optimizer", "sdg"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD, ids=str)
def test_a_bad_value_is_refused_in_one_line_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        Training.of(**{name: value})
    assert repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("lr", np.float32(0.125), 0.125),
        ("momentum", np.float64(0.5), 0.5),
        ("batch_size", np.int64(64), 64),
        ("rescale", np.bool_(True), True),
        ("engine", np.str_("loop"), "loop"),
        ("device", torch.device("cpu"), "cpu"),
    ],
)
def test_what_numpy_and_torch_give_is_taken_as_pythons(name: str, value: Any, taken: Any) -> None:
    training = Training.of(**{name: value})
    assert training == Training.of(**{name: taken})
    assert type(training.as_dict()[name]) is type(taken), "a journal and a ticket hold it"


def test_an_unknown_option_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'momentum'"):
        Training.of(momentun=0.9)


@pytest.mark.parametrize("name", ["lbfgs", "LBFGS", "adafactor", "Muon"])
def test_optimizers_that_couple_rows_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(InputError, match="couples the rows"):
        Training.of(optimizer=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_is_torchs_own_with_the_given_rate(name: str) -> None:
    leaf = torch.ones(3, requires_grad=True)
    optimizer = Training.of(optimizer=name, lr=0.25).make_optimizer([leaf])
    assert type(optimizer) is OPTIMIZERS[name]
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_decay_holds_for_every_parameter() -> None:
    optimizer = Training.of(weight_decay=0.01).make_optimizer(
        [torch.ones(3, requires_grad=True), torch.ones(1, requires_grad=True)]
    )
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01]
    assert len(optimizer.param_groups[0]["params"]) == 2


def test_defaults_are_the_documented_ones() -> None:
    training = Training.of()
    assert (training.optimizer, training.base_lr, training.momentum, training.weight_decay) == ("sgd", 0.05, 0.9, 0.0)
    assert (training.schedule, training.dtype, training.batch_size) == ("cosine", "float32", None)


def test_the_learning_rates_that_stand_for_none() -> None:
    """Those of journals, which do not name them."""
    others = {"sgd": 0.05, "adadelta": 1.0, "adagrad": 0.01, "rprop": 0.01}
    assert {name: Training.of(optimizer=name).base_lr for name in OPTIMIZERS} == {**dict.fromkeys(OPTIMIZERS, 0.001), **others}


def test_what_follows_leaves_out_what_nothing_reads_any_longer() -> None:
    before = {"schedule": "step", "step_every": 5, "lr": 0.1, "momentum": 0.5}
    assert Training.following(before, schedule="constant") == {"schedule": "constant", "lr": 0.1, "momentum": 0.5}
    adam = Training.following(before, optimizer="adam")
    assert "momentum" not in adam
    assert adam["step_every"] == 5
    with pytest.raises(InputError, match=r"momentum=0\.5 does nothing"):
        Training.of(**Training.following(before, optimizer="adam", momentum=0.5))


def test_schedules_are_functions_of_step_and_horizon() -> None:
    training = Training.of(schedule="step", step_factor=0.5, step_every=4)
    assert [SCHEDULES["step"](training, step, 99) for step in (0, 3, 4, 8)] == [1, 1, 0.5, 0.25]
    assert [SCHEDULES["step"](Training.of(), step, 30) for step in (9, 10, 20)] == pytest.approx([1, 0.1, 0.01])
    assert [SCHEDULES["cosine"](training, step, 10) for step in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
    assert SCHEDULES["constant"](training, 7, 10) == 1


def test_nesterov_needs_momentum() -> None:
    for options in ({"momentum": 0.0}, {"optimizer": "adam"}):
        with pytest.raises(InputError, match="nesterov"):
            Training.of(nesterov=True, **options)
    assert Training.of(nesterov=True).make_optimizer([torch.ones(1, requires_grad=True)]).param_groups[0]["nesterov"]


@pytest.mark.parametrize(
    ("options", "reader"),
    [
        ({"momentum": 0.5, "optimizer": "adam"}, "optimizer='sgd'"),
        ({"step_every": 4}, "schedule='step'"),
        ({"step_factor": 0.5, "schedule": "constant"}, "schedule='step'"),
    ],
)
def test_what_nothing_would_read_is_refused(options: dict[str, Any], reader: str) -> None:
    with pytest.raises(InputError, match=f"does nothing with .*: give {reader}, or leave it out"):
        Training.of(**options)
    Training.of(**options | {reader.split("=")[0]: reader.split("'")[1]})


def test_rprop_follows_no_schedule() -> None:
    with pytest.raises(InputError, match="schedule='step' does nothing with optimizer='rprop'"):
        Training.of(optimizer="rprop", schedule="step")
    problem, masks = mlp(), random_masks(mlp().space, 1, sparsity=0.5)
    trained = [
        Population(problem, masks, horizon=3, optimizer="rprop", schedule=name).train(3) for name in ("cosine", "constant")
    ]
    first, second = (generation.parameters.row(0) for generation in trained)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_rprop_has_no_decay() -> None:
    with pytest.raises(InputError, match="rprop"):
        Training.of(optimizer="rprop", weight_decay=0.1).make_optimizer([torch.ones(1, requires_grad=True)])


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta!"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InputError, match="device"):
        Training.of(device=device).resolved_device()


def test_on_a_machine_with_a_gpu_tests_without_the_mark_stay_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most compare with numbers of the CPU, and leave the device to `auto`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    show_gpus(False)
    assert Training().resolved_device().type == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
