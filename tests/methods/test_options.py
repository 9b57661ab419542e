"""An option that a method takes changes what it does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evoprune.errors import InputError
from evoprune.methods import METHODS
from evoprune.testing import SMALL, tiny_problem

PLAIN = {"form": "plain", "mu": 4, "lambda_": 4, "ngen": 2, "cxpb": 0.9, "mutpb": 0.1}
HEARD: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("set", {"fraction": 0.6}, {}),
    ("rigl", {"fraction": 0.6}, {}),
    ("rigl", {"until": 0.4}, {}),
    ("gradual_magnitude", {"every": 5}, {}),
    ("gradual_magnitude", {"start": 0.4}, {}),
    ("gradual_magnitude", {"until": 0.4}, {}),
    ("dissipate_regrow", {"fraction": 0.6}, {}),
    ("dissipate_regrow", {"until": 0.5}, {}),
    ("dissipate_regrow", {"reference": "init"}, {}),
    ("dropout", {"rate": 0.1}, {}),
    ("kstarts", {"eta": 3}, {"k": 9, "rungs": (1, 2), "selection_epochs": 2}),
    ("halving", {"eta": 3}, {"k": 9, "rungs": (1, 2), "finalists": 1}),
    ("evolve", {"share": 0.6}, {"ngen": 2}),
    ("evolve", {"mate": "cxRAR"}, PLAIN),
    ("combined", {"rule": "gradient"}, {}),
    ("combined", {"scope": "layer"}, {}),
    ("combined", {"reference": "epoch"}, {}),
    ("combined", {"pool": 1.2}, {"order": "dissipate-first"}),
]


@pytest.mark.parametrize(("name", "option", "beside"), HEARD, ids=str)
def test_an_option_is_heard(name: str, option: dict[str, Any], beside: dict[str, Any]) -> None:
    small = {key: value for key, value in SMALL.items() if key in METHODS[name].options}
    asked = {"sparsity": 0.8, "epochs": 8, "batch_size": 9, "engine": "loop", "lr": 0.1, "weight_decay": 0.01, **small, **beside}
    plain, other = METHODS[name](tiny_problem(), **asked), METHODS[name](tiny_problem(), **{**asked, **option})
    moved = any(not torch.equal(value, other.weights[key]) for key, value in plain.weights.items())
    assert moved or plain.ledger.samples != other.ledger.samples, "nothing changed"


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("kstarts", {"eta": 3}, "eta=3 does nothing without rungs="),
        ("kstarts", {"selection_epochs": 1, "rungs": (2,)}, "selection_epochs=1 does nothing beside rungs="),
        ("evolve", {"share": 0.6, **PLAIN}, "share=0.6 does nothing with mutate=None"),
        ("evolve", {"mate": "cxRAR", **PLAIN, "cxpb": 0.0}, "mate='cxRAR' does nothing with cxpb=0"),
        ("evolve", {"eta": 3, **PLAIN}, "eta=3 does nothing without rungs="),
        ("evolve", {"criterion": "grad", "objectives": ("loss", "survivors"), **PLAIN}, "criterion='grad' does nothing"),
        ("combined", {"pool": 3.0}, "pool=3.0 does nothing with order='together'"),
        ("halving", {"finalists": 9, "k": 8, "rungs": (1, 2)}, "finalists=9 are more than the k=8"),
    ],
    ids=str,
)
def test_an_option_that_nothing_reads_is_named(
    name: str, options: dict[str, Any], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And not refused: of several methods that are compared another one may read it."""
    small = {key: value for key, value in SMALL.items() if key in METHODS[name].options and key != "selection_epochs"}
    METHODS[name](tiny_problem(), **{"sparsity": 0.8, "epochs": 4, "batch_size": 9, "engine": "loop", **small, **options})
    assert says in caplog.text


def test_an_option_is_judged_beside_the_methods_own_defaults() -> None:
    with pytest.raises(InputError, match="step_every=5 does nothing with schedule='constant'"):
        METHODS["regrow_average"].check({"step_every": 5})
    METHODS["regrow_average"].check({"step_every": 5, "schedule": "step"})
    with pytest.raises(InputError, match="dropout needs optimizer='sgd', not 'adam'"):
        METHODS["dropout"](tiny_problem(), optimizer="adam")
    ticket = METHODS["random"](tiny_problem(), sparsity=0.5, epochs=1, engine="loop", device=torch.device("cpu"))
    assert ticket.provenance["options"]["device"] == "cpu"
