"""Losses of k networks at once are the losses of k single networks."""

from __future__ import annotations

import copy
import functools
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evoprune.errors import InputError, UnknownName
from evoprune.problems.losses import LOSSES, UserLoss, accuracy, find_loss, hits
from evoprune.problems.problem import Problem

K, B, C = 3, 5, 4


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(K, B, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def classes() -> Tensor:
    return torch.tensor([0, 3, 1, 1, 2])


def test_cross_entropy_of_k_networks_is_that_of_each(logits: Tensor, classes: Tensor) -> None:
    losses = LOSSES["cross_entropy"].per_sample(logits, classes)
    one_by_one = torch.stack([functional.cross_entropy(row, classes, reduction="none") for row in logits])
    torch.testing.assert_close(losses, one_by_one)


def test_targets_of_each_network_are_its_own(logits: Tensor, classes: Tensor) -> None:
    own = torch.stack([classes, classes.flip(0), (classes + 1) % C])
    losses = LOSSES["cross_entropy"].per_sample(logits, own)
    one_by_one = torch.stack([functional.cross_entropy(row, y, reduction="none") for row, y in zip(logits, own, strict=True)])
    torch.testing.assert_close(losses, one_by_one)
    assert hits(logits, own).shape == (K, B)


def test_mse_is_the_mean_over_the_features_of_a_sample_whatever_their_shape() -> None:
    outputs, images = torch.randn(K, B, 12), torch.randn(B, 3, 2, 2)
    losses = LOSSES["mse"].per_sample(outputs, images)
    torch.testing.assert_close(losses, ((outputs - images.reshape(1, B, 12)) ** 2).mean(-1))
    own = torch.randn(K, B, 3, 2, 2)
    torch.testing.assert_close(LOSSES["mse"].per_sample(outputs, own), ((outputs - own.reshape(K, B, 12)) ** 2).mean(-1))


def test_mse_of_single_values_is_not_broadcast() -> None:
    outputs, values = torch.randn(K, B, 1), torch.randn(B)
    torch.testing.assert_close(LOSSES["mse"].per_sample(outputs, values), (outputs[..., 0] - values) ** 2)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_users_loss_gives_what_it_gives_for_each_network(logits: Tensor, classes: Tensor, reduction: str) -> None:
    loss = find_loss(nn.CrossEntropyLoss(label_smoothing=0.1, reduction=reduction), "accuracy")
    each = [functional.cross_entropy(row, classes, label_smoothing=0.1, reduction=reduction) for row in logits]
    expected = torch.stack([row.expand(B) for row in each])
    torch.testing.assert_close(loss.per_sample(logits, classes), expected)


def test_a_users_loss_with_python_control_flow_is_applied_one_by_one(logits: Tensor, classes: Tensor) -> None:
    def moody(outputs: Tensor, targets: Tensor) -> Tensor:
        factor = 2.0 if float(outputs.detach().sum()) > 0 else 1.0  # vmap cannot do this
        return factor * functional.cross_entropy(outputs, targets)

    losses = UserLoss(moody, "accuracy").per_sample(logits.requires_grad_(), classes)
    torch.testing.assert_close(losses[:, 0], torch.stack([moody(row, classes) for row in logits]))
    losses.sum().backward()
    assert logits.grad is not None


def test_a_users_loss_sees_values_in_the_shape_of_the_outputs() -> None:
    outputs, values = torch.randn(K, B, 1), torch.randn(B)
    losses = UserLoss(nn.MSELoss(), "mse").per_sample(outputs, values)  # (B, 1) against (B,) would be broadcast
    torch.testing.assert_close(losses[:, 0], ((outputs[..., 0] - values) ** 2).mean(-1))


def test_a_loss_of_a_wrong_shape_or_that_fails_is_one_clear_line(logits: Tensor, classes: Tensor) -> None:
    with pytest.raises(InputError, match="return the mean or one loss a sample"):
        UserLoss(lambda outputs, targets: outputs, "accuracy").per_sample(logits, classes)
    with pytest.raises(InputError, match="boom"):
        UserLoss(_boom, "accuracy").per_sample(logits, classes)


def summed(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.mse_loss(outputs, targets, reduction="sum")


ZEROS = {"x_train": np.zeros((60, 4), np.float32), "y_train": np.zeros(60), "x_test": np.zeros((9, 4), np.float32)} | {
    "y_test": np.zeros(9)
}


def test_a_sum_over_the_samples_is_refused_and_a_mean_is_not() -> None:
    """Its value would depend on the size of the batch."""
    one = {name: value + 1 for name, value in ZEROS.items()}
    for data, loss in (("digits", nn.CrossEntropyLoss(reduction="sum")), (one, summed)):
        with pytest.raises(InputError, match="doubles with the samples: give reduction='mean' or 'none'"):
            Problem("mlp:4", data, loss=loss)
    for loss in (nn.MSELoss(), nn.MSELoss(reduction="none")):
        for data in (one, ZEROS):  # of zeros everything is 0
            Problem("mlp:4", data, loss=lambda outputs, targets, loss=loss: loss(outputs, targets).squeeze())
    Problem("mlp:4", ZEROS, loss=summed)


def test_a_loss_with_weights_of_its_own_is_refused() -> None:
    loss = nn.Sequential(nn.Linear(2, 1))
    with pytest.raises(InputError, match="has weights to train: only the model trains"):
        find_loss(loss, "mse")
    assert find_loss(loss.requires_grad_(False), "mse").metric == "mse"


def _boom(outputs: Tensor, targets: Tensor) -> Tensor:
    raise RuntimeError("boom")


class Weighted(nn.Module):
    """Frozen parameters in place of buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, weight=self.weight)


@pytest.mark.parametrize("module", [nn.CrossEntropyLoss(weight=torch.ones(3)), Weighted()])
def test_what_a_loss_holds_follows_the_outputs_to_their_device(module: nn.Module) -> None:
    loss = find_loss(module, "accuracy")
    for each in (loss, pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        far = each.per_sample(torch.empty(2, 5, 3, device="meta"), torch.zeros(5, dtype=torch.int64, device="meta"))
        assert (far.shape, far.device.type) == ((2, 5), "meta")
        near = each.per_sample(torch.zeros(2, 5, 3), torch.zeros(5, dtype=torch.int64))
        assert near.flatten().tolist() == pytest.approx([math.log(3)] * 10)


def test_the_mean_of_a_loss_of_ones_own_is_not_called_mse() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).astype(np.float32)
    data = {"x_train": x[:60], "y_train": x[:60].sum(1), "x_test": x[60:], "y_test": x[60:].sum(1)}
    assert [Problem("mlp:4", data, loss=loss).metric for loss in (None, "mse", nn.L1Loss())] == ["mse", "mse", "loss"]


def test_names_tell_losses_apart() -> None:
    assert find_loss("mse", "mse").name == "mse"
    assert find_loss(functional.mse_loss, "mse").name != "mse"
    smooth, hard = (functools.partial(functional.cross_entropy, label_smoothing=s) for s in (0.1, 0.0))
    assert find_loss(smooth, "accuracy").name != find_loss(hard, "accuracy").name
    with pytest.raises(UnknownName, match="did you mean 'cross_entropy'"):
        find_loss("crossentropy", "accuracy")


class Focal(nn.Module):
    """A user's own loss, with an option, values and a part."""

    def __init__(self, gamma: float, scale: float = 1.0, smoothing: float = 0.0) -> None:
        super().__init__()
        self.gamma, self.inner = gamma, nn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing)
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        values: Tensor = self.inner(outputs, targets)
        return self.scale * (1 - (-values).exp()) ** self.gamma * values


def scaled(factor: float, outputs: Tensor, targets: Tensor) -> Tensor:
    return factor * functional.cross_entropy(outputs, targets)


WEIGHTS = torch.ones(C), torch.tensor([1.0, 1.0, 1.0, 2.0])
UNLIKE: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "option": (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(label_smoothing=0.4)),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHTS[0]), nn.CrossEntropyLoss(weight=WEIGHTS[1])),
    "own option": (Focal(1.0), Focal(2.0)),
    "own parameter": (Focal(1.0, 1.0), Focal(1.0, 3.0)),
    "option of a part": (Focal(1.0), Focal(1.0, smoothing=0.1)),
    "positional argument": (functools.partial(scaled, 1.0), functools.partial(scaled, 2.0)),
    "tensor in a partial": (
        functools.partial(functional.cross_entropy, weight=torch.ones(2000).index_fill(0, torch.tensor([1000]), 2.0)),
        functools.partial(functional.cross_entropy, weight=torch.ones(2000)),  # both print as [1, 1, 1, ..., 1, 1, 1]
    ),
    "module in a partial": (functools.partial(Focal(1.0)), functools.partial(Focal(2.0))),
}


@pytest.mark.parametrize("what", UNLIKE)
def test_options_and_values_tell_losses_apart(what: str) -> None:
    one, other = (find_loss(loss, "accuracy").name for loss in UNLIKE[what])
    assert one != other
    assert [find_loss(copy.deepcopy(loss), "accuracy").name for loss in UNLIKE[what]] == [one, other]


def test_the_name_of_a_loss_is_the_same_in_every_process() -> None:
    name = find_loss(nn.CrossEntropyLoss(weight=WEIGHTS[1], label_smoothing=0.1), "accuracy").name
    options = "ignore_index=-100, label_smoothing=0.1, reduction='mean'"
    assert name == f"custom:CrossEntropyLoss({options}, weight=torch.float32[4]:3babf4846c60fa4a)"


def test_a_loss_that_holds_itself_has_a_name() -> None:
    loss = Focal(1.0)
    loss.owners = [loss]  # type: ignore[assignment]
    assert "owners=[Focal]" in find_loss(loss, "accuracy").name


def test_copies_of_a_registered_loss_are_the_registered_one() -> None:
    for loss in LOSSES.values():
        assert copy.deepcopy(loss) is loss
        assert pickle.loads(pickle.dumps(loss)) is loss


def test_accuracy_counts_largest_outputs_and_never_a_nan(logits: Tensor, classes: Tensor) -> None:
    perfect = functional.one_hot(classes, C).double().expand(K, B, C).clone()
    assert accuracy(perfect, classes).tolist() == [1.0, 1.0, 1.0]
    perfect[1] = float("nan")
    perfect[2, 0] = perfect[2, 0].flip(0)
    assert accuracy(perfect, classes).tolist() == pytest.approx([1.0, 0.0, 0.8])
