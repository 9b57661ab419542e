"""The Hessian norm of each layer: against explicit Hessians, before and after masking, and scaled to 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import evoprune as ep
from evoprune import seeds
from evoprune.errors import InputError
from evoprune.training.initializers import hessian_norms, hessian_report, hessian_scales
from evoprune.training.ledger import Ledger


@pytest.fixture(scope="module")
def problem() -> ep.Problem:
    return ep.Problem("mlp:12-8", "digits", seed=0)


def explicit(problem: ep.Problem, name: str, kept: Tensor, weights: dict[str, Tensor]) -> float:
    """Spectral norm of the whole Hessian of one layer's survivors, entry by entry."""
    split = problem.split("train")
    rows = torch.from_numpy(seeds.generator(0, "hessian").choice(len(split), 100, replace=False))
    inputs, targets, module = split.inputs[rows].double(), split.goals[rows], problem.module().train()

    def loss(survivors: Tensor) -> Tensor:
        weight = torch.zeros_like(weights[name]).masked_scatter(kept, survivors)
        return nn.functional.cross_entropy(functional_call(module, {**weights, name: weight}, (inputs,)), targets)

    matrix = torch.autograd.functional.hessian(loss, weights[name][kept])
    return float(torch.linalg.eigvalsh(matrix).abs().max())  # type: ignore[arg-type]


def test_norms_are_those_of_the_explicit_hessian(problem: ep.Problem) -> None:
    for mask in (None, ep.random_mask(problem.space, sparsity=0.6, seed=1)):
        norms = hessian_norms(problem, mask, iterations=100)
        dense = {
            name: torch.ones(shape, dtype=torch.bool)
            for name, shape in zip(problem.space.names, problem.space.shapes, strict=True)
        }
        kept = dense if mask is None else mask.dense()
        weights = {name: value.double() for name, value in problem.initial_weights().items()}
        weights |= {name: weights[name] * kept[name] for name in kept}
        for name in list(problem.space.names)[1:]:
            assert norms[name] == pytest.approx(explicit(problem, name, kept[name], weights), rel=1e-3), name


def test_the_report_says_what_masking_did_and_the_scale_undoes_it(problem: ep.Problem) -> None:
    mask = ep.random_mask(problem.space, sparsity=0.8, seed=2)
    report = hessian_report(problem, mask)
    assert report.columns.tolist() == ["layer", "dense", "masked", "scale", "scaled"]
    assert report["layer"].tolist() == list(problem.space.names)
    assert (report["masked"] < report["dense"]).all()
    assert report["scaled"].to_numpy() == pytest.approx([1.0] * 3, rel=0.1)
    assert hessian_report(problem, mask).equals(report)


def test_layers_under_batch_norm_are_scaled_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU()
    )
    problem = ep.Problem(nn.Sequential(*net, nn.Linear(8, 10)), "digits")
    mask = ep.random_mask(problem.space, sparsity=0.5)
    before, scales = hessian_norms(problem, mask), hessian_scales(problem, mask)
    start = problem.initial_weights()
    after = hessian_norms(problem, mask, {name: start[name] * scale for name, scale in scales.items()})
    for name in problem.space.names[:2]:  # those whose output a norm makes blind to their scale
        assert after[name] == pytest.approx(1, rel=0.1), before[name]
    assert scales[problem.space.names[-1]] == 1.0


@pytest.mark.parametrize("places", [(), (0,), (0, 1), (1,)], ids=str)
def test_layers_that_no_norm_follows_are_scaled_among_themselves(places: tuple[int, ...]) -> None:
    def build() -> nn.Module:
        parts: list[nn.Module] = [nn.Flatten()]
        for layer, (inner, outer) in enumerate([(64, 20), (20, 15), (15, 15)]):
            parts += [nn.Linear(inner, outer), *([nn.BatchNorm1d(outer)] if layer in places else []), nn.ReLU()]
        return nn.Sequential(*parts, nn.Linear(15, 10))

    problem = ep.Problem(build, "digits", seed=0)
    mask, start = ep.random_mask(problem.space, sparsity=0.7, seed=0), problem.initial_weights()
    scales = hessian_scales(problem, mask)
    before = hessian_norms(problem, mask)
    after = hessian_norms(problem, mask, {name: start[name] * scale for name, scale in scales.items()})
    assert min(before.values()) < 0.1
    assert list(after.values()) == pytest.approx([1.0] * 4, rel=0.1)


def test_norms_that_stay_away_from_1_are_said(caplog: pytest.LogCaptureFixture) -> None:
    problem = ep.Problem("mlp:20-15", "digits", seed=0)
    mask = ep.random_mask(problem.space, sparsity=0.9, seed=0)
    hessian_scales(problem, mask, rounds=1)
    assert "stay up to a factor of" in caplog.text
    caplog.clear()
    hessian_scales(problem, mask)
    assert caplog.text == ""


def test_what_the_scales_cost_is_counted_in_populations_and_evaluations(problem: ep.Problem) -> None:
    mask, ledger = ep.random_mask(problem.space, sparsity=0.5, seed=0), Ledger()
    hessian_norms(problem, mask, samples=10, iterations=3, ledger=ledger)
    assert ledger.samples == 10
    assert ledger.survivor_updates == (1 + 3 * len(problem.space)) * 10 * 3 * problem.prunable
    plain, scaled = (ep.Population(problem, [mask, mask], horizon=1, init=init).ledger for init in ("problem", "hessian"))
    assert plain.survivor_updates == 0
    assert scaled.survivor_updates > 2 * (1 + 20 * len(problem.space)) * 3 * problem.prunable
    toolbox = ep.make_toolbox(problem, sparsity=0.5, epochs=1, init="hessian", engine="loop")
    [evaluated] = toolbox.population(n=1)
    list(toolbox.map(toolbox.evaluate, [evaluated]))
    alone = ep.Population(problem, [evaluated.mask], horizon=1, init="hessian", engine="loop").train(1).ledger
    assert toolbox.map.ledger.survivor_updates == alone.survivor_updates


def test_one_layer_has_no_scale_and_nothing_is_changed() -> None:
    net = nn.Linear(64, 10)
    before = net.weight.detach().clone()
    problem = ep.Problem(nn.Sequential(nn.Flatten(), net), "digits")
    assert hessian_scales(problem) == {"1.weight": 1.0}
    assert torch.equal(net.weight, before)
    with pytest.raises(InputError, match="samples=0"):
        hessian_norms(problem, samples=0)
