"""Fewer digits in the products: close to the full precision, by how much the format allows, and refused where it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from evoprune.errors import InputError, UnknownName, UnsupportedLayer
from evoprune.masks.sampling import random_masks
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.precision import _operations, _Switches, arithmetic
from tests.tiny import mlp, own, small_conv

HALF_A_STEP = 2.0**-8
"""Largest relative rounding of bfloat16, which keeps 8 significant bits."""


def population(problem: Problem, precision: str, **options: Any) -> Population:
    options = {"horizon": 8, "batch_size": 8, "engine": "dense", "device": "cpu", **options}
    return Population(problem, random_masks(problem.space, 3, sparsity=0.5), precision=precision, **options)


@pytest.mark.parametrize("engine", ["loop", "dense"])
@pytest.mark.parametrize("build", [mlp, lambda: own(small_conv, (1, 8, 8))])
def test_bf16_rounds_what_is_multiplied_and_nothing_else(engine: str, build: Any) -> None:
    exact, rounded = population(build(), "full", engine=engine), population(build(), "bf16", engine=engine)
    inputs, targets = exact.batches.at(0)
    outputs = [generation._chunks[0](inputs).detach() for generation in (exact, rounded)]
    assert not torch.equal(*outputs), "the products were not rounded"
    assert float((outputs[0] - outputs[1]).abs().max()) <= 8 * HALF_A_STEP * float(outputs[0].abs().max())
    rounded._gradients(inputs, targets)
    assert {leaf.dtype for leaf in rounded.parameters.leaves().values()} == {torch.float32}
    assert outputs[1].dtype == torch.float32
    assert all(leaf.grad is not None and leaf.grad.dtype == torch.float32 for leaf in rounded.parameters.leaves().values())


def test_bf16_learns_what_full_precision_learns() -> None:
    accuracies = []
    for precision in ("full", "bf16"):
        generation = population(mlp("mlp:40-20", samples=400), precision, engine="auto").train(8)
        accuracies.append(generation.trace.last("val_accuracy").mean())
    assert min(accuracies) > 0.6  # three classes: by chance a third
    assert abs(accuracies[0] - accuracies[1]) < 0.06


def test_auto_takes_an_engine_that_has_the_precision() -> None:
    problem = mlp()
    masks = random_masks(problem.space, 2, sparsity=0.9)
    assert Population(problem, masks, horizon=1, device="cpu").engine.name == "sparse"
    assert Population(problem, masks, horizon=1, device="cpu", precision="bf16").engine.name == "dense"
    with pytest.raises(UnsupportedLayer, match="engine='dense'"):
        Population(problem, masks, horizon=1, device="cpu", engine="sparse", precision="bf16")


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"precision": "tf32", "device": "cpu"}, InputError, "precision='tf32' is CUDA's"),
        ({"precision": "bf16", "dtype": "float64"}, InputError, "is for dtype='float32'"),
        ({"precision": "bf61"}, UnknownName, "did you mean 'bf16'"),
        ({"dtype": "bfloat16"}, InputError, "set precision='bf16'"),
        ({"dtype": "float16"}, InputError, "set precision='bf16'"),
        ({"cuda_graphs": 1}, InputError, "cuda_graphs=1"),
        ({"compile": "yes"}, InputError, "compile='yes'"),
        ({"compile": True, "engine": "sparse", "device": "cpu"}, UnsupportedLayer, "engine='dense', or compile=False"),
    ],
)
def test_what_cannot_be_is_one_clear_line(options: dict[str, Any], error: type[Exception], line: str) -> None:
    with pytest.raises(error, match=line) as caught:
        Population(mlp(), random_masks(mlp().space, 1, sparsity=0.5), horizon=1, **options)
    assert "\n" not in str(caught.value)


def answers() -> dict[str, Any]:
    """What torch says about TF32, by the names of all its versions; None where it refuses to say."""
    backends, found = torch.backends, {}
    for name, ask in {
        "word": torch.get_float32_matmul_precision,
        "matmul": lambda: backends.cuda.matmul.allow_tf32,
        "cudnn": lambda: backends.cudnn.allow_tf32,
    }.items():
        try:
            found[name] = ask()
        except RuntimeError:
            found[name] = None
    return found | {"operations": [owner.fp32_precision for owner in _operations()]}


ASKED: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "by the word": lambda: torch.set_float32_matmul_precision("high"),
    "by an old name": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "by a new name": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "by a new name for convolutions": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
}


@pytest.fixture
def switches_kept() -> Iterator[None]:
    """Torch's switches are as they were after the test."""
    before = _Switches.now()
    yield
    before.turn()


@pytest.mark.usefixtures("switches_kept")
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("precision", ["full", "tf32", "bf16"])
def test_torchs_switches_are_set_within_a_run_and_put_back(precision: str, asked: str) -> None:
    """They exist without a GPU too. Convolutions and recurrent layers are TF32 by cuDNN's own default, and sum in any order.

    torch.compile asks by the old names, which answer only where the new ones say the same.
    """
    if "new name" in asked and not _operations():
        pytest.skip("this torch has the old names alone")
    cuda, on = torch.device("cuda"), precision == "tf32"
    ASKED[asked]()
    before, deterministic = answers(), torch.backends.cudnn.deterministic
    with arithmetic(precision, cuda):
        assert torch.backends.cudnn.deterministic
        within = answers()
        assert set(within.pop("operations")) <= {"tf32" if on else "ieee"}
        assert within == {"word": "high" if on else "highest", "matmul": on, "cudnn": on}
    with pytest.raises(ZeroDivisionError), arithmetic(precision, cuda):
        raise ZeroDivisionError
    assert (answers(), torch.backends.cudnn.deterministic) == (before, deterministic)
    with arithmetic(precision, torch.device("cpu")):
        assert answers() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_is_one_clear_line() -> None:
    with pytest.raises(InputError, match=r"device 'cuda' is not usable here .*: use device='cpu' or 'auto'") as caught:
        Population(mlp(), random_masks(mlp().space, 1, sparsity=0.5), horizon=1, device="cuda")
    assert "\n" not in str(caught.value)
