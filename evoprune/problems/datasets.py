"""The data sets that have a name. To add one: a function `(root) -> Arrays` under `@DATASETS.register(name)`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from evoprune.errors import DamagedFile
from evoprune.problems import cifar
from evoprune.problems.arrays import Array, Arrays
from evoprune.problems.fetch import Source, locate
from evoprune.problems.files import read_idx
from evoprune.problems.splits import holdout
from evoprune.registry import Registry

__all__ = ["DATASETS", "FASHION_MNIST", "KMNIST", "MNIST", "Loader", "idx_images"]

Loader = Callable[[Path | None], Arrays]
DATASETS: Registry[Loader] = Registry("data set")

CLASSES = 10
IDX = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


def _idx_source(folder: str, url: str, *hashes: str) -> Source:
    return Source(f"{folder}/raw", url, dict(zip(IDX, hashes, strict=True)))


MNIST = _idx_source(
    "MNIST",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
FASHION_MNIST = _idx_source(
    "FashionMNIST",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
KMNIST = _idx_source(
    "KMNIST",
    "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    "md5:bdb82020997e1d708af4cf47b453dcf7",
    "md5:e144d726b3acfaa3e44228e80efcd344",
    "md5:5c965bf0a639b31b8f53240b1b52f4d7",
    "md5:7320c461ea6c1c855c0b718fb2a4b134",
)


@DATASETS.register("digits")
def digits(root: Path | None = None) -> Arrays:
    """1,797 handwritten digits of 8x8 pixels, 10 classes, 359 for the test; comes with scikit-learn (UCI, CC BY 4.0)"""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images[:, None].astype(np.float32), bunch.target
    train, test = holdout(len(labels), labels, 0.2, "digits test")
    return Arrays("digits", images[train], labels[train], images[test], labels[test])


@DATASETS.register("mnist")
def mnist(root: Path | None = None) -> Arrays:
    """70,000 handwritten digits of 28x28 pixels, 10 classes, 10,000 for the test (LeCun, Cortes, Burges; CC BY-SA 3.0)"""
    return idx_images("mnist", MNIST, root)


@DATASETS.register("fashion-mnist")
def fashion_mnist(root: Path | None = None) -> Arrays:
    """70,000 pictures of clothing of 28x28 pixels, 10 classes, 10,000 for the test (Zalando SE; MIT)"""
    return idx_images("fashion-mnist", FASHION_MNIST, root)


@DATASETS.register("kmnist")
def kmnist(root: Path | None = None) -> Arrays:
    """70,000 cursive Japanese characters of 28x28 pixels, 10 classes, 10,000 for the test (CODH; CC BY-SA 4.0)"""
    return idx_images("kmnist", KMNIST, root)


@DATASETS.register("cifar10")
def cifar10(root: Path | None = None) -> Arrays:
    """60,000 colour pictures of 32x32 pixels, 10 classes, 10,000 for the test (A. Krizhevsky; no licence stated)"""
    return cifar.load(root)


def idx_images(name: str, source: Source, root: Path | None, *, base_url: str | None = None) -> Arrays:
    """A data set of four IDX files (see `locate`), images as uint8 `(N, 1, H, W)`, 10 classes."""
    paths = [locate(source, file, root, base_url=base_url) for file in IDX]
    parts: list[Array] = []
    for images_path, labels_path in (paths[:2], paths[2:]):
        images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
        if len(images) != len(labels):
            raise DamagedFile(f"{labels_path} has {len(labels)} labels for {len(images)} images: fetch both again")
        if labels.max(initial=0) >= CLASSES:
            raise DamagedFile(f"{labels_path} holds the label {labels.max()}, {name} has 0 to 9: delete it and fetch it again")
        parts += [images[:, None], labels]
    x_train, y_train, x_test, y_test = parts
    return Arrays(name, x_train, y_train, x_test, y_test)
