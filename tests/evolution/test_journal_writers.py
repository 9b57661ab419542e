"""One process writes a journal, threads in turn, and only while it is the file at its path."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

import evoprune as ep
from evoprune.errors import EvopruneError, InputError
from tests.evolution.test_journal import made, run

HOLD = """
import sys, evoprune as ep
from tests.tiny import mlp
box = ep.make_toolbox(mlp(), sparsity=0.8, epochs=1, batch_size=24, engine="dense", journal=sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks")
def test_second_live_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(EvopruneError, match="another process is writing") as refused:
            made(path)
        assert not isinstance(refused.value, InputError), "the same arguments are good later"
        assert len(ep.read_journal(path)) == 0, "readers are not kept out"
        holder.kill()
    run(made(path))


def test_notebook_cell_run_again_takes_the_journal_over(tmp_path: Path) -> None:
    former = made(tmp_path / "run.jsonl")
    found = run(former)
    latter = made(tmp_path / "run.jsonl")
    assert run(latter, ngen=2) == found
    with pytest.raises(EvopruneError, match="opened anew"):
        run(former, ngen=4)
    run(latter, ngen=4)


FORKED = """
import multiprocessing, os, sys, evoprune as ep
from tests.tiny import mlp
box = ep.make_toolbox(mlp(), sparsity=0.8, epochs=1, batch_size=24, engine="dense", journal=sys.argv[1], seed=1)
individuals = box.population(n=4)
context = multiprocessing.get_context("fork")
def score(number):
    return box.evaluate(individuals[number])
if sys.argv[2] == "workers":
    with context.Pool(2) as pool:
        try:
            pool.map(score, range(4), chunksize=1)
        except ep.errors.EvopruneError as error:
            print(error)
        values = pool.map(box.evaluate, individuals, chunksize=1)
    assert list(box.map(box.evaluate, individuals)) == values
else:
    if os.fork():
        print("open", flush=True)
    sys.stdin.read()
"""
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


@needs_fork
def test_forked_workers_do_not_write_their_parents_journal(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    done = subprocess.run([sys.executable, "-c", FORKED, str(path), "workers"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "forked from the one that writes" in done.stdout
    assert "give your pool toolbox.evaluate itself" in done.stdout
    assert len(ep.read_journal(path)) == 4, "what the message advises works, and its parent writes on"


@needs_fork
def test_a_forked_process_that_outlives_the_writer_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    command = [sys.executable, "-c", FORKED, str(path), "outlive"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:  # the fork ends with its input
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(EvopruneError, match="another process is writing"):
            made(path)
        writer.kill()
        writer.wait()
        run(made(path))


def test_threads_take_turns(tmp_path: Path) -> None:
    """`map` of a thread pool, as for an evaluate of one's own that waits for something."""
    expected, path = run(made(), n=8), tmp_path / "run.jsonl"
    toolbox = made(path)
    own = toolbox.map
    with ThreadPool(4) as pool:
        toolbox.register("map", pool.map)
        assert run(toolbox, n=8) == expected
    assert len(ep.read_journal(path)) == own.trained == own.counted
    again = made(path)
    assert run(again, n=8) == expected
    assert again.map.trained == 0


@pytest.mark.parametrize("how", ["moved", "replaced", "deleted"])
def test_a_journal_that_is_not_at_its_path_any_more_takes_nothing(how: str, tmp_path: Path) -> None:
    """What git stash, rsync and editors do; what is written to the old file would be lost in silence."""
    path, aside = tmp_path / "run.jsonl", tmp_path / "aside"
    toolbox = made(path)
    found = run(toolbox)
    data = path.read_bytes()
    path.unlink() if how == "deleted" else path.rename(aside)
    if how == "replaced":
        path.write_bytes(data)
    with pytest.raises(EvopruneError, match=r"run\.jsonl was moved, replaced or deleted"):
        run(toolbox, ngen=4)
    if how == "deleted":
        return
    assert aside.read_bytes() == data, "nothing is trained in vain"
    aside.replace(path)
    again = made(path)
    assert run(again) == found
    assert again.map.trained == 0


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_file_system_that_cannot_sync_folders_takes_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FUSE and CIFS: there is none to be had in a test."""
    sync, folders = os.fsync, []

    def refuse(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            folders.append(file)
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(file)

    monkeypatch.setattr(os, "fsync", refuse)
    toolbox = made(tmp_path / "run.jsonl")
    assert folders, "the new name was not synced at all"
    run(toolbox)
    toolbox.map.close()
    still = [os.path.realpath(f"/proc/self/fd/{file}") for file in os.listdir("/proc/self/fd")]
    assert not [name for name in still if name.startswith(os.path.realpath(tmp_path))]
