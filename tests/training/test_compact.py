"""A compacted module is smaller and gives the same outputs."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from evoprune.errors import UnsupportedLayer
from evoprune.masks.mask import Mask
from evoprune.masks.space import MaskSpace
from evoprune.masks.topology import Topology
from evoprune.problems.models import MODELS, find_model
from evoprune.training.compact import compact
from tests.masks.networks import NETS, Residual
from tests.masks.test_topology import Branching


@torch.no_grad()
def sparse(model: nn.Module, density: float, seed: int, *, inert: float = 0.0) -> nn.Module:
    """`model` in float64 with random weights, a share `density` of them kept, random biases and norms, large enough to matter.

    inert: share of the biases and norm parameters that are 0, so that some constants are 0 too.
    """
    generator = torch.Generator().manual_seed(seed)
    model, space = model.double().eval(), MaskSpace.of(model)

    def random(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name in space.index:
            kept = torch.rand(value.shape, generator=generator) < density
            fan_in = max(1.0, kept.sum().item() / len(value))
            value.copy_(random(value.shape) * kept / fan_in**0.5)
        elif name.endswith("running_var"):
            value.copy_(random(value.shape).square() + 0.5)
        elif value.is_floating_point():
            value.copy_(random(value.shape) * (torch.rand(value.shape, generator=generator) >= inert))
    return model


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def assert_same_outputs(model: nn.Module, small: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model, small = model.eval(), small.eval()
    wanted = model(x)
    torch.testing.assert_close(small(x), wanted, rtol=1e-10, atol=1e-10)


def check(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Compact `model` (float64) and check all that always holds; returns the small module."""
    small = compact(model, shape)
    assert type(small) is type(model)
    assert size(small) <= size(model)
    assert_same_outputs(model, small, shape)
    copy.deepcopy(small).load_state_dict(small.state_dict())
    assert size(compact(small, shape)) == size(small)
    return small


# ---- networks that ask for care -------------------------------------------------------------------------------------------


class Written(nn.Module):
    """A module whose forward is one function of itself and its input."""

    def __init__(self, forward: Callable[[Written, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.written = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.written(self, x)


def linears(*widths: int, act: Callable[[], nn.Module] = nn.Sigmoid, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), act()]
    return nn.Sequential(*layers[:-1])


def hard_coded(self: Written, x: Tensor) -> Tensor:
    x = torch.relu(self.a(x)).view(-1, 6 * 3 * 3)
    return self.b(torch.cat([x[:, :20], x[:, 20:]], dim=1))


def soft(self: Written, x: Tensor) -> Tensor:
    return self.d(torch.relu(self.c(torch.softmax(self.norm(self.a(x)), dim=1) * torch.sigmoid(self.b(x)))))


CAREFUL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "constants that are not 0": (lambda: linears(6, 8, 7, 3), (6,)),
    "no biases but in the first": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8, bias=False), nn.Linear(8, 3)),
        (6,),
    ),
    "norms without biases before": (
        lambda: nn.Sequential(nn.Linear(5, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU(inplace=True), nn.Linear(9, 2, bias=False)),
        (5,),
    ),
    "norm without parameters": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5, affine=False), nn.ELU(), nn.Conv2d(5, 3, 2), nn.Flatten()),
        (2, 5, 5),
    ),
    "unpadded convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.Sigmoid(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 2), nn.Flatten(), nn.Linear(20, 2)
        ),
        (2, 8, 8),
    ),
    "padded convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2, padding=1),
            nn.Conv2d(6, 5, 3, padding="same"),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(45, 2),
        ),
        (2, 4, 4),
    ),
    "reflected and circular borders": (
        lambda: nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(2, 6, 3),
            nn.Sigmoid(),
            nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular"),
            nn.Softplus(),
            nn.ConstantPad2d(1, 2.5),
            nn.Conv2d(5, 4, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
        (2, 4, 4),
    ),
    "sizes in the forward": (lambda: Written(hard_coded, a=nn.Conv2d(2, 6, 3), b=nn.Linear(54, 3)), (2, 5, 5)),
    "softmax, layer norm and a gate": (
        lambda: Written(soft, a=nn.Linear(4, 6), b=nn.Linear(4, 6), norm=nn.LayerNorm(6), c=nn.Linear(6, 5), d=nn.Linear(5, 2)),
        (4,),
    ),
    "one slope a channel": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 5), nn.PReLU(), nn.Linear(5, 2)),
        (4,),
    ),
    "a norm used twice": (
        lambda: Written(
            lambda s, x: s.c(s.n(s.b(torch.relu(s.n(s.a(x)))))),
            a=nn.Linear(4, 6),
            b=nn.Linear(6, 6),
            c=nn.Linear(6, 2),
            n=nn.BatchNorm1d(6),
        ),
        (4,),
    ),
    "a weight used twice": (
        lambda: Written(lambda s, x: s.b(torch.relu(s.a(x))) * s.a.weight.sum(), a=nn.Linear(4, 6), b=nn.Linear(6, 2)),
        (4,),
    ),
    "several outputs": (
        lambda: Written(lambda s, x: (s.a(x), s.b(torch.relu(s.a(x)))), a=nn.Linear(4, 6), b=nn.Linear(6, 2)),
        (4,),
    ),
    "a group norm": (lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv2d(6, 3, 2)), (2, 5, 5)),
    "a transposed convolution": (
        lambda: nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2)),
        (2, 5, 5),
    ),
    "a scale that is learnt": (
        lambda: Written(
            lambda s, x: s.b(torch.tanh(s.a(x)) * s.c.weight.flatten()), a=nn.Linear(4, 6), b=nn.Linear(6, 2), c=nn.Linear(6, 1)
        ),
        (4,),
    ),
}
ALL = {**NETS, **CAREFUL}


# ---- tests ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", [name for name in ALL if name != "several outputs"])
@pytest.mark.parametrize("density", [0.001, 0.1, 0.3, 1.0])
def test_outputs_stay_the_same(net: str, density: float) -> None:
    build, shape = ALL[net]
    for seed in range(3):
        check(sparse(build(), density, seed, inert=seed / 2), shape)


@settings(max_examples=40)
@given(st.sampled_from(sorted(ALL)), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**6))
def test_outputs_stay_the_same_whatever_the_weights(net: str, density: float, inert: float, seed: int) -> None:
    build, shape = ALL[net]
    check(sparse(build(), density, seed, inert=inert), shape)


SMALL = {"conv2", "conv4", "conv6", "vgg11", "vgg16", "resnet20", "resnet32"}


@pytest.mark.parametrize("name", ["mlp:20-30-10", *(name for name in MODELS if name != "mlp:W1-W2-…")])
@pytest.mark.parametrize("density", [0.02, 0.001])
def test_named_models_get_smaller_with_the_same_outputs(name: str, density: float) -> None:
    entry = find_model(name)
    shape = (entry.reference[0], 32, 32) if entry.reference[1] == 32 else (1, 16, 16)
    model = sparse(entry.build(shape, 10), density, 0)
    small = compact(model, shape)
    assert size(small) < size(model)
    assert_same_outputs(model, small, shape)
    copy.deepcopy(small).load_state_dict(small.state_dict())
    x = torch.randn(4, *shape)
    exact, single = model(x.double()), model.float()
    for module in (single, compact(single, shape)):
        assert (module(x) - exact).abs().max() <= 1e-5 * exact.abs().max()


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.01, 0.05, 0.1, 0.3]), st.booleans())
def test_every_dead_unit_of_a_stack_of_layers_is_removed(seed: int, density: float, bias: bool) -> None:
    model = sparse(linears(9, 12, 10, 8, 4, bias=bias), density, seed)
    mask, topology = Mask.of_module(model), Topology.of(model, (9,))
    small = check(model, (9,))
    names = list(mask.space.names)
    alive = [int((~dead.dead).sum()) for dead in topology.dead_units(mask).values()]
    widths = [small.get_parameter(name).shape[0] for name in names]
    assert widths == [max(1, count) for count in alive[:-1]] + [4]


def test_the_survivors_of_a_user_module_with_a_residual_add() -> None:
    model = sparse(Residual(), 1.0, 0, inert=1.0)
    with torch.no_grad():
        for layer in (model.inp, model.mid):
            layer.weight[3] = 0  # unit 3 of both branches is relu(0)
        model.mid.weight[1] = 0  # unit 1 of one branch only
    small = check(model, (4,))
    assert small.inp.out_features == small.mid.out_features == small.bn.num_features == small.out.in_features == 4
    assert size(small) < size(model)


def test_a_constant_that_differs_at_padded_borders_stays_and_a_zero_goes() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1)).double()
    with torch.no_grad():
        model[0].weight[1:] = 0
        model[0].bias[1:] = torch.tensor([0.5, -0.5])
    small = check(model, (1, 6, 6))
    assert small[0].out_channels == 2
    torch.testing.assert_close(small[0].bias, model[0].bias[:2])


def test_a_constant_image_that_is_not_flat_stays() -> None:
    act = nn.Sigmoid()
    model = nn.Sequential(nn.Conv2d(1, 2, 3), act, nn.Conv2d(2, 3, 3, padding=1), act, nn.Conv2d(3, 2, 2)).double()
    with torch.no_grad():
        model[0].weight[1] = 0  # a flat constant
        model[2].weight[0, 0] = 0  # of which this makes one that is darker at the border
        model[2].weight[1] = 0  # and this a flat one
    small = check(model, (1, 7, 7))
    assert [small[at].out_channels for at in (0, 2, 4)] == [2, 2, 2]


def test_a_constant_that_is_scaled_by_others_is_none() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Softmax(dim=1), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        model[0].weight[0] = 0
        model[2].weight[0, 1:] = 0
        model[2].bias.fill_(1)
    assert check(model, (3,))[2].out_features == 3


def test_a_bias_is_made_only_where_it_is_needed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = -1
    assert check(model, (3,))[2].bias is None
    with torch.no_grad():
        model[0].bias[2] = 1
    torch.testing.assert_close(check(model, (3,))[2].bias, model[2].weight[:, 2])


def test_a_network_without_a_path_becomes_its_constant() -> None:
    model = sparse(linears(6, 50, 40, 3), 0.0, 0)
    small = check(model, (6,))
    assert [layer.out_features for layer in small if isinstance(layer, nn.Linear)] == [1, 1, 3]


def test_units_whose_places_the_forward_counts_on_stay() -> None:
    model = sparse(CAREFUL["sizes in the forward"][0](), 1.0, 0)
    with torch.no_grad():
        model.a.weight[2] = 0
    assert check(model, (2, 5, 5)).a.out_channels == 6


def test_a_forward_that_asks_for_sizes_follows_them() -> None:
    def forward(self: Written, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.b(x.reshape(x.size(0), x.shape[1], -1).mean(-1))

    model = sparse(Written(forward, a=nn.Conv2d(2, 6, 3), b=nn.Linear(6, 3)), 1.0, 0)
    with torch.no_grad():
        model.a.weight[2] = 0
    assert check(model, (2, 5, 5)).a.out_channels == 5


def test_a_forward_that_casts_still_works() -> None:
    model = sparse(
        Written(lambda s, x: s.b(torch.tanh(s.a(x.float() / 255))), a=nn.Linear(6, 9), b=nn.Linear(9, 2)), 0.1, 3
    ).float()
    small, x = compact(model, (6,)), torch.randn(4, 6) * 255
    assert size(small) < size(model)
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)


def test_a_dense_module_is_copied_as_it_is() -> None:
    model = sparse(linears(6, 8, 3), 1.0, 0)
    small = compact(model, (6,))
    assert small is not model
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_the_given_module_the_mode_and_the_global_generator_are_left_alone(training: bool) -> None:
    model = sparse(Residual(), 0.1, 0).train(training)
    before, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    small = compact(model, (4,))
    assert small.training is model.training is training
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_compacted_module_can_be_trained() -> None:
    model = sparse(nn.Sequential(nn.Linear(5, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 2)), 0.15, 0)
    model[3].bias.requires_grad_(False)
    small = compact(model, (5,)).train()
    F.mse_loss(small(torch.randn(8, 5, dtype=torch.float64)), torch.ones(8, 2, dtype=torch.float64)).backward()
    assert not small[3].bias.requires_grad
    assert all(p.is_leaf and (p.grad is not None) == p.requires_grad for p in small.parameters())


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (Branching(), (3,), "cannot trace Branching"),
        (linears(6, 4, 2), (5,), r"shape \(5,\)"),
        (prune.l1_unstructured(nn.Linear(4, 3), "weight", 2), (4,), r"prune\.remove"),
        (nn.Sequential(nn.Linear(4, 6), nn.GLU()), (4,), "GLU"),
    ],
)
def test_what_cannot_be_compacted_is_refused_in_one_line(model: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UnsupportedLayer, match=message) as caught:
        compact(model, shape)
    assert "\n" not in str(caught.value)


def test_weights_at_taps_that_see_only_padding_do_not_hold_a_unit() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1)).double()
    with torch.no_grad():
        model[2].weight[:, 1] *= torch.tensor(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]))
    assert check(model, (1, 1, 1))[0].out_channels == 2
