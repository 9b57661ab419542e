"""The named models: sizes as published, weights from a seed alone, structures that engines can use."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import nn

from evoprune.errors import InputError, UnknownName
from evoprune.masks.space import MaskSpace
from evoprune.problems.models import MODELS, find_model, he_normal_, model_table

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
PRUNABLE = {
    ("lenet-300-100", GREY): 266_200,
    ("mlp:300-100", GREY): 266_200,
    ("mlp:20", (7,)): 7 * 20 + 20 * 10,
    ("autoencoder", GREY): 536_800,
    ("lenet5", GREY): 430_500,
    ("conv2", COLOUR): 4_300_992,
    ("conv4", COLOUR): 2_425_024,
    ("conv6", COLOUR): 2_261_184,
    ("vgg11", COLOUR): 9_222_848,
    ("vgg16", COLOUR): 14_715_584,
    ("resnet20", COLOUR): 268_336,
    ("resnet32", COLOUR): 461_872,
}


def build(name: str, inputs: tuple[int, ...], outputs: int = 10) -> nn.Module:
    return find_model(name).build(inputs, outputs)


@pytest.mark.parametrize(("name", "inputs"), PRUNABLE)
def test_prunable_weights_are_the_published_number(name: str, inputs: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert MaskSpace.of(build(name, inputs)).prunable == PRUNABLE[name, inputs]


def test_the_table_has_every_model_with_its_size() -> None:
    rows = {row["name"]: row for row in model_table()}
    assert set(rows) == set(MODELS)
    assert rows["lenet5"]["prunable"] == 430_500
    assert rows["mlp:W1-W2-…"]["prunable"] == 266_200
    assert all(row["doc"] for row in rows.values())


SMALL = {
    "conv2": (3, 8, 8),
    "conv6": (1, 8, 8),
    "lenet5": (1, 16, 16),
    "resnet20": (3, 8, 8),
    "vgg11": (1, 32, 32),
    "mlp:9-8": (5,),
}


@pytest.mark.parametrize("name", SMALL)
def test_models_can_be_traced_and_mapped_over_stacked_weights(name: str) -> None:
    module = he_normal_(build(name, SMALL[name]), torch.Generator().manual_seed(0)).eval()
    x = torch.randn(2, *SMALL[name])
    expected = module(x)
    assert expected.shape == (2, 10)
    torch.testing.assert_close(torch.fx.symbolic_trace(module)(x), expected)
    stacked = {key: value.detach().expand(2, *value.shape) for key, value in module.state_dict().items()}
    mapped = torch.vmap(lambda weights: torch.func.functional_call(module, weights, (x,)))(stacked)
    torch.testing.assert_close(mapped, torch.stack([expected, expected]), rtol=1e-4, atol=1e-5)


def test_an_autoencoder_gives_back_as_many_numbers_as_it_takes() -> None:
    assert build("autoencoder", (1, 8, 8), 64)(torch.randn(2, 1, 8, 8)).shape == (2, 64)


def test_he_normal_weights_have_the_variance_of_the_fan_in_and_biases_are_zero() -> None:
    module = he_normal_(build("conv4", COLOUR), torch.Generator().manual_seed(3))
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            fan_in = prod(layer.weight.shape[1:])
            assert float(layer.weight.detach().var()) * fan_in / 2 == pytest.approx(1, abs=5 * (2 / layer.weight.numel()) ** 0.5)
            assert layer.bias is not None
            assert not layer.bias.any()


def test_he_normal_resets_norms_and_depends_on_its_generator_alone() -> None:
    def draw(seed: int, others: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(others)
        return he_normal_(build("resnet20", (3, 8, 8)), torch.Generator().manual_seed(seed)).state_dict()

    first, again, other = draw(1, 5), draw(1, 6), draw(2, 5)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    assert bool((first["1.weight"] == 1).all())
    assert bool((first["1.running_var"] == 1).all())


def test_option_a_shortcuts_have_no_weights_and_keep_the_channels_they_had() -> None:
    module = build("resnet20", COLOUR)
    [shortcut] = [
        block.shortcut for block in module if getattr(block, "shortcut", None) is not None and block.conv1.stride == (2, 2)
    ][:1]
    x = torch.randn(2, 16, 8, 8)
    y = shortcut(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()
    assert not list(shortcut.parameters())


@pytest.mark.parametrize(("name", "least"), [("lenet5", 16), ("conv2", 2), ("conv6", 8), ("vgg16", 32), ("resnet20", 4)])
def test_images_that_would_vanish_are_refused_and_the_least_size_works(name: str, least: int) -> None:
    with pytest.raises(InputError, match=f"images too small for {name}.*at least {least}x{least}"):
        build(name, (1, least - 1, least))
    assert build(name, (1, least, least)).eval()(torch.randn(1, 1, least, least)).shape == (1, 10)


def test_a_convolutional_model_on_vectors_is_refused() -> None:
    with pytest.raises(InputError, match=r"conv4 needs images .*\(64,\): take an mlp"):
        build("conv4", (64,))


@pytest.mark.parametrize("name", ["mlp:", "mlp:30-x", "mlp:0", "mlp:-5", "mlp:30-", "mlp:99999999", "mlp:1e3", "mlp:²"])
def test_a_bad_width_is_named(name: str) -> None:
    with pytest.raises(InputError, match="has the width"):
        find_model(name)


def test_an_unknown_model_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'resnet20'"):
        find_model("resnet-20")
    with pytest.raises(UnknownName, match="mlp:300-100"):
        find_model("mlp")
