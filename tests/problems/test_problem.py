"""A problem: its model is a copy, its weights come from its seed alone, its test split is locked."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evoprune.errors import InputError, TestSplitLocked, UnknownName
from evoprune.problems import Problem
from tests.problems.builders import Residual, residual, table
from tests.tiny import default_dtype


def weights_differ(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert list(first) == list(second)
    return any(not torch.equal(first[name], second[name]) for name in first)


# ---- what a problem knows ---------------------------------------------------------------------------------------------------


def test_the_default_problem_on_digits() -> None:
    problem = Problem("lenet-300-100")
    assert (problem.model_name, problem.data_name, problem.seed) == ("lenet-300-100", "digits", 0)
    assert (problem.task, problem.metric, problem.loss.name) == ("classification", "accuracy", "cross_entropy")
    assert (problem.input_shape, problem.outputs, problem.batch_size) == ((1, 8, 8), 10, 32)
    assert problem.prunable == 64 * 300 + 300 * 100 + 100 * 10 == problem.space.prunable
    assert repr(problem) == (
        "Problem(lenet-300-100 on digits: 50,200 prunable weights, 1,294 train, 144 validation, 359 test, seed 0)"
    )


@pytest.mark.parametrize(("samples", "batch"), [(20, 2), (110, 2), (6000, 128)])
def test_the_default_batch_is_a_fortieth_of_the_training_samples_within_2_and_128(samples: int, batch: int) -> None:
    assert Problem("mlp:3", table(samples)).batch_size == batch


def test_an_autoencoder_reconstructs_and_sees_no_labels() -> None:
    problem = Problem("autoencoder", "digits")
    assert (problem.task, problem.metric, problem.loss.name, problem.outputs) == ("reconstruction", "mse", "mse", 64)
    assert problem.split("train").targets is None
    assert pickle.loads(pickle.dumps(problem)).split("train").targets is None


def test_the_data_decide_what_a_network_without_a_name_for_it_does() -> None:
    features, values = {key: value for key, value in table().items() if key.startswith("x")}, np.ones((100, 2))
    assert Problem("mlp:8", features).outputs == 5
    assert Problem("mlp:8", features).task == "reconstruction"
    regression = Problem("mlp:8", {**features, "y_train": values, "y_test": values[:10]})
    assert (regression.task, regression.outputs, regression.metric) == ("regression", 2, "mse")
    own = Problem(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 5)), table(), loss="mse")  # class numbers have no squared error
    assert own.task == "reconstruction"


def test_class_numbers_of_a_float_type_are_regressed_with_a_word(caplog: pytest.LogCaptureFixture) -> None:
    data = {key: np.asarray(value) for key, value in table().items()}
    floats = {key: value.astype(np.float32) if key.startswith("y") else value for key, value in data.items()}
    with caplog.at_level(logging.WARNING, "evoprune"):
        for quiet in (Problem("mlp:8", data), Problem("mlp:8", floats, loss="mse")):
            assert quiet.task in ("classification", "regression")
        between = {key: value + 0.5 if key.startswith("y") else value for key, value in floats.items()}
        assert Problem("mlp:8", between).task == "regression"
        assert not caplog.records
        assert Problem("mlp:8", floats).task == "regression"
        Problem("mlp:8", floats, loss=nn.L1Loss())  # any loss but one that was asked for values
    assert [record.message for record in caplog.records] == 2 * [
        "the labels are whole numbers of a float type, so this is a regression: give integers to classify, loss='mse' if so"
    ]


# ---- initial weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mlp:8-8", residual, Residual])
def test_weights_depend_on_the_seed_and_nothing_else(model: Any) -> None:
    def draw(seed: int, noise: int) -> dict[str, Tensor]:
        random.seed(noise), np.random.seed(noise), torch.manual_seed(noise)  # noqa: NPY002
        return Problem(model, table(), seed=seed).initial_weights()

    first = draw(1, 5)
    assert not weights_differ(first, draw(1, 6))
    assert weights_differ(first, draw(2, 5))
    assert not weights_differ(first, Problem(model, table()).initial_weights(seed=1))
    assert not weights_differ(first, Problem(model, table()).with_seed(1).initial_weights())


@pytest.mark.parametrize("model", ["mlp:8-8", residual, Residual()])
def test_making_a_problem_leaves_the_global_generators_as_they_were(model: Any) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    problem = Problem(model, table())
    problem.module(), problem.with_seed(4), problem.fingerprint
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("model", ["mlp:20", residual])
def test_weights_do_not_depend_on_the_default_type_of_the_process(model: Any) -> None:
    usual = Problem(model, table())
    with default_dtype(torch.float64):
        problem = Problem(model, table())
        drawn = usual.initial_weights(seed=1)
        assert torch.get_default_dtype() == torch.float64
    assert problem.fingerprint == usual.fingerprint
    assert all(torch.equal(drawn[name], value) for name, value in usual.initial_weights(seed=1).items())


def test_a_module_keeps_the_weights_it_has_whatever_the_seed_and_is_never_changed() -> None:
    module = Residual().double()
    module.inp.eval()
    before, modes = copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]
    problem = Problem(module, table(), seed=3)
    inside = problem.module()
    with torch.no_grad():
        inside.inp.weight.zero_()
        problem.initial_weights()["inp.weight"].zero_()
    assert not weights_differ(dict(module.state_dict()), before)
    assert [part.training for part in module.modules()] == modes == [part.training for part in inside.modules()]
    assert all(value.dtype == torch.float64 for value in module.parameters())
    assert torch.equal(problem.initial_weights()["inp.weight"], before["inp.weight"].float())
    assert not weights_differ(problem.initial_weights(), problem.with_seed(9).initial_weights())
    with pytest.raises(InputError, match="has its own weights"):
        problem.initial_weights(seed=1)


def test_initial_weights_hold_every_parameter_and_buffer_once() -> None:
    weights = Problem(Residual(), table()).initial_weights()
    assert "mid.weight" in weights
    assert "again.weight" not in weights, "a tied weight stands under its first name"
    assert {"again.bias", "frozen.weight", "norm.running_mean", "norm.num_batches_tracked", "scale"} <= set(weights)
    assert all(not value.requires_grad for value in weights.values())
    assert weights["norm.num_batches_tracked"].dtype == torch.int64
    module = Problem(Residual(), table()).module()
    assert module.again.weight is module.mid.weight  # type: ignore[union-attr]


def test_another_seed_shares_the_data_and_opens_its_own_test_split() -> None:
    problem = Problem("mlp:8", "digits")
    problem._open_test("once")
    other = problem.with_seed(5)
    assert (other.seed, other.test_openings, problem.test_openings) == (5, [], ["once"])
    assert other.split("train") is problem.split("train")
    assert other.space == problem.space
    assert other.fingerprint != problem.fingerprint
    assert problem.with_seed(0).fingerprint == problem.fingerprint


# ---- the test split ---------------------------------------------------------------------------------------------------------


def test_the_test_split_is_locked_and_each_opening_is_kept_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    problem = Problem("mlp:8", "digits")
    with pytest.raises(TestSplitLocked, match=r"call ticket\.test\(\)"):
        problem.split("test")
    assert problem.test_openings == []
    with caplog.at_level(logging.INFO, logger="evoprune"):
        assert len(problem._open_test("a ticket is judged")) == 359
    assert problem.test_openings == ["a ticket is judged"]
    assert "test split of digits opened: a ticket is judged" in caplog.text
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        problem.split("training")


def test_the_validation_split_is_the_same_for_every_seed_and_model() -> None:
    given = table()
    splits = [Problem(model, given, seed=seed).split("validation") for model, seed in (("mlp:8", 0), ("mlp:8", 7), (Residual, 3))]
    assert all(torch.equal(split.inputs, splits[0].inputs) for split in splits)


# ---- identity ---------------------------------------------------------------------------------------------------------------

ELSEWHERE = """
import json, torch
torch.manual_seed(5)
from evoprune.problems import Problem
from tests.problems.builders import Residual, residual, table
torch.manual_seed(0)
problems = [Problem("lenet-300-100"), Problem("mlp:8", table(), seed=3), Problem(residual, table()), Problem(Residual(), table())]
print(json.dumps([problem.fingerprint for problem in problems]))
"""


def test_the_same_problem_has_the_same_fingerprint_in_another_process() -> None:
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=True)
    torch.manual_seed(0)
    here = [Problem("lenet-300-100"), Problem("mlp:8", table(), seed=3), Problem(residual, table()), Problem(Residual(), table())]
    assert json.loads(done.stdout) == [problem.fingerprint for problem in here]


def test_anything_that_matters_changes_the_fingerprint() -> None:
    other_data = table()
    other_data["y_train"] = other_data["y_train"][::-1].copy()
    problems = [
        Problem("mlp:8", table()),
        Problem("mlp:8", table(), seed=1),
        Problem("mlp:9", table()),
        Problem("mlp:8", other_data),
        Problem("mlp:8", table(), validation=0.2),
        Problem("mlp:8", table(), standardize=False),
        Problem("mlp:8", table(), loss=functional.cross_entropy),
        Problem(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)), table()),
        Problem(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)), table()),
    ]
    assert len({problem.fingerprint for problem in problems}) == len(problems)
    assert Problem("mlp:8", table()).fingerprint == problems[0].fingerprint


@pytest.mark.parametrize("model", ["mlp:8", residual, Residual()])
def test_a_problem_travels_to_other_processes(model: Any) -> None:
    for data in ("digits" if model == "mlp:8" else table(), table()):
        problem = Problem(model, data, seed=2, loss=nn.CrossEntropyLoss(label_smoothing=0.1))
        there = pickle.loads(pickle.dumps(problem))
        assert there.fingerprint == problem.fingerprint
        assert not weights_differ(there.initial_weights(), problem.initial_weights())
        assert torch.equal(there.split("train").inputs, problem.split("train").inputs)
    named = Problem("mlp:8", "digits")
    assert pickle.loads(pickle.dumps(named)).split("train") is named.split("train"), "named data are kept once a process"
    assert copy.deepcopy(named).split("train") is named.split("train")


def test_a_description_makes_the_problem_again() -> None:
    problem = Problem("mlp:8", "digits", seed=4, standardize=False, validation=0.2)
    description = json.loads(json.dumps(problem.describe()))
    assert Problem.from_description(description).fingerprint == problem.fingerprint
    with pytest.raises(InputError, match="is not the problem that was described"):
        Problem.from_description({**description, "seed": 5})
    with pytest.raises(InputError, match="has no 'loss'"):
        Problem.from_description({"model": "mlp:8", "data": "digits", "seed": 0})
    with pytest.raises(UnknownName):
        Problem.from_description(Problem(Residual(), table()).describe())


# ---- what is refused --------------------------------------------------------------------------------------------------------


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), x


class OwnGenerator(nn.Linear):
    """Noise that no seed of a step reaches."""

    def __init__(self, generator: object) -> None:
        super().__init__(64, 10)
        self.dice = generator

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input.flatten(1))
        match self.dice:
            case torch.Generator():
                share = float(torch.rand((), generator=self.dice))
            case np.random.Generator() | np.random.RandomState():
                share = float(self.dice.uniform())
            case _:
                share = self.dice.random()  # type: ignore[attr-defined]
        return super().forward(input.flatten(1)) * share


@pytest.mark.parametrize(
    "generator",
    [torch.Generator(), np.random.default_rng(0), np.random.RandomState(0), random.Random(0)],
    ids=lambda g: type(g).__name__,
)
def test_a_model_that_draws_from_its_own_generator_is_refused(generator: object) -> None:
    with pytest.raises(InputError, match="own generator 'dice': draw from torch's global one"):
        Problem(OwnGenerator(generator), "digits")


class Locked(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("this module is locked")


def moody() -> nn.Module:
    return nn.Linear(5, 4 + int(torch.randint(1000, ())))


def broken() -> nn.Module:
    raise OSError("no such checkpoint\nand more")


def no_module() -> Any:
    return "a string"


def poisoned() -> nn.Module:
    module = nn.Linear(5, 4)
    nn.init.constant_(module.weight, float("nan"))
    return module


LABELS_BEYOND = {**table(), "y_test": np.full(10, 9)}
GAP = {**table(), "y_train": np.where(np.arange(100) == 50, 99, np.arange(100) % 4)}
TOKENS = {
    "x_train": np.ones((40, 5), int),
    "y_train": np.arange(40) % 4,
    "x_test": np.ones((4, 5), int),
    "y_test": np.zeros(4, int),
}


def hooked() -> nn.Module:
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize(
    ("model", "data", "options", "says"),
    [
        ("lenet", "digits", {}, "did you mean 'lenet5'"),
        ("lenet5", "digits", {}, "images too small for lenet5"),
        ("conv4", table(), {}, "conv4 needs images"),
        ("mlp:0", "digits", {}, "width '0'"),
        (3, "digits", {}, "model of type int is not usable"),
        (nn.Linear(6, 4), table(), {}, r"the model fails on inputs of shape \(2, 5\)"),
        (nn.Linear(5, 3), table(), {}, "label 3 in the train data is outside the classes 0 to 2"),
        (nn.Linear(5, 4), LABELS_BEYOND, {}, "label 9 in the test data is outside the classes 0 to 3"),
        ("mlp:8", LABELS_BEYOND, {}, "label 9 in the test data"),
        ("mlp:8", GAP, {}, "labels go up to 99, but no sample has class 4"),
        (nn.Sequential(nn.Linear(5, 4), nn.Unflatten(1, (2, 2))), table(), {}, "a classifier gives"),
        (nn.Flatten(), table(), {}, "nothing to prune"),
        (TwoOutputs(), table(), {}, "gives tuple: its forward must return one tensor"),
        (poisoned, table(), {}, "NaN or infinity on the first samples"),
        (Locked(5, 4), table(), {}, "Locked cannot be copied .this module is locked.: give a callable"),
        (lambda: Locked(5, 4), table(), {}, "Locked cannot be copied .this module is locked.: build it"),
        (hooked, table(), {}, r"build it with torch\.nn\.utils\.parametrizations"),
        (nn.LazyLinear(4), table(), {}, "lazy layer"),
        (
            nn.Sequential(nn.EmbeddingBag(9, 6, sparse=True), nn.Linear(6, 4)),
            TOKENS,
            {},
            "gradient of 0.weight is a sparse tensor",
        ),
        (moody, table(), {}, "builder moody gives other shapes for other seeds"),
        (broken, table(), {}, "builder broken fails .no such checkpoint."),
        (no_module, table(), {}, "builder no_module gives str"),
        (nn.Linear, table(), {}, "missing 2 required positional arguments"),
        ("mlp:8", TOKENS, {}, "integers stay as they are"),
        ("mlp:8", table(), {"loss": "mse"}, "the labels are class numbers"),
        ("autoencoder", table(), {"loss": "cross_entropy"}, "needs class numbers, this is reconstruction"),
        (nn.Linear(5, 4), table(), {"loss": "mse"}, r"shape \(2, 4\) for inputs of shape \(2, 5\)"),
        ("mlp:8", table(), {"loss": "hinge"}, "unknown loss 'hinge'"),
        ("mlp:8", table(), {"loss": 3}, "loss 3 is not usable"),
        ("mlp:8", table(), {"loss": functional.nll_loss.__class__}, "the loss .* fails"),
        ("mlp:8", table(), {"seed": -1}, "seed -1"),
        ("mlp:8", table(), {"seed": "x"}, "seed 'x'"),
        ("mlp:8", table(), {"validation": 2}, "validation 2"),
        ("mlp:8", "mnist", {"data_root": "/nowhere"}, "/nowhere is no folder"),
    ],
)
def test_what_does_not_belong_together_is_one_clear_line(model: Any, data: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        Problem(model, data, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_more_outputs_than_classes_and_missing_classes_are_fine_for_ones_own_module() -> None:
    assert Problem(nn.Linear(5, 100), GAP).outputs == 100


def test_token_ids_reach_an_embedding() -> None:
    module = nn.Sequential(nn.Embedding(10, 3), nn.Flatten(), nn.Linear(15, 4))
    assert Problem(module, TOKENS).split("train").inputs.dtype == torch.int64


def test_mnist_has_the_splits_of_the_published_measurements(mnist_root: Any) -> None:
    problem = Problem("lenet-300-100", "mnist", data_root=mnist_root)
    assert (len(problem.split("train")), len(problem.split("validation")), problem.batch_size) == (54_000, 6_000, 128)
    assert problem.prunable == 266_200


def test_making_a_problem_draws_from_no_global_generator() -> None:
    """In a process of its own, since libraries that load data may draw when they are first imported."""
    script = (
        "import random, numpy, torch, evoprune as ep\n"
        "states = lambda: (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())\n"
        "before = states(); ep.Problem('mlp:8', 'digits'); assert states() == before"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
