"""A data file that is damaged, or another thing than it should be, gives one line that names it; nothing is unpickled."""

from __future__ import annotations

import gzip
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evoprune.errors import DamagedFile, InputError
from evoprune.problems import load_data
from evoprune.problems.arrays import Arrays
from evoprune.problems.cifar import BATCHES, read_archive, read_binary_folder, read_pickle_folder, read_pickled_batch
from evoprune.problems.files import check_hash, read_idx, read_npz

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
MD5 = "md5:" + "0" * 32


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def one_line(caught: pytest.ExceptionInfo[Exception], path: Path) -> None:
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_read_gzipped_or_plain(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(idx(IMAGES), mtime=0) if suffix else idx(IMAGES))
    assert np.array_equal(read_idx(path, 3), IMAGES)


ZIPPED = gzip.compress(idx(IMAGES), mtime=0)  # no clock in what names a test: every worker must collect the same


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cut.gz", ZIPPED[: len(ZIPPED) // 2], "cut short"),
        ("flipped.gz", ZIPPED[:14] + bytes([ZIPPED[14] ^ 255]) + ZIPPED[15:], "cut short or no gzip"),
        ("text.gz", b"hello", "no gzip"),
        ("empty.gz", b"", "begins with nothing"),
        ("labels", idx(IMAGES[0, 0]), "no IDX file of 3 dimensions"),
        ("cut", idx(IMAGES)[:-1], "has 23 values, its header promises 24"),
        ("long", idx(IMAGES) + b"x", "has 25 values"),
        ("header", idx(IMAGES)[:9], "no IDX file"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=says) as caught:
        read_idx(path, 3)
    one_line(caught, path)


def test_a_missing_file_and_another_hash_are_named(tmp_path: Path) -> None:
    path = tmp_path / "images"
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_idx(path, 3)
    one_line(caught, path)
    path.write_bytes(b"something")
    with pytest.raises(DamagedFile, match=r"md5 437b930db84b8079c2dd804a71936b5f, expected 000") as caught:
        check_hash(path, MD5)
    one_line(caught, path)


def good() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "x_train": random.normal(size=(40, 5)),
        "y_train": np.arange(40) % 4,
        "x_test": random.normal(size=(8, 5)),
        "y_test": np.arange(8) % 4,
    }


def test_an_npz_is_a_data_set(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", **good(), comment=np.array("other arrays are ignored"))
    data = load_data(tmp_path / "good.npz")
    assert (len(data.train), len(data.validation), len(data.test), data.classes) == (36, 4, 8, 4)
    np.savez(tmp_path / "good.npz", **{**good(), "x_test": np.ones((3, 5)), "y_test": np.zeros(3, int)})
    assert len(load_data(str(tmp_path / "good.npz")).test) == 3, "a file written again is read again"


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x_train": np.full((40, 5), np.nan)}, "x_train holds NaN or infinity .first in sample 0"),
        ({"x_train": np.full((40, 5), "a")}, "x_train holds text"),
        ({"x_train": np.array([Bomb()], dtype=object)}, "never unpickled"),
        ({"x_train": np.ones((40, 5), complex)}, "complex"),
        ({"x_train": np.ones(40)}, r"shape \(40,\)"),
        ({"x_train": np.ones((39, 5))}, "one label a sample"),
        ({"x_test": np.ones((8, 6))}, "give all splits in one form"),
        ({"y_train": np.arange(40) % 4 - 1}, "the label -1: class numbers start at 0"),
        ({"y_train": np.full(40, "cat")}, "y_train holds text"),
        ({"y_train": np.eye(40, dtype=int)}, "one-hot"),
        ({"y_test": np.linspace(0, 1, 8)}, "y_test has values"),
        ({"x_train": None}, "has no x_train"),
        ({"x_test": None}, "has no x_test"),
        ({"y_test": None}, "both be there"),
        ({"x_valid": np.ones((4, 5))}, "did you mean 'x_validation'"),
        ({"y_validation": np.zeros(4, int)}, "no x_validation"),
    ],
)
def test_a_bad_npz_says_what_is_wrong(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **{key: value for key, value in {**good(), **change}.items() if value is not None})
    with pytest.raises(InputError, match=says) as caught:
        load_data(path)
    one_line(caught, Path(path.name))


def test_a_damaged_npz_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **good())
    whole = path.read_bytes()
    for content in (b"not an archive", b"", whole[:200], whole[:150] + b"\x00" * 60 + whole[210:], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DamagedFile) as caught:
            read_npz(path)
        one_line(caught, path)
    with pytest.raises(InputError, match="there is no file"):
        load_data(tmp_path / "none.npz")
    np.save(tmp_path / "single.npy", IMAGES)
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    with pytest.raises(DamagedFile, match="single array"):
        load_data(tmp_path / "single.npz")


# ---- CIFAR-10, with batches of 4 pictures ----------------------------------------------------------------------------------


@pytest.fixture
def batches() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    return {name: (random.integers(0, 256, (4, 3072), dtype=np.uint8), random.integers(0, 10, 4)) for name in BATCHES}


def write_binary(folder: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    folder.mkdir(parents=True)
    for name, (pixels, labels) in batches.items():
        (folder / f"{name}.bin").write_bytes(np.column_stack([labels.astype(np.uint8), pixels]).tobytes())


def old_pickle(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """A batch as Python 2 and the numpy of its day wrote it, opcode by opcode: a dict of text, an array and a list."""

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(value)) + value

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R("
    dtype += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = number(pixels.shape[0]) + number(pixels.shape[1]) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R("
    array += number(1) + shape + dtype + b"\x89" + text(pixels.tobytes()) + b"tb"
    numbers = b"](" + b"".join(number(int(label)) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"batch_label") + text(b"one") + text(b"labels") + numbers + text(b"data") + array + b"u."


def as_expected(arrays: Arrays, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    assert arrays.x_train.shape == (20, 3, 32, 32)
    assert np.array_equal(arrays.x_train[4:8].reshape(4, -1), batches["data_batch_2"][0])
    assert np.array_equal(arrays.x_test.reshape(4, -1), batches["test_batch"][0])
    assert arrays.y_test is not None
    assert np.array_equal(arrays.y_test, batches["test_batch"][1])


def test_cifar_is_the_same_from_folder_and_archive(tmp_path: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    import tarfile

    write_binary(tmp_path / "cifar-10-batches-bin", batches)
    as_expected(read_binary_folder(tmp_path / "cifar-10-batches-bin", records=4), batches)
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
    as_expected(read_archive(tmp_path / "all.tar.gz", records=4), batches)
    raw = (tmp_path / "all.tar.gz").read_bytes()
    (tmp_path / "all.tar.gz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DamagedFile) as caught:
        read_archive(tmp_path / "all.tar.gz", records=4)
    one_line(caught, tmp_path / "all.tar.gz")


def test_a_damaged_cifar_batch_is_named(tmp_path: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    batches["data_batch_3"] = batches["data_batch_3"][0][:3], batches["data_batch_3"][1][:3]
    write_binary(tmp_path / "short", batches)
    with pytest.raises(DamagedFile, match=r"data_batch_3\.bin has 9,219 bytes, 12,292 are expected"):
        read_binary_folder(tmp_path / "short", records=4)
    batches["data_batch_1"][1][2] = 77
    write_binary(tmp_path / "labels", batches)
    with pytest.raises(DamagedFile, match=r"data_batch_1\.bin holds the label 77"):
        read_binary_folder(tmp_path / "labels", records=4)


def write_pickles(folder: Path, contents: dict[str, bytes]) -> dict[str, str]:
    import hashlib

    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: f"md5:{hashlib.md5(content).hexdigest()}" for name, content in contents.items()}


def test_the_old_pickles_of_these_tests_are_what_numpy_reads(batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    pixels, labels = batches["test_batch"]
    with warnings.catch_warnings(action="ignore"):
        batch = pickle.loads(old_pickle(pixels, labels), encoding="bytes")
    assert np.array_equal(batch[b"data"], pixels)
    assert batch[b"labels"] == labels.tolist()


def test_torchvisions_pickles_are_read_without_unpickling(
    tmp_path: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    hashes = write_pickles(folder, {name: old_pickle(*batch) for name, batch in batches.items()})
    as_expected(read_pickle_folder(folder, hashes=hashes, records=4), batches)
    with pytest.raises(DamagedFile, match="expected c99cafc152244af753f735de768cd75f"):
        read_pickle_folder(folder, records=4)  # not the published files


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps(Bomb()), "builtins.exec, which is refused"),
        (pickle.dumps({b"data": Bomb(), b"labels": [0]}), "builtins.exec, which is refused"),
        (pickle.dumps({b"labels": [0, 1, 2, 3]}), "no batch of CIFAR-10"),
        (pickle.dumps([1, 2]), "no batch"),
        (b"", "no batch"),
        (old_pickle(IMAGES.reshape(4, 6), np.arange(4)), r"holds pixels \(4, 6\)"),
    ],
)
def test_a_pickle_that_is_no_batch_is_refused_and_runs_nothing(tmp_path: Path, content: bytes, says: str) -> None:
    hashes = write_pickles(tmp_path / "py", {"data_batch_1": content})
    with pytest.raises(DamagedFile, match=says) as caught:
        read_pickled_batch(tmp_path / "py" / "data_batch_1", hashes["data_batch_1"], 4)
    one_line(caught, tmp_path / "py" / "data_batch_1")
