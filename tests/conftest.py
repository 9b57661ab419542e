"""What every test shares: one thread a worker, no display, repeatable examples, and data sets that may be absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import matplotlib
import pytest
import torch

from tests.gpus import AVAILABLE, show_gpus

if not AVAILABLE:  # read when Triton is first imported: its kernels run in its interpreter then
    os.environ.setdefault("TRITON_INTERPRET", "1")

matplotlib.use("Agg")

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    torch.set_num_threads(1)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch keeps to one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_runtest_setup(item: pytest.Item) -> None:
    marked = item.get_closest_marker("cuda") is not None
    if marked and not AVAILABLE:
        pytest.skip("needs a CUDA device")
    if AVAILABLE:
        show_gpus(marked)


def _data_root(folder: str) -> Path:
    """The root of data sets that holds `folder`, or a skip that says what is missing."""
    root = os.environ.get("EVOPRUNE_DATA")
    if not root:
        pytest.skip(f"EVOPRUNE_DATA is not set: it should name the folder that holds {folder}/raw")
    if not (Path(root) / folder / "raw").is_dir():
        pytest.skip(f"EVOPRUNE_DATA={root} holds no {folder}/raw")
    return Path(root)


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """A data root with MNIST in torchvision's layout; the test is skipped where there is none."""
    return _data_root("MNIST")


@pytest.fixture(scope="session")
def fashion_mnist_root() -> Path:
    """A data root with Fashion-MNIST in torchvision's layout; the test is skipped where there is none."""
    return _data_root("FashionMNIST")
