"""Asked is obtained, in total and in every layer, on every model, through drawing, files, modules and training."""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from evoprune.masks.allocation import allocate
from evoprune.masks.files import load_mask, save_mask
from evoprune.masks.mask import Mask
from evoprune.masks.sampling import random_mask
from evoprune.masks.space import MaskSpace
from evoprune.problems.models import MODELS
from evoprune.problems.problem import Problem
from evoprune.training.population import Population
from evoprune.training.ticket import Ticket
from tests.tiny import images, table

SPARSITIES = [
    *("0.1", "0.2", "0.25", "0.3", "0.4", "0.5", "0.55", "0.6", "0.7", "0.75", "0.8", "0.85", "0.9", "0.925", "0.95", "0.97"),
    *("0.98", "0.99", "0.995", "0.999"),
]
NAMES = ["lenet-300-100", "autoencoder", "lenet5", "conv4", "vgg16", "resnet20"]
PRUNABLE = {"lenet-300-100": 266_200, "autoencoder": 536_800, "lenet5": 430_500, "resnet20": 268_336}


@cache
def module(name: str) -> torch.nn.Module:
    entry = MODELS[name]
    return entry.build(entry.reference, 10)


@cache
def space(name: str) -> MaskSpace:
    return MaskSpace.of(module(name))


def asked(name: str, sparsity: str) -> int:
    return math.floor((1 - Fraction(sparsity)) * space(name).prunable + Fraction(1, 2))


@pytest.mark.parametrize("name", PRUNABLE)
def test_a_named_model_has_its_published_size(name: str) -> None:
    assert space(name).prunable == PRUNABLE[name]


@pytest.mark.parametrize("name", NAMES)
def test_drawing_is_exact_at_twenty_sparsities(name: str) -> None:
    for number, sparsity in enumerate(SPARSITIES):
        allocation = ("erk", "uniform", "smart_ratio")[number % 3]
        counts = allocate(space(name), sparsity, allocation)
        assert sum(counts) == asked(name, sparsity)
        if name == "vgg16" and number % 4:
            continue  # 14.7 million weights: five masks tell as much as twenty
        mask = random_mask(space(name), sparsity=float(sparsity), allocation=allocation, seed=number)
        assert mask.counts == counts
        assert Mask(mask.space, mask.survivors) == mask  # checked: increasing, in range


@pytest.mark.parametrize("name", NAMES)
def test_saving_loading_and_applying_are_exact(name: str, tmp_path: Path) -> None:
    for sparsity in SPARSITIES if name not in ("vgg16", "conv4") else SPARSITIES[10::4]:
        mask = random_mask(space(name), sparsity=sparsity, seed=1)
        again = load_mask(save_mask(mask, tmp_path / "mask"), space(name))
        assert again == mask
        assert again.counts == mask.counts
        assert again.count == asked(name, sparsity)
        own = copy.deepcopy(module(name))
        with torch.no_grad():
            for layer, kept in again.dense().items():
                own.get_parameter(layer).fill_(1.0).mul_(kept)
        assert Mask.of_module(own).counts == mask.counts


@cache
def problem(name: str) -> Problem:
    return images("lenet5", 18, 1) if name == "lenet5" else Problem(name, table((12,), None if name == "autoencoder" else 3))


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
@pytest.mark.parametrize("engine", ["loop", "dense", "sparse"])
@pytest.mark.parametrize("name", NAMES[:3])
def test_training_with_decay_keeps_every_count_at_twenty_sparsities(name: str, engine: str, optimizer: str) -> None:
    own = problem(name)
    sparsities = [s for s in SPARSITIES if own.space.budget(s) >= len(own.space)]
    masks = [random_mask(own.space, sparsity=sparsity, seed=seed) for seed, sparsity in enumerate(sparsities)]
    chosen: dict[str, Any] = {"optimizer": optimizer}
    if optimizer in ("sgd", "momentum"):
        chosen = {"optimizer": "sgd", "momentum": 0.9 if optimizer == "momentum" else 0.0}
    generation = Population(own, masks, horizon=1, engine=engine, weight_decay=0.01, batch_size=36, **chosen).train(1)
    assert generation.steps == 1 if name == "lenet5" else generation.steps == 2
    for row, (mask, sparsity) in enumerate(zip(masks, sparsities, strict=True)):
        weights = generation.parameters.row(row)
        obtained = Mask.of_dense(own.space, weights)
        moved = [(weights[layer] != 0).sum().item() for layer in own.space.names]
        assert obtained <= mask
        assert mask.count == own.space.budget(sparsity)
        if engine != "sparse":  # He-normal weights do not land on 0; the sparse kernels may flush the tiniest
            assert moved == list(mask.counts)
    assert generation.trace.last("survivors").tolist() == [mask.count for mask in masks]


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_ticket_is_exact_through_its_file_and_into_a_module(name: str, tmp_path: Path) -> None:
    own = problem(name)
    mask = random_mask(own.space, sparsity="0.9")
    ticket = Population(own, [mask], horizon=1, engine="loop", batch_size=36, weight_decay=0.01).train(1).ticket()
    again = Ticket.load(ticket.save(tmp_path / "ticket"), problem=own)
    assert again.mask == mask
    assert Mask.of_module(again.module()).counts == mask.counts
