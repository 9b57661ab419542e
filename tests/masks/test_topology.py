"""Live paths, dead units and collapsed layers, against paths counted one by one and against gradients."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from evoprune.errors import InputError, MaskMismatch, UnsupportedLayer
from evoprune.masks.mask import Mask
from evoprune.masks.space import MaskSpace
from evoprune.masks.topology import Topology
from evoprune.problems.models import MODELS, find_model
from tests.masks.networks import NETS, InPlace, Residual, Shortcut


def draw(space: MaskSpace, density: float, seed: int) -> Mask:
    rng = np.random.default_rng(seed)
    return Mask(space, [np.flatnonzero(rng.random(size) < density) for size in space.sizes])


def of_rows(model: nn.Module, *rows: list[list[int]]) -> Mask:
    """A mask of a stack of Linear layers from 0/1 matrices (outputs by inputs)."""
    space = MaskSpace.of(model)
    return Mask.of_dense(space, {name: np.array(row) for name, row in zip(space.names, rows, strict=True)})


# ---- oracles ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def set_positive(model: nn.Module, mask: Mask) -> None:
    """Survivors 1, everything else neutral, so that no path can cancel another and no activation can end one."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
    for name, parameter in model.named_parameters():
        parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    for name, kept in mask.dense().items():
        model.get_parameter(name).copy_(kept)


class OnePixel(nn.Module):
    """A convolution between images whose pixels are all alike, so that a channel is one number, as paths see it."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return alike(self.conv(alike(x)))


def alike(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True).expand_as(x).clone()


def live_by_gradient(model: nn.Module, mask: Mask, input_shape: tuple[int, ...]) -> Mask:
    """The survivors that move the sum of the outputs when everything is positive."""
    model = copy.deepcopy(model).double().eval()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.MaxPool2d):  # a maximum ends paths on one input, not on all
            model.set_submodule(name, nn.AvgPool2d(module.kernel_size, module.stride, module.padding))
    weights = {name: model.get_parameter(name) for name in mask.space.names}
    set_positive(model, mask)
    for name, module in list(model.named_modules()):
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            model.set_submodule(name, OnePixel(module))
    model(torch.ones(2, *input_shape, dtype=torch.float64)).sum().backward()
    return Mask.of_dense(mask.space, {name: weight.grad * weight for name, weight in weights.items()})


def live_by_enumeration(mask: Mask) -> set[tuple[int, int]]:
    """(layer, index) of the weights on a path of a stack of Linear layers: every path tried, one by one."""
    matrices = [kept.numpy() for kept in mask.dense().values()]
    live = set()
    for path in itertools.product(*(range(size) for size in [matrices[0].shape[1], *(m.shape[0] for m in matrices)])):
        steps = [
            (layer, target * m.shape[1] + source)
            for layer, (m, source, target) in enumerate(zip(matrices, path, path[1:], strict=False))
        ]
        if all(matrices[layer].ravel()[index] for layer, index in steps):
            live |= set(steps)
    return live


def units(topology: Topology, mask: Mask) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for name, dead in topology.dead_units(mask).items():
        yield name, dead.no_input, dead.no_output


# ---- tests --------------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.floats(0.05, 0.9), st.integers(0, 10**6))
def test_live_weights_of_a_small_mlp_are_those_on_an_enumerated_path(density: float, seed: int) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    mask = draw(MaskSpace.of(model), density, seed)
    topology = Topology.of(model, (3,))
    live = topology.live(mask)
    found = {(layer, int(index)) for layer, survivors in enumerate(live.survivors) for index in survivors}
    assert found == live_by_enumeration(mask)
    assert topology.live_paths(mask) == len(found)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("density", [0.08, 0.2, 0.5, 1.0])
def test_live_weights_are_those_with_a_gradient(net: str, density: float) -> None:
    build, input_shape = NETS[net]
    model = build()
    topology = Topology.of(model, input_shape)
    for seed in range(4):
        mask = draw(MaskSpace.of(model), density, seed)
        live = topology.live(mask)
        assert live == live_by_gradient(model, mask, input_shape)
        assert topology.live_paths(mask) == live.count


@pytest.mark.parametrize("name", [name for name in MODELS if name != "mlp:W1-W2-…"])
def test_live_weights_of_the_named_models_are_those_with_a_gradient(name: str) -> None:
    entry = find_model(name)
    shape = (entry.reference[0], 12, 12) if name in {"lenet-300-100", "autoencoder"} else (entry.reference[0], 32, 32)
    model = entry.build(shape, 10)
    topology, space = Topology.of(model, shape), MaskSpace.of(model)
    mask = draw(space, 0.005, 0)
    assert topology.live(mask) == live_by_gradient(model, mask, shape)
    assert topology.live_paths(mask) < mask.count
    assert topology.live_paths(Mask.full(space)) == space.prunable


@settings(max_examples=60)
@given(st.sampled_from(sorted(NETS)), st.floats(0, 1), st.integers(0, 10**6))
def test_live_is_a_subset_idempotent_and_monotone(net: str, density: float, seed: int) -> None:
    build, input_shape = NETS[net]
    model = build()
    topology, mask = Topology.of(model, input_shape), draw(MaskSpace.of(model), density, seed)
    live = topology.live(mask)
    assert live <= mask
    assert topology.live(live) == live
    assert live <= topology.live(mask | draw(mask.space, 0.2, seed + 1))
    collapsed = topology.collapsed_layers(mask)
    assert collapsed == [name for name, count in zip(live.space.names, live.counts, strict=True) if count == 0]


def test_dead_units_are_told_apart() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    mask = of_rows(model, [[1, 0], [0, 0], [0, 1], [0, 0]], [[1, 1, 0, 0], [0, 0, 0, 0]])
    dead = Topology.of(model, (2,)).dead_units(mask)
    assert dead["0.weight"].no_input.tolist() == [False, True, False, True]
    assert dead["0.weight"].no_output.tolist() == [False, False, True, True]
    assert dead["0.weight"].dead.tolist() == [False, True, True, True]
    assert dead["2.weight"].no_input.tolist() == [False, True]
    assert dead["2.weight"].no_output.tolist() == [False, False]


def test_death_spreads_through_layers_and_biases_do_not_make_a_path() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    mask = of_rows(model, [[0, 0], [1, 1]], [[1, 0], [0, 0]], [[1, 1]])
    topology = Topology.of(model, (2,))
    dead = topology.dead_units(mask)
    assert dead["1.weight"].no_input.all()
    assert dead["0.weight"].no_output.tolist() == [False, True]
    assert topology.live_paths(mask) == 0
    assert topology.collapsed_layers(mask) == ["0.weight", "1.weight", "2.weight"]


def test_a_residual_add_keeps_a_unit_alive_through_either_branch() -> None:
    model = Residual()
    space = MaskSpace.of(model)
    dense = {name: np.zeros(shape) for name, shape in zip(space.names, space.shapes, strict=True)}
    dense["inp.weight"][0, 0] = dense["out.weight"][1, 0] = dense["mid.weight"][2, 3] = 1
    topology = Topology.of(model, (4,))
    mask = Mask.of_dense(space, dense)
    assert topology.live(mask).counts == (1, 0, 1)
    assert topology.collapsed_layers(mask) == ["mid.weight"]
    assert topology.dead_units(mask)["mid.weight"].no_input.all()
    assert topology.dead_units(mask)["mid.weight"].no_output.tolist() == [False, True, True, True, True]


def test_zero_channels_of_a_shortcut_end_no_path_and_begin_none() -> None:
    model = Shortcut()
    space = MaskSpace.of(model)
    mask = Mask.full(space).replace("b.weight", []).replace("stem.weight", np.arange(18))  # only the shortcut, only channel 0
    live = Topology.of(model, (2, 5, 5)).live(mask)
    assert live.counts == (18, 0, 0, 3)
    assert live.survivors[3].tolist() == [2, 10, 18]  # channel 0 stands third, after two channels of zeros


def test_taps_that_only_see_padding_are_not_live() -> None:
    model = nn.Conv2d(1, 1, 3, padding=1)
    assert Topology.of(model, (1, 1, 1)).live(Mask.full(MaskSpace.of(model))).survivors[0].tolist() == [4]


def test_a_frozen_layer_connects_everything() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].requires_grad_(False)
    mask = of_rows(model, np.eye(4, 3).tolist(), [[1, 0, 0, 0], [0, 0, 0, 0]])
    assert Topology.of(model, (3,)).live(mask).counts == (3, 1)


def test_a_layer_that_is_never_called_is_dead() -> None:
    model = Residual()
    model.spare = nn.Linear(3, 2)
    topology, mask = Topology.of(model, (4,)), Mask.full(MaskSpace.of(model))
    assert topology.collapsed_layers(mask) == ["spare.weight"]
    assert topology.dead_units(mask)["spare.weight"].dead.all()


def test_subclasses_of_torch_layers_are_followed_unless_their_forward_is_new() -> None:
    class Plain(nn.Linear):
        pass

    class Odd(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight / self.weight.norm())

    mask = Mask.full(MaskSpace.of(nn.Sequential(Plain(3, 2))))
    assert Topology.of(nn.Sequential(Plain(3, 2)), (3,)).live(mask) == mask
    with pytest.raises(UnsupportedLayer):
        Topology.of(nn.Sequential(Odd(3, 2)), (3,))


class InPlaceByFlatten(InPlace):
    """Whether flatten gives a view or a copy depends on strides."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        flat = h.flatten(1)
        flat += self.b(flat)
        return self.c(h)


class InPlaceByDropout(InPlace):
    """Dropout gives its input where it drops nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        dropped = self.drop(h)
        dropped *= self.b(h)
        return self.c(h)


class Out(InPlace):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        torch.add(h, self.b(h), out=h)
        return self.c(h)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else x


class Product(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) @ x.t()


class Noisy(Branching):
    """What is drawn while it is traced would stay."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x) + torch.randn(3)
        return out


@pytest.mark.parametrize(
    ("model", "input_shape", "message"),
    [
        (Branching(), (3,), "cannot trace Branching"),
        (Noisy(), (3,), "Noisy draws random numbers in evaluation too"),
        (Product(), (3,), "matmul"),
        (InPlaceByFlatten(), (4,), "'iadd' changes in place what is read later under another name"),
        (InPlaceByDropout(), (4,), "'imul' changes in place what is read later under another name"),
        (Out(), (4,), "'add' cannot be followed"),
        (nn.Sequential(nn.Linear(3, 8), nn.GLU()), (3,), r"'1' \(GLU\)"),
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 2)), (3,), r"'2' \(Linear\).*shape \(3,\)"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2)), (3, 3), r"'0' \(Conv2d\)"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(model: nn.Module, input_shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UnsupportedLayer, match=message) as caught:
        Topology.of(model, input_shape)
    assert "\n" not in str(caught.value)


def test_wrong_arguments_are_refused() -> None:
    topology = Topology.of(nn.Linear(3, 2), (3,))
    with pytest.raises(MaskMismatch):
        topology.live(Mask.full(MaskSpace.of(nn.Linear(2, 3))))
    with pytest.raises(InputError, match="input shape"):
        Topology.of(nn.Linear(3, 2), (3.5,))  # type: ignore[arg-type]


def test_the_model_is_left_as_it_was_and_the_topology_can_be_sent() -> None:
    model = Residual().train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    topology = Topology.of(model, (4,))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    mask = draw(MaskSpace.of(model), 0.5, 0)
    assert pickle.loads(pickle.dumps(topology)).live(mask) == topology.live(mask)
