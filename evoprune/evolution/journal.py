"""The journal: a header that says what is searched, then one JSON line for each finished evaluation.

A finished evaluation is appended at once and synced, so a run can be killed at any moment: run again, it finds what is
finished and goes on. One process writes, any number may read.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evoprune.errors import EvopruneError, InputError
from evoprune.evolution.jobs import Key, Record
from evoprune.evolution.lines import Content, check_header, encode, make_header, parse
from evoprune.evolution.locks import lock
from evoprune.evolution.trainer import HISTORY
from evoprune.files import sync_folder
from evoprune.training.ledger import Ledger

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Journal", "read_journal"]

log = logging.getLogger("evoprune")

_OPEN: weakref.WeakValueDictionary[str, Journal] = weakref.WeakValueDictionary()
"""The journals that this process writes: a notebook cell that is run again takes over from its former run."""


def _leave_to_parent() -> None:
    """In a forked process: the lock belongs to the parent, and shall end with it."""
    for journal in list(_OPEN.values()):
        journal._closing()  # not `close`: another thread may have held the lock of threads just then


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


class Journal:
    """The writer of one journal; holds a lock on the file until it is closed, dropped or its process ends.

    Threads may append at the same time; a process that is forked from the writer's may not.

    parts: what decides an evaluation (problem, training, objectives, …); a journal with other parts is refused.
    about: what a reader likes to know besides. records: the finished evaluations by id.

    Raises `InputError` when the file belongs to another configuration, is no journal or cannot be written, `DamagedFile` for a
    damaged line, `EvopruneError` while another process is writing it. In all these cases the file is left as it is.
    """

    def __init__(self, path: str | os.PathLike[str], parts: Mapping[str, Any], *, about: Mapping[str, Any] | None = None) -> None:
        self.path, self._parts, self._about = Path(path), dict(parts), dict(about or {})
        self._name = os.path.realpath(self.path)
        self._process, self._lock = os.getpid(), threading.RLock()
        self._file = _open(self.path)
        self._closing = weakref.finalize(self, os.close, self._file)
        try:
            self._read()
            if (former := _OPEN.get(self._name)) is not None:
                former.close()
            lock(self._file, self.path)
            self._adopt(self._read())  # again: the former writer may have gone on until it gave the lock back
        except BaseException:
            self._closing()
            raise
        _OPEN[self._name] = self

    def _read(self) -> Content:
        content = parse(self.path.read_bytes(), self.path)
        if content.header is not None:
            check_header(content.header, self._parts, self._about, self.path)
        return content

    def _adopt(self, content: Content) -> None:
        self.header, self._end = content.header, content.end
        self.records: dict[str, Record] = {}
        for record in content.records:
            self.records.setdefault(record.key.id, record)
        if content.tail:
            log.warning("%s ends in a half-written line of %d bytes: only that is lost", self.path, content.tail)

    @property
    def engine(self) -> str | None:
        """The engine that the run was decided on, once something is written."""
        return None if self.header is None else self.header["engine"]

    def check(self) -> None:
        """Raise `EvopruneError` where nothing can be appended: closed, of another process, or no more the file at its path."""
        if os.getpid() != self._process:
            raise EvopruneError(
                f"this process was forked from the one that writes {self.path}, and only one may write: train in processes by "
                "make_toolbox(executor=), or give your pool toolbox.evaluate itself, which trains there without a journal"
            )
        if not self._closing.alive:
            raise EvopruneError(f"{self.path} was closed, or opened anew by a later make_toolbox: use that toolbox")
        if not self._in_place():
            raise EvopruneError(
                f"{self.path} was moved, replaced or deleted while this run writes it: put the file back that was there (it has "
                "what is finished), and run again"
            )

    def _in_place(self) -> bool:
        """Whether the open file is the one that a later run would find."""
        try:
            return os.path.samestat(os.stat(self._name), os.fstat(self._file))
        except OSError:
            return False

    def append(self, records: Sequence[Record], *, engine: str) -> None:
        """Write the records and sync them; the header and `engine` before the first. Raises as `check`, and for a full disk."""
        with self._lock:
            self.check()
            lines = [encode(record.as_dict()) for record in records]
            if self.header is None:
                header = make_header(self._parts, engine=engine, about=self._about)
                lines.insert(0, encode(header))
            self._write(b"".join(lines))
            if self.header is None:
                self.header = header
            self.records |= {record.key.id: record for record in records}

    def _write(self, data: bytes) -> None:
        """Append `data` where the last whole line ended."""
        try:
            if os.fstat(self._file).st_size != self._end:
                os.ftruncate(self._file, self._end)
            os.lseek(self._file, self._end, os.SEEK_SET)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            reason = f"cannot write {self.path}: {error.strerror or error}"
            raise EvopruneError(f"{reason}; the {len(self.records)} evaluations before are safe, run again") from error
        self._end += len(data)

    def close(self) -> None:
        """Give the lock back."""
        with self._lock:
            self._closing()
        if _OPEN.get(self._name) is self:
            del _OPEN[self._name]

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r}, {len(self)} evaluations)"


def _open(path: Path) -> int:
    """The file's descriptor, for reading and writing; made when it is not there."""
    try:
        created = not path.exists()
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        if created:
            sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"cannot write the journal {path}: {error.strerror}; give a file name in a folder that exists and is writable"
        ) from None
    return handle


def read_journal(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A journal as a data frame, one row an evaluation; also while a run is writing it, whom this never blocks.

    Columns: id, mask, repetition, inherits, cohort, the objectives, failed, error, rung, survivors, train_loss, val_loss and
    val_accuracy of the last epoch, the ledger's entries. `frame.attrs["header"]` holds the header.
    Raises `InputError` when there is no such file or it is no journal, `DamagedFile` for a damaged line.
    """
    import pandas as pd

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; give the path of a journal") from None
    content = parse(data, Path(path))
    objectives = [] if content.header is None else content.header["parts"].get("objectives", [])
    none = Record(Key(""), dict.fromkeys(objectives), 0, epochs={name: [] for name in HISTORY}, cost=Ledger().as_dict())
    rows = [_row(record) for record in content.records]
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys(name for row in [*rows, _row(none)] for name in row)))
    numbers = [name for name in (*objectives, *HISTORY) if frame[name].dtype == object]  # no value at all
    frame[numbers] = frame[numbers].astype(float)
    frame.attrs["header"] = content.header or {}
    return frame


def _row(record: Record) -> dict[str, Any]:
    last = {name: values[-1] if values else None for name, values in record.epochs.items()}
    key = {"id": record.key.id, **vars(record.key)}
    state = {"failed": record.failed, "error": record.error, "rung": record.rung, "survivors": record.survivors}
    return {**key, **record.values, **state, **{k: v for k, v in last.items() if k not in record.values}, **record.cost}


def store_folder(path: str | os.PathLike[str]) -> Path:
    """Where the trained weights of a journal's evaluations lie."""
    return Path(f"{os.fspath(path)}.weights")
