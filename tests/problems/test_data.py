"""Whatever a user calls data becomes three splits: exact, repeatable, scaled by the training part, and a copy."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset, TensorDataset, random_split

from evoprune.errors import InputError, UnknownName
from evoprune.problems import Arrays, load_data
from evoprune.problems.problem import Problem
from evoprune.problems.splits import Split, batch_sizes, holdout

RANDOM = np.random.default_rng(0)


def arrays(x: np.ndarray, y: np.ndarray | None = None, tests: int = 10) -> dict[str, Any]:
    labels = {} if y is None else {"y_train": y[tests:], "y_test": y[:tests]}
    return {"x_train": x[tests:], "x_test": x[:tests], **labels}


def labelled(shape: tuple[int, ...] = (5,), samples: int = 110, classes: int = 4) -> dict[str, Any]:
    return arrays(RANDOM.normal(3, 2, (samples, *shape)), RANDOM.permutation(samples) % classes)


# ---- which samples go where -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.floats(0.05, 0.9))
def test_a_stratified_holdout_is_exact_in_total_and_per_class(counts: list[int], share: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    size = int(share * len(labels) + 0.5)
    if not 0 < size < len(labels):
        with pytest.raises(InputError, match="cannot spare"):
            holdout(len(labels), labels, share, "validation")
        return
    kept, held = holdout(len(labels), labels, share, "validation")
    assert len(held) == size
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(labels)))
    parts, exact = np.bincount(labels[held], minlength=len(counts)), np.array(counts) * size / len(labels)
    assert (np.abs(parts - exact) < 1).all() or (np.ceil(exact) == counts).any()  # seats pass on from classes that are so small
    assert (parts < counts).all() or size > len(labels) - len(counts)
    again = holdout(len(labels), labels, share, "validation")
    assert np.array_equal(held, again[1])


@pytest.mark.parametrize(
    ("counts", "parts"),
    [([100, *[1] * 9], [11, *[0] * 9]), ([6, 2, 2], [5, 1, 1]), ([4, 1, 1], [3, 0, 0]), ([2, 3], [1, 1])],
)
def test_the_last_sample_of_a_class_stays_in_training(
    counts: list[int], parts: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    _, held = holdout(len(labels), labels, sum(parts) / len(labels), "validation")
    assert np.bincount(labels[held], minlength=len(counts)).tolist() == parts
    assert not caplog.messages


def test_classes_that_cannot_stay_in_training_are_told(caplog: pytest.LogCaptureFixture) -> None:
    kept, held = holdout(10, np.arange(10), 0.2, "validation")
    assert (len(kept), len(held)) == (8, 2)
    assert caplog.messages == ["classes without a training sample left: 2; give more samples, or splits of your own"]


def test_digits_have_their_fixed_splits() -> None:
    data = load_data("digits")
    assert [len(split) for split in data.splits.values()] == [1294, 144, 359]
    assert data.train.inputs.shape[1:] == (1, 8, 8)
    counts = [torch.bincount(split.goals, minlength=10) for split in data.splits.values()]
    every = sum(counts)
    assert bool(((counts[2] - every * 359 / 1797).abs() < 1).all())
    assert bool(((counts[1] - (every - counts[2]) * 144 / 1438).abs() < 1).all())


def test_validation_samples_come_from_training_and_are_not_trained_on() -> None:
    x = np.arange(200, dtype=np.float64)[:, None]
    data = load_data(arrays(x, (np.arange(200) % 3)), standardize=False)
    train, validation, test = (set(split.inputs[:, 0].tolist()) for split in data.splits.values())
    assert not train & validation
    assert train | validation == set(range(10, 200))
    assert test == set(range(10))
    assert len(validation) == 19
    assert bool((data.validation.goals == data.validation.inputs[:, 0].long() % 3).all()), "labels go with their samples"


def test_a_validation_set_of_ones_own_is_taken_as_it_is() -> None:
    given = labelled()
    own = {"x_validation": np.full((6, 5), 3.0), "y_validation": np.arange(6) % 4}
    data = load_data({**given, **own})
    assert len(data.train) == len(given["x_train"])
    assert data.validation.goals.tolist() == [0, 1, 2, 3, 0, 1]
    with pytest.raises(InputError, match=r"validation=0\.2 does nothing beside x_validation"):
        load_data({**given, **own}, validation=0.2)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, True, "much", [0.1], float("nan")])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    with pytest.raises(InputError, match=r"validation .* is not usable"):
        load_data(labelled(), validation=share)
    with pytest.raises(InputError, match=r"validation .* is not usable"):
        load_data("digits", validation=share)


def test_a_single_sample_cannot_be_split() -> None:
    with pytest.raises(InputError, match="1 samples cannot spare"):
        load_data({"x_train": np.ones((1, 3)), "x_test": np.ones((1, 3))})


# ---- scaling ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "axes"), [((5,), (0,)), ((3, 4, 4), (0, 2, 3)), ((2, 7), (0, 2))])
def test_inputs_are_standardised_with_the_training_part_alone(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    given = labelled(shape)
    data = load_data(given)
    torch.testing.assert_close(data.train.inputs.mean(axes), torch.zeros(shape[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.inputs.var(axes, correction=0), torch.ones(shape[0]), atol=1e-4, rtol=0)
    raw = load_data(given, standardize=False)
    mean, std = (
        raw.train.inputs.double().mean(axes, keepdim=True),
        raw.train.inputs.double().var(axes, correction=0, keepdim=True).sqrt(),
    )
    for name in ("validation", "test"):
        expected = ((raw.splits[name].inputs.double() - mean) / std).float()
        torch.testing.assert_close(data.splits[name].inputs, expected, atol=1e-5, rtol=1e-5)


def test_constant_features_become_zero_and_large_offsets_keep_their_digits() -> None:
    x = np.stack([np.full(200, 0.1), 1.7e9 + np.arange(200) % 2], 1)
    data = load_data(arrays(x))
    assert float(data.train.inputs[:, 0].abs().max()) < 1e-12
    torch.testing.assert_close(data.train.inputs[:, 1].abs(), torch.ones(171), atol=0.05, rtol=0)


def test_without_standardisation_bytes_become_0_to_1_and_floats_stay() -> None:
    pixels = RANDOM.integers(0, 256, (60, 1, 3, 3), dtype=np.uint8)
    pixels[10:13, 0, 0, 0] = 0, 255, 51
    data = load_data(arrays(pixels), standardize=False)
    seen = torch.cat([data.train.inputs, data.validation.inputs])
    assert float(seen.min()) == 0
    assert float(seen.max()) == 1
    floats = RANDOM.normal(size=(60, 2)).astype(np.float32)
    assert np.array_equal(load_data(arrays(floats), standardize=False).test.inputs.numpy(), floats[:10])


def test_pixels_that_are_never_lit_stay_zero_without_standardisation(mnist_root: Path) -> None:
    data = load_data("mnist", root=mnist_root, standardize=False)
    lit = torch.cat([data.train.inputs.amax(0, keepdim=True), data.validation.inputs.amax(0, keepdim=True)]).amax(0)
    assert int((lit == 0).sum()) == 67
    assert float(lit.max()) == 1


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_token_ids_stay_what_they_are(dtype: Any) -> None:
    tokens = RANDOM.integers(0, 500, (60, 7)).astype(dtype)
    data = load_data(arrays(tokens))
    assert data.test.inputs.dtype == torch.int64
    assert np.array_equal(data.test.inputs.numpy(), tokens[:10])


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_tensors_are_taken_as_their_values(layout: torch.layout) -> None:
    given = labelled()
    sparse = {**given, "x_train": torch.as_tensor(given["x_train"]).to_sparse(layout=layout)}
    assert torch.equal(load_data(sparse).train.inputs, load_data(given).train.inputs)


def test_the_callers_arrays_and_tensors_are_neither_changed_nor_shared() -> None:
    given = {key: torch.from_numpy(value.copy()) for key, value in labelled().items()}
    given["x_train"] = given["x_train"].float().requires_grad_()
    given["x_test"] = given["x_test"].float()
    before = {key: value.detach().clone() for key, value in given.items()}
    data = load_data(given, standardize=False)
    for split in data.splits.values():
        split.inputs.zero_()
        split.goals.zero_()
    assert all(torch.equal(given[key], before[key]) for key in given)


def test_inputs_beyond_float32_are_refused() -> None:
    with pytest.raises(InputError, match="overflow float32"):
        load_data(arrays(np.full((30, 2), 1e300)), standardize=False)


# ---- labels -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_class_numbers_of_any_width_become_int64(dtype: Any) -> None:
    given = labelled()
    data = load_data({key: value.astype(dtype) if key.startswith("y") else value for key, value in given.items()})
    assert data.train.goals.dtype == torch.int64
    assert (data.classes, data.labels) == (4, "classes")


def test_floats_are_values_to_regress_and_no_labels_mean_reconstruction() -> None:
    x, y = RANDOM.normal(size=(50, 3)), RANDOM.normal(size=(50, 2))
    values = load_data(arrays(x, y))
    assert (values.labels, values.classes, values.train.goals.dtype) == ("values", None, torch.float32)
    none = load_data(arrays(x))
    assert none.labels == "none"
    assert none.train.targets is None
    assert none.train.goals is none.train.inputs


# ---- what counts as data ----------------------------------------------------------------------------------------------------


class Items(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Any:
        return iter(self.items)


class Noisy(Items):
    def __getitem__(self, index: int) -> Any:
        x, y = self.items[index]
        return x + torch.rand(3), y


def pairs(samples: int) -> list[Any]:
    return [(torch.full((3,), float(i)), i % 2) for i in range(samples)]


@pytest.mark.parametrize("kind", [Items, Stream])
def test_datasets_give_what_the_same_arrays_give(kind: Any) -> None:
    items = pairs(60)
    data = load_data((kind(items[20:]), kind(items[:20])))
    x, y = torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])
    expected = load_data({"x_train": x[20:], "y_train": y[20:], "x_test": x[:20], "y_test": y[:20]})
    assert data.digest == expected.digest
    assert torch.equal(data.train.inputs, expected.train.inputs)
    assert torch.equal(data.train.goals, expected.train.goals)


def test_three_datasets_a_mapping_of_them_and_datasets_without_labels() -> None:
    train, validation, test = (TensorDataset(torch.randn(n, 3), torch.arange(n) % 2) for n in (30, 8, 9))
    data = load_data((train, validation, test))
    assert [len(split) for split in data.splits.values()] == [30, 8, 9]
    assert load_data({"train": train, "test": test, "validation": validation}).digest == data.digest
    bare = load_data((TensorDataset(torch.randn(30, 3)), Items([torch.randn(3) for _ in range(9)])))
    assert bare.labels == "none"


class Lifted(TensorDataset):
    """Tensors, and something of its own done to them."""

    def __getitem__(self, index: Any) -> Any:
        inputs, label = super().__getitem__(index)
        return inputs + 100, label


def test_a_class_of_ones_own_over_tensors_gives_its_items() -> None:
    x, y = torch.arange(40.0).reshape(20, 2), torch.arange(20) % 2
    problem = Problem("mlp:2", (Lifted(x, y), Lifted(x, y)), standardize=False)
    assert torch.equal(problem._open_test("a test").inputs, x + 100)


def test_float64_tensors_are_of_one_kind_however_they_are_split() -> None:
    x, y = torch.rand(150, 3, dtype=torch.float64), torch.arange(150) % 3
    first, second = random_split(TensorDataset(x, y), [120, 30])
    assert len(Problem("mlp:2", (first, second, TensorDataset(x[:40], y[:40]))).split("train")) == 120


def test_grey_images_of_bytes_have_one_channel() -> None:
    x = np.random.default_rng(0).integers(0, 256, size=(60, 4, 5)).astype(np.uint8)
    x[:, 0] = 7  # a row that hardly ever changes is no channel
    y = np.arange(60) % 3
    bare, with_axis = (Problem("mlp:2", arrays(images, y)).split("train").inputs for images in (x, x[:, None]))
    assert torch.equal(bare, with_axis[:, 0])
    series = x.astype(np.float32)
    assert torch.equal(Problem("mlp:2", arrays(series, y)).split("train").inputs[:, 0], torch.zeros(len(bare), 5))


@pytest.mark.parametrize(
    ("samples", "size", "sizes"),
    [(10, 5, [5, 5]), (11, 5, [5, 3, 3]), (12, 5, [5, 5, 2]), (5, 2, [2, 3]), (1, 4, [1]), (3, 1, [1, 1, 1]), (9, 4, [4, 3, 2])],
)
def test_no_evaluation_ends_in_a_single_sample(samples: int, size: int, sizes: list[int]) -> None:
    assert batch_sizes(samples, size) == sizes
    assert sum(sizes) == samples


def test_random_transforms_act_the_same_way_every_time_and_leave_the_generators_alone() -> None:
    torch.manual_seed(0)
    first = load_data((Noisy(pairs(20)), Noisy(pairs(20))))
    following = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), following), "reading the data drew from the global generator"
    assert load_data((Noisy(pairs(20)), Noisy(pairs(20)))).digest == first.digest


def test_pictures_are_read_channels_first() -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = RANDOM.integers(0, 256, (12, 4, 6, 3), dtype=np.uint8)
    items = [(image.fromarray(picture), 0) for picture in pixels]
    data = load_data((Items(items), Items(items)), standardize=False)
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(data.test.inputs, expected)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("mnits", "did you mean 'mnist'"),
        ("data.csv", "FILE.npz"),
        (None, "NoneType is not usable"),
        (7, "int is not usable"),
        ((1, 2), "give a torch.utils.data.Dataset"),
        ((Items(pairs(9)),), "1 data sets"),
        ({"train": Items(pairs(9))}, "train, test and perhaps validation"),
        ({"train": Items(pairs(9)), "test": Items(pairs(9)), "tests": Items(pairs(9))}, "check 'tests'"),
        ((Items([]), Items(pairs(3))), "train data are empty"),
        ((Items([(1.0, 2, 3)]), Items(pairs(3))), "items of 3 parts"),
        ((Items([(torch.ones(2), 0), (torch.ones(3), 0)]), Items(pairs(3))), "different shapes"),
        ({"x_train": [[1.0], [1.0, 2.0]], "x_test": [[1.0]]}, "x_train is no array"),
        ({"x_train": np.ones((5, 2))}, "has no x_test"),
        ({}, "has no x_train"),
    ],
)
def test_what_is_no_data_is_one_clear_line(data: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load_data(data)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_of_its_own_kind() -> None:
    with pytest.raises(UnknownName, match="unknown data set 'digit': did you mean 'digits'"):
        load_data("digit")


# ---- one copy a process -----------------------------------------------------------------------------------------------------


def test_named_data_are_loaded_once_and_travel_by_name() -> None:
    data = load_data("digits")
    assert load_data("digits").train is data.train
    message = pickle.dumps(data)
    assert len(message) < 1000
    assert pickle.loads(message).train is data.train


def test_arrays_travel_whole_and_their_copies_share_memory() -> None:
    data = load_data(labelled())
    message = pickle.dumps(data)
    first, second = pickle.loads(message), pickle.loads(message)
    assert first.train is second.train
    assert torch.equal(first.test.inputs, data.test.inputs)
    assert first.digest == data.digest


def test_copies_with_and_without_labels_are_not_mixed_up() -> None:
    values = load_data(arrays(RANDOM.normal(size=(50, 3)), RANDOM.normal(size=(50, 2))))
    bare, labels = pickle.loads(pickle.dumps(values.without_labels())), pickle.loads(pickle.dumps(values))
    assert (bare.labels, labels.labels) == ("none", "values")


def test_a_machine_that_keeps_its_data_elsewhere_loads_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_root: Path
) -> None:
    (tmp_path / "MNIST").symlink_to(mnist_root / "MNIST")
    message = pickle.dumps(load_data("mnist", root=tmp_path))
    (tmp_path / "MNIST").unlink()
    tmp_path.rmdir()
    monkeypatch.setenv("EVOPRUNE_DATA", str(mnist_root))
    assert pickle.loads(message).digest == load_data("mnist").digest


def test_the_digest_knows_content_split_and_scaling() -> None:
    given = labelled()
    digest = load_data(given).digest
    assert load_data({key: value.copy() for key, value in given.items()}).digest == digest
    changed = {key: value.copy() for key, value in given.items()}
    changed["x_train"][3, 2] += 1e-9
    others = [load_data(changed), load_data(given, standardize=False), load_data(given, validation=0.2)]
    assert digest not in {other.digest for other in others}


def test_arrays_that_are_made_by_hand_are_checked_too() -> None:
    with pytest.raises(InputError, match="one label a sample"):
        Arrays("mine", np.ones((5, 2)), np.zeros(4, int), np.ones((5, 2)), np.zeros(5, int))


def test_a_split_says_what_it_holds() -> None:
    assert (
        repr(Split(torch.zeros(1200, 3), torch.zeros(1200, dtype=torch.int64)))
        == "Split(1,200 samples of shape (3,), targets: int64)"
    )
