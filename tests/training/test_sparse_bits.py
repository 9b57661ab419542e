"""What must not change a bit: other individuals, chunks, threads; and what the engine refuses."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evoprune.errors import EvopruneError, InputError, UnsupportedLayer
from evoprune.masks.space import MaskSpace
from evoprune.training.engines.kernels import runtime
from evoprune.training.engines.sparse import SparseEngine
from evoprune.training.engines.sparse.structure import by_row
from evoprune.training.parameters import Parameters
from tests.training.test_sparse_agrees import NETWORKS, backward, chunks_of, engine_of, gradients, masks_of, parameters_of


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(name: str, *, rows: int, samples: int = 40, spoil: int | None = None) -> tuple[Parameters, Tensor]:
    """One forward and backward pass of five individuals in float32."""
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = build()
    parameters = parameters_of(model, masks_of(MaskSpace.of(model), 5, 0.3), torch.float32)
    if spoil is not None:
        for leaf in parameters.stacked.values():
            leaf.detach()[spoil] = float("nan")
    engine = engine_of(SparseEngine, model, torch.float32)
    return parameters, backward(engine, chunks_of(engine, parameters, rows), torch.randn(samples, *shape))


def same(left: tuple[Parameters, Tensor], right: tuple[Parameters, Tensor]) -> bool:
    grads = [gradients(parameters) for parameters, _ in (left, right)]
    buffers = zip(left[0].buffers.values(), right[0].buffers.values(), strict=True)
    equal = [torch.equal(grads[0][name], grads[1][name]) for name in grads[0]]
    return torch.equal(left[1], right[1]) and all(equal) and all(torch.equal(a, b) for a, b in buffers)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("name", NETWORKS)
def test_chunks_and_threads_leave_every_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    expected = run(name, rows=5)
    assert same(run(name, rows=2), expected)
    torch.set_num_threads(2)
    assert same(run(name, rows=5), expected)
    assert same(run(name, rows=3), expected)
    monkeypatch.setattr(runtime, "_team", lambda: None)  # without an OpenMP library
    assert same(run(name, rows=5), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_nan_stays_with_its_individual(name: str) -> None:
    good, bad = run(name, rows=5), run(name, rows=5, spoil=2)
    rest = [0, 1, 3, 4]
    assert torch.equal(good[1][rest], bad[1][rest])
    assert bad[1][2].isnan().any()
    for key, leaf in bad[0].survivors.items():
        for row in rest:
            span = bad[0].span(key, row, row + 1)
            assert leaf.grad is not None
            assert torch.equal(leaf.grad[span], gradients(good[0])[key][span])
    for key, leaf in bad[0].stacked.items():
        assert torch.equal(leaf.grad[rest], gradients(good[0])[key][rest])
    for key, value in bad[0].buffers.items():
        assert torch.equal(value[rest], good[0].buffers[key][rest])


def test_graphs_can_be_kept_and_mixed_with_evaluation() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    parameters = parameters_of(model, masks_of(MaskSpace.of(model), 2, 0.8))
    engine = engine_of(SparseEngine, model)
    chunk, x = engine.chunk(parameters, 0, 2).train(), torch.randn(3, 4, dtype=torch.float64)
    chunk(x).sum().backward()
    once = gradients(parameters)
    first, second = chunk(x), chunk(2 * x)  # two graphs at a time
    with torch.no_grad():
        chunk.eval()(x[:1])
    chunk.train()
    for leaf in parameters.leaves().values():
        leaf.grad.zero_()
    second.detach()
    loss = first.sum()
    loss.backward(retain_graph=True)
    torch.testing.assert_close(gradients(parameters), once)
    loss.backward()
    torch.testing.assert_close(gradients(parameters), {name: 2 * value for name, value in once.items()})
    loss = chunk(x).sum()
    loss.backward(retain_graph=True)
    chunk(3 * x)
    with pytest.raises(EvopruneError, match="run forward again"):
        loss.backward()


def test_a_batch_that_was_changed_in_place_is_read_again() -> None:
    model = nn.Sequential(nn.Linear(4, 2)).double()
    parameters = parameters_of(model, masks_of(MaskSpace.of(model), 2, 0.8))
    chunk, x = engine_of(SparseEngine, model).chunk(parameters, 0, 2).train(), torch.randn(3, 4, dtype=torch.float64)
    before = chunk(x).detach().clone()
    x.mul_(2)
    assert not torch.equal(chunk(x), before)


class Calls(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.linear, self.what = nn.Linear(4, 4), what

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        if self.what == "function":
            return torch.cumsum(x, 1)
        if self.what == "method":
            return x.sort(1)[0]
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), "'1' (LayerNorm)"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "'0'"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, padding_mode="circular")), "circular"),
        (Calls("function"), "'cumsum'"),
        (Calls("method"), "'sort'"),
        (Calls("branch"), "traced"),
    ],
)
def test_what_has_no_kernel_is_named(model: nn.Module, names: str) -> None:
    with pytest.raises(UnsupportedLayer, match="engine='dense'") as caught:
        engine_of(SparseEngine, model, torch.float32)
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


class Unused(nn.Module):
    """Calls a layer and goes on without what it gives."""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.inp, self.out, self.layer = nn.Linear(4, 4), nn.Linear(4, 4), layer

    def forward(self, x: Tensor) -> Tensor:
        h = self.inp(x)
        torch.tanh(self.layer(h) if self.layer else torch.nn.functional.dropout(h, 0.2, self.training))
        return self.out(h)


def test_an_unused_layer_is_refused_where_running_it_changes_something() -> None:
    for layer in (nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))):
        with pytest.raises(UnsupportedLayer, match=r"the layer 'layer.*', whose output is not used: use engine='dense'"):
            engine_of(SparseEngine, Unused(layer))
    with pytest.raises(UnsupportedLayer, match=r"'dropout' in forward, whose output is not used: use engine='dense'"):
        engine_of(SparseEngine, Unused())
    for layer in (nn.BatchNorm1d(4, track_running_stats=False), nn.Dropout(0.0), nn.Linear(4, 4), nn.LayerNorm(4)):
        engine_of(SparseEngine, Unused(layer))


def test_other_types_and_empty_batches_are_refused() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(UnsupportedLayer, match="float16"):
        engine_of(SparseEngine, model, torch.float16)
    parameters = parameters_of(model, masks_of(MaskSpace.of(model), 2, 1.0), torch.float32)
    chunk = engine_of(SparseEngine, model, torch.float32).chunk(parameters, 0, 2)
    with pytest.raises(InputError, match="empty batch"):
        chunk(torch.empty(0, 3))
    with pytest.raises(InputError, match="3 batches for 2"):
        chunk(torch.empty(3, 1, 3), shared=False)


def test_infinite_activations_pass_a_relu_as_in_torch() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    masks = masks_of(MaskSpace.of(model), 1, 1.0)
    parameters = parameters_of(model, masks, torch.float32)
    x = torch.tensor([[float("inf"), 0.0], [1.0, float("nan")], [1.0, 1.0]])
    found = engine_of(SparseEngine, model, torch.float32).chunk(parameters, 0, 1).eval()(x)
    expected = F.linear(F.relu(F.linear(x, *model[0].parameters())), *model[2].parameters())
    torch.testing.assert_close(found[0], expected, equal_nan=True)


def test_a_chunk_that_nobody_holds_is_gone() -> None:
    model = nn.Sequential(nn.Linear(4, 2)).double()
    engine = engine_of(SparseEngine, model)
    chunk = engine.chunk(parameters_of(model, masks_of(MaskSpace.of(model), 2, 0.8)), 0, 2).train()
    chunk(torch.randn(3, 4, dtype=torch.float64)).sum().backward()
    gone = weakref.ref(chunk)
    del chunk
    gc.collect()
    assert gone() is None


def test_an_index_beyond_32_bits_is_refused() -> None:
    far = np.array([0, 2**31], dtype=np.int64)
    with pytest.raises(InputError, match=r"overflows 32 bits.*engine='dense'"):
        by_row([np.array([1], dtype=np.int64)], 1, far)
