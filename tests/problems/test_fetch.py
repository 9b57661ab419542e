"""Data sets are found in a folder of the user's, else fetched once from a real HTTP server, with checked hashes."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from evoprune.errors import DamagedFile, InputError
from evoprune.problems.arrays import Arrays
from evoprune.problems.datasets import DATASETS, IDX, MNIST, idx_images
from evoprune.problems.fetch import Source, cache_folder


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, keeps what was asked for, and cuts short what is called so."""

    asked: list[str]

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/broken/"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half")
            return
        super().do_GET()

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    (tmp_path / "home").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "home"))) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EVOPRUNE_MIRROR", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return cache_folder()


def url(server: ThreadingHTTPServer, folder: str = "tiny") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{folder}/"


def tiny(folder: Path) -> Source:
    """Four small IDX files in `folder`, and the source that knows them."""
    random, hashes = np.random.default_rng(0), {}
    folder.mkdir(parents=True)
    for name in IDX:
        size = 30 if name.startswith("train") else 10
        array = random.integers(0, 256, (size, 4, 4), np.uint8) if "images" in name else np.arange(size, dtype=np.uint8) % 10
        content = gzip.compress(bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes(), mtime=0)
        (folder / name).write_bytes(content)
        hashes[name] = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Source("Tiny/raw", "http://127.0.0.1:9/", hashes)


def is_tiny(arrays: Arrays) -> None:
    assert arrays.x_train.shape == (30, 1, 4, 4)
    assert arrays.x_train.dtype == np.uint8
    assert arrays.y_test is not None
    assert arrays.y_test.tolist() == list(range(10))


def test_files_are_fetched_once_and_then_come_from_the_cache(
    tmp_path: Path, server: ThreadingHTTPServer, own_cache: Path
) -> None:
    source = tiny(tmp_path / "home" / "tiny")
    for _ in range(2):
        is_tiny(idx_images("tiny", source, None, base_url=url(server)))
    assert sorted(server.asked) == sorted(f"/tiny/{name}" for name in IDX)  # type: ignore[attr-defined]
    assert sorted(path.name for path in (own_cache / "Tiny" / "raw").iterdir()) == sorted(IDX)


def test_a_mirror_is_named_by_the_environment(
    tmp_path: Path, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny(tmp_path / "home" / "Tiny" / "raw")
    monkeypatch.setenv("EVOPRUNE_MIRROR", url(server, "").rstrip("/"))
    is_tiny(idx_images("tiny", source, None))


def test_a_file_with_another_hash_is_refused_and_not_kept(
    tmp_path: Path, server: ThreadingHTTPServer, own_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tiny(tmp_path / "home" / "tiny")
    (tmp_path / "home" / "tiny" / IDX[0]).write_bytes(b"tampered")
    with pytest.raises(InputError, match="does not have the expected sha256") as caught:
        idx_images("tiny", source, None, base_url=url(server))
    assert "\n" not in str(caught.value)
    assert url(server) + IDX[0] in str(caught.value)
    assert not list((own_cache / "Tiny" / "raw").iterdir())
    assert capfd.readouterr() == ("", ""), "a refused file says so once, in the error"


def test_a_missing_file_a_cut_line_and_no_server_are_one_line_each(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    source = tiny(tmp_path / "tiny")
    address = url(server)
    for base_url, says in (
        (address, "404"),
        (url(server, "broken"), "cannot be fetched"),
        ("http://127.0.0.1:9/", "ConnectionError"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            idx_images("tiny", source, None, base_url=base_url)
        assert "\n" not in str(caught.value)
        assert "EVOPRUNE_DATA" in str(caught.value)


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path, server: ThreadingHTTPServer, own_cache: Path) -> None:
    source = tiny(tmp_path / "home" / "tiny")
    (own_cache / "Tiny" / "raw").mkdir(parents=True)
    (own_cache / "Tiny" / "raw" / IDX[0]).write_bytes(b"half")
    is_tiny(idx_images("tiny", source, None, base_url=url(server)))


def test_files_of_the_user_are_read_where_they_are_gzipped_or_not(tmp_path: Path, own_cache: Path) -> None:
    source = tiny(tmp_path / "mine" / "Tiny" / "raw")
    is_tiny(idx_images("tiny", source, tmp_path / "mine"))
    for name in IDX:
        path = tmp_path / "mine" / "Tiny" / "raw" / name
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    is_tiny(idx_images("tiny", source, tmp_path / "mine"))
    assert not own_cache.exists(), "nothing was fetched"


def test_a_file_of_the_user_with_another_hash_is_damaged_and_not_replaced(tmp_path: Path, server: ThreadingHTTPServer) -> None:
    source = tiny(tmp_path / "mine" / "Tiny" / "raw")
    path = tmp_path / "mine" / "Tiny" / "raw" / IDX[2]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DamagedFile, match="fetch it again") as caught:
        idx_images("tiny", source, tmp_path / "mine", base_url=url(server))
    assert str(path) in str(caught.value)
    assert not server.asked  # type: ignore[attr-defined]


def test_a_data_root_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is no folder"):
        DATASETS["mnist"](tmp_path / "nowhere")


def test_images_and_labels_of_unequal_length_and_labels_beyond_9_are_named(tmp_path: Path) -> None:
    source = tiny(tmp_path / "mine" / "Tiny" / "raw")
    labels = tmp_path / "mine" / "Tiny" / "raw" / IDX[1]
    labels.unlink()
    plain = labels.with_suffix("")
    plain.write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 2, 0, 1)))
    with pytest.raises(DamagedFile, match="2 labels for 30 images"):
        idx_images("tiny", source, tmp_path / "mine")
    plain.write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 30)) + bytes([10] * 30))
    with pytest.raises(DamagedFile, match="holds the label 10"):
        idx_images("tiny", source, tmp_path / "mine")


def test_mnist_is_fetched_with_its_published_hashes(
    tmp_path: Path, server: ThreadingHTTPServer, mnist_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(mnist_root / MNIST.folder, tmp_path / "home" / MNIST.folder)
    monkeypatch.setenv("EVOPRUNE_MIRROR", url(server, ""))
    arrays = DATASETS["mnist"](None)
    assert (len(arrays.x_train), len(arrays.x_test)) == (60_000, 10_000)


def test_on_all_training_images_of_mnist_67_pixels_are_never_lit(mnist_root: Path) -> None:
    arrays = DATASETS["mnist"](mnist_root)
    assert int((arrays.x_train.max(0) == 0).sum()) == 67


def test_fashion_mnist_has_6000_images_a_class(fashion_mnist_root: Path) -> None:
    arrays = DATASETS["fashion-mnist"](fashion_mnist_root)
    assert arrays.y_train is not None
    assert np.bincount(arrays.y_train).tolist() == [6000] * 10
    assert arrays.x_train.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
