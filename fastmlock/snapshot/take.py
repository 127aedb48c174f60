"""Reads /proc for what is mlocked and by whom. Needs no root, but without it sees one user's processes only."""
from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

from .record import File, Mapping, Process, Snapshot, SnapshotError

PAGE_KB = 4
#: start, end, offset, device, inode, path (Documentation/filesystems/proc.rst)
_VMA = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+) *(.*)")
_FIELD = re.compile(rb"(Rss|Shared_Clean|Shared_Dirty|Anonymous|VmFlags): *(.*)")
_Found = tuple[str, str, Mapping]       # the file's key, its path


def read(proc: str | Path = "/proc") -> Snapshot:
    """A snapshot of this machine. Processes that end meanwhile are left out. Raises SnapshotError where `proc` is no
    /proc."""
    proc = Path(proc)
    processes: dict[int, Process] = {}
    files: dict[str, list[Mapping]] = defaultdict(list)
    paths: dict[str, str] = {}
    unread = 0
    try:
        pids = sorted(int(name) for name in os.listdir(proc) if name.isdecimal())
    except OSError as error:
        raise SnapshotError(f"{proc}: {error.strerror}") from None
    if not pids:
        raise SnapshotError(f"{proc}: no processes there; is it mounted?")
    for pid in pids:
        try:
            process = _process(proc / str(pid), pid)
            found = _mappings(proc / str(pid), pid, locked=process.locked_kb > 0)
        except PermissionError:
            unread += 1
            continue
        except (FileNotFoundError, ProcessLookupError):
            continue
        processes[pid] = process
        for key, path, mapping in found:
            paths.setdefault(key, path)
            files[key].append(mapping)
    kept = [File(key, paths[key], tuple(mappings)) for key, mappings in files.items()
            if any(one.locked and one.resident for one in mappings)]
    kept.sort(key=lambda file: (-file.locked_pages, file.key))
    used = {one.pid for file in kept for one in file.mappings}
    kernel, cpus = _machine(proc)
    return Snapshot(kernel, cpus, unread,
                    {pid: one for pid, one in processes.items() if pid in used or one.locked_kb}, tuple(kept))


def _machine(proc: Path) -> tuple[str, int]:
    """Release and number of CPUs."""
    try:
        kernel = (proc / "sys/kernel/osrelease").read_text().strip()
        return kernel, len(re.findall(r"^cpu\d", (proc / "stat").read_text(), re.M)) or 1
    except OSError as error:
        raise SnapshotError(f"{error.filename}: {error.strerror}") from None


def _process(folder: Path, pid: int) -> Process:
    stat = (folder / "stat").read_bytes()
    name, after = stat[stat.index(b"(") + 1:stat.rindex(b")")], stat[stat.rindex(b")") + 1:].split()
    locked = re.search(rb"^VmLck:\s*(\d+) kB", (folder / "status").read_bytes(), re.M)
    return Process(pid, name.decode(errors="replace"), int(after[19]), int(locked[1]) if locked else 0)


def _mappings(folder: Path, pid: int, *, locked: bool) -> list[_Found]:
    """The file mappings of one process; with `locked` it has locked ones, which only smaps shows."""
    if not locked:
        text = (folder / "maps").read_bytes()
        return [one for line in text.splitlines() for one in _vma(pid, line, {})]
    found, fields, head = [], dict[bytes, bytes](), b""
    for line in [*(folder / "smaps").read_bytes().splitlines(), b""]:
        if _VMA.match(line) or not line:
            found += _vma(pid, head, fields)
            head, fields = line, {}
        elif field := _FIELD.match(line):
            fields[field[1]] = field[2]
    return found


def _vma(pid: int, head: bytes, fields: dict[bytes, bytes]) -> list[_Found]:
    match = _VMA.match(head)
    if not match or match[5] == b"0":
        return []
    first, end, offset = (int(match[i], 16) // (PAGE_KB << 10) for i in (1, 2, 3))
    flags = fields.get(b"VmFlags", b"").split()
    locked = b"lo" in flags
    resident = shared = 0
    if locked and b"ht" not in flags:
        resident = min(max(_pages(fields, b"Rss") - _pages(fields, b"Anonymous"), 0), end - first)
        shared = min(_pages(fields, b"Shared_Clean") + _pages(fields, b"Shared_Dirty"), resident)
    key = f"{match[4].decode()}:{match[5].decode()}"
    return [(key, match[6].decode(errors="replace") or key,
             Mapping(pid, offset, end - first, locked, resident, shared))]


def _pages(fields: dict[bytes, bytes], name: bytes) -> int:
    return int(fields.get(name, b"0 kB").split()[0]) // PAGE_KB
