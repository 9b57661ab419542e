"""Mask files come back as they were, or say in one line what is wrong."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from evoprune.errors import DamagedFile, EvopruneError, InputError, MaskMismatch
from evoprune.files import atomic_write, read_tensors, write_tensors
from evoprune.masks.files import decode, describe, encode, load_mask, save_mask, space_of
from evoprune.masks.mask import Mask
from evoprune.masks.space import MaskSpace

SPACE = MaskSpace(("0.weight", "2.weight", "conv.weight"), ((30, 40), (7, 30), (4, 3, 3, 3)))


def random_mask(space: MaskSpace, densities: tuple[float, ...], seed: int = 0) -> Mask:
    rng = np.random.default_rng(seed)
    return Mask(space, [np.flatnonzero(rng.random(size) < d) for size, d in zip(space.sizes, densities, strict=True)])


densities = st.sampled_from([0.0, 0.001, 0.02, 0.3, 0.5, 0.97, 0.999, 1.0])


@given(st.tuples(densities, densities, densities), st.integers(0, 99))
def test_encode_and_decode_are_inverse_and_small(density: tuple[float, ...], seed: int) -> None:
    mask = random_mask(SPACE, density, seed)
    arrays = encode(mask)
    assert decode(SPACE, arrays, hash=mask.hash) == mask
    for array, size, count in zip(arrays.values(), SPACE.sizes, mask.counts, strict=True):
        assert array.nbytes <= min(4 * count, -(-size // 8), 4 * (size - count))


def test_a_full_mask_costs_no_bytes_and_huge_layers_get_wide_indices() -> None:
    assert sum(array.nbytes for array in encode(Mask.full(SPACE)).values()) == 0
    huge = Mask(MaskSpace(("a",), ((2**17, 2**17),)), [np.array([5, 2**33])])
    assert encode(huge)["kept/a"].dtype == np.uint64
    assert decode(huge.space, encode(huge)) == huge


def test_a_mask_file_comes_back_with_equal_bytes_for_equal_masks(tmp_path: Path) -> None:
    mask = random_mask(SPACE, (0.01, 0.4, 1.0))
    first, second = save_mask(mask, tmp_path / "a"), save_mask(mask, str(tmp_path / "b"))
    assert load_mask(first) == load_mask(second, SPACE) == mask
    assert load_mask(first).hash == mask.hash
    assert first.read_bytes() == second.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = save_mask(random_mask(SPACE, (0.01, 0.4, 1.0)), tmp_path / "mask.safetensors")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match=r"mask\.safetensors.*the mask"):
            load_mask(path, SPACE)


def test_every_altered_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    mask = random_mask(SPACE, (0.01, 0.4, 0.9))
    path = save_mask(mask, tmp_path / "mask")
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with suppress(DamagedFile):
            assert load_mask(path) == mask  # the spare bits of packed bytes


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"w": np.ones(3)}, path)
    with pytest.raises(DamagedFile, match=r"weights.*no evoprune\.mask file"):
        load_mask(path)
    write_tensors(path, {}, {"format": "evoprune.ticket", "version": 1})
    with pytest.raises(DamagedFile, match=r"evoprune\.ticket"):
        load_mask(path)
    write_tensors(path, {}, {"format": "evoprune.mask", "version": 99})
    with pytest.raises(DamagedFile, match="upgrade"):
        load_mask(path)
    for header in ["[]", "3", "null", "{", '{"format": "evoprune.mask", "version": "x"}']:
        save_file({"w": np.ones(3)}, path, {"evoprune": header})
        with pytest.raises(DamagedFile):
            load_mask(path)
    with pytest.raises(InputError, match="cannot read"):
        load_mask(tmp_path / "absent")
    with pytest.raises(InputError, match="cannot read"):
        load_mask(tmp_path)


def test_a_mask_of_another_model_is_refused_with_the_difference(tmp_path: Path) -> None:
    path = save_mask(Mask.full(SPACE), tmp_path / "mask")
    cases = {
        r"shape \(7, 30\)": MaskSpace(SPACE.names, ((30, 40), (8, 30), (4, 3, 3, 3))),
        "no layer '1.weight'": MaskSpace(("0.weight", "1.weight", "conv.weight"), SPACE.shapes),
        "a layer 'conv.weight' that": MaskSpace(SPACE.names[:2], SPACE.shapes[:2]),
        "another order": MaskSpace(SPACE.names[::-1], SPACE.shapes[::-1]),
    }
    for message, space in cases.items():
        with pytest.raises(MaskMismatch, match=message):
            load_mask(path, space)


def test_decode_refuses_what_encode_never_gives() -> None:
    full = encode(Mask.full(SPACE))
    for array in [
        np.array([3, 3], np.uint32),
        np.array([1200], np.uint32),
        np.array([-1]),
        np.array([0.5]),
        np.zeros((1, 1), np.uint32),
    ]:
        for form in ("kept", "pruned"):
            others = {name: value for name, value in full.items() if "0.weight" not in name}
            with pytest.raises(DamagedFile, match=r"run/t\.st.*0\.weight"):
                decode(SPACE, {**others, f"{form}/0.weight": array}, source="run/t.st")
    with pytest.raises(DamagedFile, match="missing"):
        decode(SPACE, {})
    with pytest.raises(DamagedFile, match="hash"):
        decode(SPACE, full, hash="0")
    with pytest.raises(DamagedFile):
        space_of({**describe(Mask.full(SPACE)), "shapes": [[10**9, 10**9]] * 3})


def test_a_mask_travels_among_other_tensors(tmp_path: Path) -> None:
    mask = random_mask(SPACE, (0.1, 0.5, 0.02))
    path = tmp_path / "bundle"
    weights = {"weights/0.weight": np.ones((2, 3), np.float32)}
    write_tensors(path, {**weights, **encode(mask)}, {"format": "bundle", "version": 3, "more": [1, None], **describe(mask)})
    tensors, header = read_tensors(path, format="bundle", version=3, lost="the bundle")
    assert decode(space_of(header), tensors, hash=header["hash"]) == mask
    assert header["more"] == [1, None]
    np.testing.assert_array_equal(load_file(path)["weights/0.weight"], weights["weights/0.weight"])


def test_a_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def writer(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, writer)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    atomic_write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in [tmp_path, tmp_path / "absent" / "mask", tmp_path / "file" / "mask", tmp_path / ("x" * 300)]:
        with pytest.raises(InputError, match="cannot write") as caught:
            atomic_write(path, b"")
        assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_no_fault_of_the_arguments(tmp_path: Path) -> None:
    def writer(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(EvopruneError, match="No space left") as caught:
        atomic_write(tmp_path / "file", writer)
    assert not isinstance(caught.value, InputError)
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    atomic_write(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"
