"""The lines of a journal: how they are written, checked and read."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evoprune.errors import DamagedFile, InputError
from evoprune.evolution.jobs import Record
from evoprune.programs import rewritten

__all__ = ["VERSION", "Content", "check_header", "digest_of", "encode", "make_header", "parse"]

FORMAT, VERSION = "evoprune.journal", 1
START = b'{"format": "evoprune.journal"'
CHECK = b', "crc": "'


@dataclass
class Content:
    """What a journal holds. end: bytes up to the end of the last whole line. tail: bytes of a half-written line after it."""

    header: dict[str, Any] | None = None
    records: list[Record] = field(default_factory=list)
    end: int = 0
    tail: int = 0


def encode(line: Mapping[str, Any]) -> bytes:
    """One line: strict JSON whose last entry is a checksum of what stands before it."""
    text = json.dumps(line, allow_nan=False).encode()[:-1]
    return b'%s%s%08x"}\n' % (text, CHECK, zlib.crc32(text))


def make_header(parts: Mapping[str, Any], *, engine: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """The first line. parts: what decides an evaluation; `hash` is theirs and the format version's."""
    what = {"format": FORMAT, "version": VERSION, "hash": digest_of(parts)}
    return what | {"parts": dict(parts), "engine": engine, "about": dict(about)}


def check_header(header: Mapping[str, Any], parts: Mapping[str, Any], about: Mapping[str, Any], path: Path) -> None:
    """Raises `InputError` that says what differs, unless the journal was written for the same `parts` and programs."""
    if header["hash"] == digest_of(parts):
        if not (former := rewritten(header["about"].get("programs", {}), about.get("programs", {}))):
            return
        raise InputError(f"the journal {path} is of {former}: go on with that, or give another file")
    different = _differences(header["parts"], parts)
    if "problem" in different:  # a fingerprint says nothing to a reader
        words = _differences(header["about"], about)
        words.pop("fingerprint", None)
        different = {f"the problem's {name}": pair for name, pair in words.items()} | different
        prints = tuple(f"{fingerprint[:8]}…" for fingerprint in different.pop("problem"))
        different["the problem (its model, data or initial weights)"] = prints
    said = "; ".join(f"{name} is {there!r} there and {here!r} here" for name, (there, here) in list(different.items())[:4])
    more = f" and {len(different) - 4} more" if len(different) > 4 else ""
    raise InputError(
        f"the journal {path} belongs to another configuration: {said}{more}; go on with that one, or give another file"
    )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Values that differ, by dotted name."""
    theirs, ours = dict(_flat(there)), dict(_flat(json.loads(json.dumps(here))))
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return {name: (theirs.get(name), ours.get(name)) for name in names}


def parse(data: bytes, path: Path) -> Content:
    """Everything in a journal's bytes. Raises `DamagedFile` for a damaged line, `InputError` for what is no journal."""
    end = data.rfind(b"\n") + 1
    content = Content(end=end, tail=len(data) - end)
    lines = [line.removesuffix(b"\r") for line in data[:end].split(b"\n")[:-1]]  # as an editor or a transfer of text leaves them
    if not lines:
        if not (START.startswith(data[: len(START)]) or data.startswith(START)):
            raise _foreign(path)
        return content
    content.header = _header(lines[0], path)
    content.records = [_record(line, number, path) for number, line in enumerate(lines[1:], start=2) if line]
    return content


def _header(line: bytes, path: Path) -> dict[str, Any]:
    header = _decode(line)
    if header is None:
        if not line.startswith(START):
            raise _foreign(path)
        raise DamagedFile(f"{path}, line 1 is damaged: what was searched is lost; restore the file, or give another")
    if header.get("format") != FORMAT:
        raise _foreign(path)
    if header.get("version") != VERSION:
        written = header.get("version")
        raise InputError(f"{path} has file-format version {written}, this evoprune reads {VERSION}: use the one that wrote it")
    return header


def _record(line: bytes, number: int, path: Path) -> Record:
    try:
        return Record.of(_decode(line) or {})
    except (KeyError, TypeError):
        raise DamagedFile(
            f"{path}, line {number} is damaged: one evaluation is lost, nothing was changed; "
            f"delete that line and run again (it is trained anew), or give another file"
        ) from None


def _decode(line: bytes) -> dict[str, Any] | None:
    """The mapping in a line, or None when it is not what `encode` wrote."""
    text, mark, check = line.rpartition(CHECK)
    if not mark or check != b'%08x"}' % zlib.crc32(text):
        return None
    try:
        value = json.loads(text + b"}")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _foreign(path: Path) -> InputError:
    return InputError(f"{path} is not a journal of evoprune, and is left as it is: give another file name")


def digest_of(parts: Mapping[str, Any]) -> str:
    """Hex digest of JSON-able parts, whatever their order."""
    return hashlib.sha256(json.dumps([VERSION, parts], sort_keys=True).encode()).hexdigest()[:32]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value
