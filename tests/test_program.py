"""The command line as a program of its own: what becomes of its streams changes no result."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

TINY = ("--model", "mlp:16", "--epochs", "1", "--engine", "loop")
EVOPRUNE = (sys.executable, "-m", "evoprune")
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*EVOPRUNE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False)


def test_what_the_output_cannot_show_becomes_a_question_mark(tmp_path: Path) -> None:
    done = program("list", "models", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout


@FULL
@pytest.mark.parametrize("place", ["/dev/full", "&-"])
@pytest.mark.parametrize("command", ["list models", "--version"])
def test_an_output_that_takes_nothing_is_one_line(command: str, place: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m evoprune {command} >{place}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "output" in done.stderr


def test_the_program_runs_without_colours_when_told(tmp_path: Path) -> None:
    done = program("run", "random", *TINY, "--json", "--out", str(tmp_path / "run"), NO_COLOR="1", FORCE_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["method"] == "random"
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", done.stderr)


def test_what_is_slow_to_import_is_not_imported_for_a_wrong_word() -> None:
    code = "import sys, evoprune.cli; print(sorted({'torch', 'pandas', 'scipy', 'matplotlib', 'numba'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@FULL
@pytest.mark.parametrize(
    ("command", "said"),
    [(("run", "random"), "mask_hash"), (("compare", "random", "--seeds", "2", "--workers", "1"), "accuracy.png")],
)
def test_a_run_does_not_depend_on_what_is_said_of_it(command: tuple[str, ...], said: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = (
        *command,
        *TINY,
        "--engine",
        "auto",
        "--verbose",
        "--out",
        str(out),
        *(("--json",) if command[0] == "run" else ("--sparsity", "0.9")),
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([*EVOPRUNE, *words], stdout=subprocess.PIPE, stderr=full, text=True, timeout=120, check=False)
    assert done.returncode == 0
    assert said in done.stdout
    assert list(out.rglob("ticket.safetensors"))


def test_a_run_goes_on_when_its_terminal_goes(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    terminal, its_end = pty.openpty()
    words = ("run", "random", *TINY, "--out", str(tmp_path / "out"))
    with subprocess.Popen([*EVOPRUNE, *words], stdin=its_end, stdout=its_end, stderr=its_end) as running:
        os.close(its_end)
        os.read(terminal, 1)
        os.close(terminal)
        assert running.wait(timeout=120) == 0
    assert (tmp_path / "out" / "ticket.safetensors").exists()


def test_a_line_of_the_log_stands_above_the_bar(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    terminal, its_end = pty.openpty()
    words = ("run", "kstarts", *TINY, "--epochs", "3", "--set", "k=2", "--set", "eta=3", "--out", str(tmp_path / "out"))
    with subprocess.Popen([*EVOPRUNE, *words], stdin=its_end, stdout=its_end, stderr=its_end) as running:
        os.close(its_end)
        shown = b""
        with suppress(OSError):  # of the end, once the program has gone
            while part := os.read(terminal, 4096):
                shown += part
        assert running.wait(timeout=120) == 0
    os.close(terminal)
    lines = shown.decode().splitlines()
    [told] = [line for line in lines if "eta=3 does nothing" in line]
    erased = told.rpartition("\x1b[2K")[2]
    assert re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", erased).startswith("eta=3 does nothing without rungs="), lines


@pytest.mark.parametrize("imported", ["typer", "rich.console", "torch"])
def test_ctrl_c_is_one_line_while_it_starts(imported: str) -> None:
    code = f"""
import sys
from contextlib import suppress

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == {imported!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
sys.argv = ["evoprune", "run", "random"]
from evoprune.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("error: interrupted")
    assert done.stderr.count("\n") == 1
