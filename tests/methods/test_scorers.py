"""Scorers: the oracles of their definitions, exact counts, and what they refuse."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import evoprune as ep
from evoprune.errors import InputError, UnknownName
from evoprune.masks.mask import Mask
from evoprune.methods.scorers import SCORERS, Probe, Scorer
from evoprune.methods.scorers.samples import Samples
from evoprune.training.ledger import Ledger

NAMES = ("magnitude", "snip", "iterative_snip", "force", "grasp", "synflow", "prospr", "ntk_sap")


def arrays(shape: tuple[int, ...], n: int = 120, classes: int = 10, labels: bool = True) -> dict[str, Tensor]:
    """Noise with balanced labels."""
    rng = torch.Generator().manual_seed(0)
    data = {"x_train": torch.randn(n, *shape, generator=rng), "x_test": torch.randn(classes, *shape, generator=rng)}
    if labels:
        data |= {"y_train": torch.arange(n) % classes, "y_test": torch.arange(classes)}
    return data


@pytest.fixture(scope="module")
def digits() -> ep.Problem:
    return ep.Problem("lenet-300-100", "digits", seed=0)


def small(*, bias: bool = True, activation: type[nn.Module] = nn.ReLU) -> ep.Problem:
    torch.manual_seed(1)
    layers = [nn.Linear(6, 8, bias=bias), activation(), nn.Linear(8, 7, bias=bias), activation(), nn.Linear(7, 3, bias=bias)]
    return ep.Problem(nn.Sequential(*layers), arrays((6,), 90, 3), seed=0)


def probe_of(problem: ep.Problem, *, mask: Mask | None = None, dtype: torch.dtype = torch.float64, batches: int = 1) -> Probe:
    full = Mask.full(problem.space) if mask is None else mask
    samples = Samples(problem, per_class=None, batches=batches, seed=0, device=torch.device("cpu"), dtype=dtype)
    return Probe(problem, problem.module(), full, samples, 0, 0, Ledger(), problem.initial_weights())


def loss_at(probe: Probe, weights: dict[str, Tensor], batch: tuple[Tensor, Tensor], temperature: float = 1.0) -> Tensor:
    """The loss by hand."""
    outputs = functional_call(probe.module, {**probe.others, **weights}, (batch[0],))
    return nn.functional.cross_entropy(outputs / temperature, batch[1])


# ---- oracles ----------------------------------------------------------------------------------------------------------


def test_snip_is_the_derivative_in_the_mask() -> None:
    problem = small()
    probe = probe_of(problem)
    scores, batch, step = SCORERS["snip"].function(probe), probe.batch(0), 1e-6
    for name, weight in probe.weights.items():
        for index in (0, 5, weight.numel() - 1):
            slopes = []
            for gate in (1 + step, 1 - step):
                moved = weight.clone()
                moved.view(-1)[index] *= gate
                slopes.append(loss_at(probe, {**probe.weights, name: moved}, batch))
            finite = abs(float(slopes[0] - slopes[1])) / (2 * step)
            assert scores[name].flatten()[index].item() == pytest.approx(finite, rel=1e-5, abs=1e-9)


def test_grasp_is_a_finite_difference_of_gradients() -> None:
    problem = small(activation=nn.Tanh)
    probe = probe_of(problem, batches=2)
    scores = SCORERS["grasp"].function(probe, temperature=200.0)

    def gradient(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        loss = (loss_at(probe, leaves, probe.batch(0), 200.0) + loss_at(probe, leaves, probe.batch(1), 200.0)) / 2
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    g, step = gradient(probe.weights), 1e-3
    up, down = (gradient({name: w + sign * step * g[name] for name, w in probe.weights.items()}) for sign in (1, -1))
    for name, weight in probe.weights.items():
        product = (up[name] - down[name]) / (2 * step)
        torch.testing.assert_close(scores[name], weight * product, rtol=1e-4, atol=1e-14)


def test_prospr_is_the_derivative_in_the_mask_through_training() -> None:
    problem = small(activation=nn.Tanh)
    probe = probe_of(problem)
    scores = SCORERS["prospr"].function(probe, inner_steps=2, inner_lr=0.3)

    def after(gates: dict[str, Tensor]) -> float:
        values = {**{name: gates[name] * w for name, w in probe.weights.items()}, **probe.others}
        for step in range(2):
            leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
            loss = nn.functional.cross_entropy(
                functional_call(probe.module, leaves, (probe.batch(step)[0],)), probe.batch(step)[1]
            )
            gradients = torch.autograd.grad(loss, list(leaves.values()))
            values = {name: value.detach() - 0.3 * g for (name, value), g in zip(leaves.items(), gradients, strict=True)}
        return float(nn.functional.cross_entropy(functional_call(probe.module, values, (probe.batch(2)[0],)), probe.batch(2)[1]))

    for name, weight in probe.weights.items():
        gates = {key: torch.ones_like(value) for key, value in probe.weights.items()}
        gates[name].view(-1)[3] += 1e-5
        above = after(gates)
        gates[name].view(-1)[3] -= 2e-5
        assert scores[name].flatten()[3].item() == pytest.approx(abs(above - after(gates)) / 2e-5, rel=1e-4, abs=1e-9), (
            weight.shape
        )


def test_prospr_repeats_itself_on_other_batches_and_moves_no_pruned_weight() -> None:
    problem = small()
    one, several = (SCORERS["prospr"].select(problem, sparsity=0.5, batches=number)[1] for number in (1, 3))
    assert several.samples == 3 * one.samples
    assert several.survivor_updates == 3 * one.survivor_updates
    half = ep.random_mask(problem.space, sparsity=0.5, seed=0)
    seen: list[dict[str, Tensor]] = []

    class Watched(Probe):
        def loss(self, weights: Any, batch: Any, **options: Any) -> Tensor:
            seen.append({name: weights[name].detach() for name in problem.space.names})
            return super().loss(weights, batch, **options)

    plain = probe_of(problem, mask=half)
    SCORERS["prospr"].function(
        Watched(problem, plain.module, half, plain.samples, plain.step, plain.seed, plain.ledger, plain.start)
    )
    assert len(seen) == 4
    for name, kept in half.dense().items():
        assert all((values[name][~kept] == 0).all() for values in seen)
        assert not torch.equal(seen[-1][name], seen[0][name])


def test_another_draw_for_a_users_module_keeps_the_size_of_its_weights() -> None:
    probe = probe_of(small())
    before = {name: value.norm() for name, value in probe.weights.items()}
    for draw in range(200):
        probe.redraw(draw)
    for name, value in probe.weights.items():
        assert 0.6 < float(value.norm() / before[name]) < 1.5, "one draw of so few numbers differs by less than that"


def test_synflow_conserves_flow_from_layer_to_layer() -> None:
    problem = small(bias=False)
    scores = SCORERS["synflow"].function(probe_of(problem, dtype=torch.float32))
    sums = [score.sum().item() for score in scores.values()]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-12)
    ones, weights = torch.ones(6, dtype=torch.float64), list(problem.initial_weights().values())
    for weight in weights:
        ones = weight.double().abs() @ ones
    assert sums[0] == pytest.approx(float(ones.sum()), rel=1e-12)


def test_ntk_sap_measures_the_kernel() -> None:
    """For a linear model the change of outputs is epsilon·z·x, whatever the weights: gates count inputs alone."""
    problem = ep.Problem(nn.Linear(6, 3), arrays((6,), 90, 3), seed=0)
    probe = probe_of(problem, batches=1)
    [(name, score)] = SCORERS["ntk_sap"].function(probe, epsilon=0.5).items()
    inputs, moved = probe.samples.noise(0, 0), probe.gaussian(probe.weights[name], "move", name, 0, 0) * 0.5
    change = inputs @ moved.T
    torch.testing.assert_close(score, (2 * moved * (change.T @ inputs) / len(inputs)).abs())


def test_force_lets_weights_come_back_and_iterative_snip_does_not(digits: ep.Problem) -> None:
    for name, regrown in (("force", True), ("iterative_snip", False)):
        masks: list[Mask] = []
        known = SCORERS[name]

        def spy(probe: Probe, known: Scorer = known, masks: list[Mask] = masks) -> object:
            masks.append(probe.mask)
            return known.function(probe)

        mask = Scorer(name, spy, "", steps=8, regrow=known.regrow)(digits, sparsity=0.98)  # type: ignore[arg-type]
        assert len(masks) == 8
        assert mask.count == digits.space.budget(0.98)
        shrinks = all(later <= earlier for earlier, later in zip(masks, [*masks[1:], mask], strict=True))
        assert shrinks is not regrown


def test_magnitude_keeps_the_largest(digits: ep.Problem) -> None:
    mask, start = ep.scorers["magnitude"](digits, sparsity=0.9), digits.initial_weights()
    kept = np.concatenate(
        [start[n].flatten()[torch.from_numpy(s.copy())].abs() for n, s in zip(digits.space.names, mask.survivors, strict=True)]
    )
    everything = np.sort(np.concatenate([start[name].flatten().abs() for name in digits.space.names]))
    assert kept.min() == everything[-mask.count]


# ---- counts -----------------------------------------------------------------------------------------------------------


def test_the_registry_has_them_as_scorers_and_as_methods() -> None:
    assert set(NAMES) <= set(ep.scorers)
    for name in NAMES:
        known = ep.methods[name]
        assert known.reference == SCORERS[name].reference
        assert {"scope", "allocation", "steps"} <= set(known.options)
        assert "Cost:" in known.__doc__
        assert ("batches" in known.options) == (SCORERS[name].needs != "nothing")


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_exact_and_seeded(name: str, digits: ep.Problem) -> None:
    options = {"steps": min(SCORERS[name].steps, 3)}
    masks = [ep.scorers[name](digits, sparsity=sparsity, **options) for sparsity in (0.0, 0.9, 0.995)]
    assert [mask.count for mask in masks] == [digits.space.budget(sparsity) for sparsity in (0.0, 0.9, 0.995)]
    assert min(masks[-1].counts) >= 1
    assert ep.scorers[name](digits, sparsity=0.9, **options) == masks[1]
    layer = ep.scorers[name](digits, sparsity=0.95, scope="layer", allocation="erk", **options)
    assert layer.counts == ep.random_mask(digits.space, sparsity=0.95, allocation="erk").counts
    if SCORERS[name].needs != "nothing":
        assert ep.scorers[name](digits, sparsity=0.9, seed=1, **options) != masks[1]
        assert ep.scorers[name](digits, sparsity=0.9, batches=2, **options).count == masks[1].count


SIX = {
    "lenet-300-100": arrays((1, 8, 8), 50),
    "autoencoder": arrays((1, 8, 8), 50, labels=False),
    "lenet5": arrays((1, 16, 16), 50),
    "conv2": arrays((1, 4, 4), 50),
    "conv4": arrays((1, 4, 4), 50),
    "resnet20": arrays((3, 4, 4), 50),
}


@pytest.mark.parametrize("model", SIX)
def test_counts_are_exact_on_six_models(model: str) -> None:
    problem = ep.Problem(model, SIX[model])
    cheap = {"samples_per_class": 1} if problem.task == "classification" else {"batches": 1}
    for name in NAMES:
        options = {"steps": 1, **(cheap if SCORERS[name].needs != "nothing" else {})}
        mask = ep.scorers[name](problem, sparsity=0.9, device="cpu", **options)
        assert mask.count == problem.space.budget(0.9), name
        assert min(mask.counts) >= 1, name


@pytest.mark.slow
@pytest.mark.parametrize(("model", "side", "steps"), [("resnet20", 32, 50), ("vgg16", 32, 20)])
def test_synflow_never_collapses_a_layer(model: str, side: int, steps: int) -> None:
    """Down to 0.1% a path from input to output leads through every layer; fewer rounds would collapse one sooner."""
    problem = ep.Problem(model, arrays((3, side, side), 40))
    mask = ep.scorers["synflow"](problem, sparsity="0.999", steps=steps, device="cpu")
    assert mask.count == problem.space.budget("0.999")
    assert ep.Topology.of(problem.module(), problem.input_shape).collapsed_layers(mask) == []


# ---- cost -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "passes", "seen"),
    [("magnitude", 0, 0), ("snip", 1, 1), ("iterative_snip", 60, 60), ("force", 60, 60), ("grasp", 3, 2), ("prospr", 7, 4)],
)
def test_the_ledger_counts_dense_passes(name: str, passes: int, seen: int) -> None:
    problem = small()
    mask, ledger = SCORERS[name].select(problem, sparsity=0.5)
    assert ledger.samples == seen * 30
    assert ledger.survivor_updates == passes * 30 * 3 * problem.prunable
    assert ledger.dense_equivalent_epochs == pytest.approx(passes * 30 / len(problem.split("train")))
    options = {"sparsity": 0.5, "epochs": 2, "engine": "loop"}
    assert (
        ep.methods[name](problem, **options).ledger.samples
        == ledger.samples + ep.methods["random"](problem, **options).ledger.samples
    )
    assert mask.count == problem.space.budget(0.5)


# ---- manners ----------------------------------------------------------------------------------------------------------


def user_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


@pytest.mark.parametrize("name", NAMES)
def test_the_users_model_and_generators_are_left_alone(name: str) -> None:
    net = user_net().eval()
    before = copy.deepcopy(net.state_dict())
    problem = ep.Problem(net, arrays((6,), 90, 3))
    torch.manual_seed(3)
    random.seed(3)
    states = torch.get_rng_state(), random.getstate()
    first = ep.scorers[name](problem, sparsity=0.5, steps=2)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert not net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, problem.initial_weights()[key]) for key, value in before.items())
    torch.manual_seed(4)
    assert ep.scorers[name](problem, sparsity=0.5, steps=2) == first


def test_one_decorator_makes_a_scorer_and_a_method() -> None:
    from evoprune.methods.registry import METHODS

    @ep.scorer(reference="nobody", needs="nothing")
    def smallest(probe: Probe, *, power: float = 1.0) -> dict[str, Tensor]:
        """-abs(w0): the smallest stay.

        Cost: none.
        """
        return {name: -(weight.abs() ** power) for name, weight in probe.weights.items()}

    try:
        problem = small()
        mask = ep.scorers["smallest"](problem, sparsity=0.5, power=2.0)
        assert (mask & ep.scorers["magnitude"](problem, sparsity=0.5)).count <= 2
        assert ep.methods["smallest"](problem, sparsity=0.5, epochs=1, power=2.0).mask == mask
    finally:
        del SCORERS._entries["smallest"], METHODS._entries["smallest"]


def test_bad_input_is_one_clear_line() -> None:
    problem = small()
    frozen = user_net()
    frozen[0].weight.requires_grad_(False)  # type: ignore[union-attr]
    values = ep.Problem(user_net(), {**arrays((6,), 90), "y_train": torch.randn(90, 3), "y_test": torch.randn(10, 3)})
    cases = {
        "frozen": lambda: ep.scorers["snip"](ep.Problem(frozen, arrays((6,), 90, 3)), sparsity=0.5),
        "needs class labels": lambda: ep.scorers["snip"](values, sparsity=0.5, samples_per_class=3),
        "two things": lambda: ep.scorers["snip"](problem, sparsity=0.5, samples_per_class=3, batches=2),
        "only": lambda: ep.scorers["snip"](problem, sparsity=0.5, samples_per_class=60),
        "steps=0": lambda: ep.scorers["synflow"](problem, sparsity=0.5, steps=0),
        "batches=0": lambda: ep.scorers["snip"](problem, sparsity=0.5, batches=0),
        "choose a sparsity of at most": lambda: ep.scorers["magnitude"](problem, sparsity=0.99),
        "own_weights": lambda: ep.methods["snip"](problem, sparsity=0.5, epochs=1, own_weights=True),
        "inner_steps": lambda: ep.scorers["prospr"](problem, sparsity=0.5, inner_steps=0),
    }
    for text, call in cases.items():
        with pytest.raises(InputError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
    with pytest.raises(UnknownName, match="samples_per_class"):
        ep.scorers["synflow"](problem, sparsity=0.5, samples_per_class=3)
    with pytest.raises(UnknownName, match="did you mean 'snip'"):
        ep.scorers["snipp"]


def test_a_score_that_is_not_finite_is_refused() -> None:
    problem = small()
    broken = Scorer("broken", lambda probe: {name: w * float("nan") for name, w in probe.weights.items()}, "")
    with pytest.raises(InputError, match="not finite"):
        broken(problem, sparsity=0.5)


def test_ties_go_to_the_first_index() -> None:
    problem = small()
    flat = Scorer("flat", lambda probe: {name: torch.ones_like(w) for name, w in probe.weights.items()}, "")
    mask = flat(problem, sparsity=0.5)
    joined = np.concatenate([s + o for s, o in zip(mask.survivors, np.cumsum([0, *problem.space.sizes[:-1]]), strict=True)])
    assert (joined[: mask.count - 2] == np.arange(mask.count - 2)).all()  # the later layers keep their floor of 1


def test_integer_inputs_have_no_noise() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(20, 8), nn.Linear(8, 3)

        def forward(self, words: Tensor) -> Tensor:
            out: Tensor = self.out(self.table(words).mean(1))
            return out

    rng = torch.Generator().manual_seed(0)
    x = torch.randint(20, (90, 5), generator=rng)
    problem = ep.Problem(Words(), {"x_train": x, "y_train": torch.arange(90) % 3, "x_test": x[:6], "y_test": torch.arange(6) % 3})
    assert ep.scorers["snip"](problem, sparsity=0.5).count == 12
    with pytest.raises(InputError, match="reads integers"):
        ep.scorers["ntk_sap"](problem, sparsity=0.5)
