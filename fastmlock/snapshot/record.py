"""What a snapshot holds, and its file: JSON, so that it can be taken on one machine and looked at on another."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

FORMAT = "fastmlock snapshot 1"
MAX_BYTES = 1 << 30


class SnapshotError(ValueError):
    """A snapshot that cannot be taken or read; the text is one line."""


@dataclass(frozen=True)
class Process:
    """A process that maps one of the files."""

    pid: int
    name: str           #: comm
    started: int        #: when, in clock ticks since boot
    locked_kb: int      #: VmLck


@dataclass(frozen=True)
class Mapping:
    """A VMA of a file."""

    pid: int
    first: int          #: its first page in the file
    pages: int
    locked: bool        #: VM_LOCKED
    resident: int       #: pages of the file (not copies of them) that its page table maps; 0 where it is not locked
    shared: int         #: those of them that others map, too: for the rest nobody looks for other lockers


@dataclass(frozen=True)
class File:
    """A file of which pages are mlocked, and all that maps it."""

    key: str            #: "major:minor:inode", as /proc/PID/maps has them
    path: str           #: as one of its mappings has it
    mappings: tuple[Mapping, ...]

    @property
    def lockers(self) -> set[int]:
        """Processes that have pages of it mlocked."""
        return {one.pid for one in self.mappings if one.locked and one.resident}

    @property
    def locked_pages(self) -> int:
        """Mlocked page-table entries of it, over all processes."""
        return sum(one.resident for one in self.mappings if one.locked)


@dataclass(frozen=True)
class Snapshot:
    """The mlocked files of one machine, most mlocked entries first, and the processes that map them."""

    kernel: str         #: the release, as uname has it
    cpus: int
    unread: int         #: processes that could not be looked at (they are another user's)
    processes: dict[int, Process]
    files: tuple[File, ...]


def save(snapshot: Snapshot, stream: IO[str]) -> None:
    """One JSON object, a file or process a line."""
    def lines(name: str, rows: list[dict[str, Any]]) -> str:
        return f' "{name}": [\n' + ",\n".join("  " + json.dumps(row) for row in rows) + "\n ]"

    head = {"format": FORMAT, "kernel": snapshot.kernel, "cpus": snapshot.cpus, "unread": snapshot.unread}
    stream.write("{\n" + "".join(f" {json.dumps(name)}: {json.dumps(value)},\n" for name, value in head.items())
                 + lines("processes", [asdict(one) for one in snapshot.processes.values()]) + ",\n"
                 + lines("files", [asdict(one) for one in snapshot.files]) + "\n}\n")


def load(path: str | Path) -> Snapshot:
    """The snapshot in a file. Raises SnapshotError, or OSError where there is none to read."""
    with open(path, "rb") as stream:
        text = stream.read(MAX_BYTES + 1)
    try:
        if len(text) > MAX_BYTES:
            raise _Wrong(f"it is larger than {MAX_BYTES >> 20} MiB")
        return _snapshot(json.loads(text))
    except _Wrong as error:
        why = str(error)
    except RecursionError:
        why = "it is nested too deep"
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is no text"
    except json.JSONDecodeError as error:
        why = f"line {error.lineno}: {error.msg}"
    raise SnapshotError(f"{path}: no snapshot: {why}; \"fastmlock snapshot -o FILE\" writes one")


class _Wrong(ValueError):
    """What is wrong with a snapshot's content."""


def _snapshot(raw: Any) -> Snapshot:
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise _Wrong(f'"format" is not "{FORMAT}"')
    processes = [Process(_number(one, "pid", where, 1), _text(one, "name", where), _number(one, "started", where),
                         _number(one, "locked_kb", where)) for one, where in _rows(raw, "processes", "")]
    files = tuple(_file(one, where) for one, where in _rows(raw, "files", ""))
    known = {one.pid: one for one in processes}
    for file in files:
        for mapping in file.mappings:
            if mapping.pid not in known:
                raise _Wrong(f"{file.key} is mapped by {mapping.pid}, which is none of the processes")
    return Snapshot(_text(raw, "kernel", ""), _number(raw, "cpus", "", 1), _number(raw, "unread", ""), known, files)


def _file(raw: Any, where: str) -> File:
    mappings = []
    for one, at in _rows(raw, "mappings", where):
        mapping = Mapping(_number(one, "pid", at, 1), _number(one, "first", at), _number(one, "pages", at, 1),
                          _value(one, "locked", at, bool), _number(one, "resident", at), _number(one, "shared", at))
        if not mapping.shared <= mapping.resident <= mapping.pages:
            raise _Wrong(f"{at}resident is {mapping.resident}, of {mapping.pages} pages, and {mapping.shared} shared")
        mappings.append(mapping)
    return File(_text(raw, "key", where), _text(raw, "path", where), tuple(mappings))


def _rows(raw: Any, name: str, where: str) -> list[tuple[Any, str]]:
    return [(one, f"{where}{name}[{i}].") for i, one in enumerate(_value(raw, name, where, list))]


def _value(raw: Any, name: str, where: str, kind: type) -> Any:
    value = raw.get(name) if isinstance(raw, dict) else None
    if type(value) is not kind:
        raise _Wrong(f"{where}{name} is no {kind.__name__}")
    return value


def _text(raw: Any, name: str, where: str) -> str:
    value: str = _value(raw, name, where, str)
    return value


def _number(raw: Any, name: str, where: str, least: int = 0) -> int:
    value: int = _value(raw, name, where, int)
    if not least <= value < 1 << 62:
        raise _Wrong(f"{where}{name} is {value}")
    return value
