"""What /proc tells of processes, pages and counters, in the terms of the scenario protocol."""
from __future__ import annotations

import os
import re
import struct
from contextlib import suppress

from fastmlock.scenario import observe
from fastmlock.scenario.system import PAGE_SIZE

STAT_REFRESH = "/proc/sys/vm/stat_refresh"
PFN = (1 << 55) - 1
LETTERS = tuple((1 << bit, letter) for bit, letter in (
    (5, "L"), (18, "U"), (33, "M"), (6, "A"), (2, "R"), (4, "D"), (12, "a"), (14, "s"), (13, "S"), (8, "W"), (0, "K"),
    (9, "i"), (22, "T"), (10, "B"), (24, "z")))
"""Bits of /proc/kpageflags and their letters, in the recordings' order."""
_VM_BITS = {word: bit for bit, word in observe.VM_FLAGS}
_VMA = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) .*\n(?:[A-Z].*\n)*?Rss: +(\d+) kB\n(?:[A-Z].*\n)*?Locked: +(\d+) kB\n"
                  r"(?:[A-Z].*\n)*?VmFlags: (.*)\n", re.M)
_CHUNK = 64


def vmstat(names: tuple[str, ...], *, refresh: bool) -> dict[str, int]:
    """Counters of /proc/vmstat, and HugePages_* of /proc/meminfo; with `refresh` (root) the per-cpu remainders are
    folded in first."""
    if refresh:
        with open(STAT_REFRESH, "w") as stream:
            stream.write("1")
    with open("/proc/vmstat", "rb") as raw:
        lines = dict(line.split() for line in raw.read().splitlines())
    with open("/proc/meminfo", "rb") as raw:
        lines |= dict(line.split(b":") for line in raw.read().splitlines() if line.startswith(b"HugePages_"))
    return {name: int(lines[name.encode()]) for name in names if name.encode() in lines}


def status_kb(pid: int, field: str) -> int:
    """A field of /proc/PID/status in kB."""
    with open(f"/proc/{pid}/status") as stream:
        for line in stream:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise ValueError(f"/proc/{pid}/status has no {field}")


def smaps(pid: int) -> list[tuple[int, int, int, int, int]]:
    """(first byte, end byte, vm_flags, Locked kB, Rss kB) of each VMA; of vm_flags the bits that a record shows."""
    with open(f"/proc/{pid}/smaps") as stream:
        text = stream.read()
    return [(int(first, 16), int(end, 16), sum(_VM_BITS.get(word, 0) for word in flags.split()), int(locked), int(rss))
            for first, end, rss, locked, flags in _VMA.findall(text)]


class Pagemap:
    """/proc/PID/pagemap of one process, read in blocks, each once."""

    def __init__(self, pid: int) -> None:
        self.fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
        self.blocks: dict[int, tuple[int, ...]] = {}

    def entry(self, addr: int) -> int:
        page = addr // PAGE_SIZE
        block, at = divmod(page, _CHUNK)
        if block not in self.blocks:
            raw = os.pread(self.fd, _CHUNK * 8, block * _CHUNK * 8)
            self.blocks[block] = struct.unpack(f"={len(raw) // 8}Q", raw)
        entries = self.blocks[block]
        return entries[at] if at < len(entries) else 0

    def close(self) -> None:
        os.close(self.fd)


def pte_of(entry: int) -> tuple[str, int]:
    """(kind, pfn) of a pagemap entry; without CAP_SYS_ADMIN the kernel shows pfn 0."""
    if entry >> 63 & 1:
        return ("f" if entry >> 61 & 1 else "a"), entry & PFN
    return ("s" if entry >> 62 & 1 else "-"), 0


class Frames:
    """/proc/kpageflags and /proc/kpagecount: root only; `usable` says whether."""

    def __init__(self) -> None:
        self.fds: list[int] = []
        with suppress(OSError):
            for path in ("/proc/kpageflags", "/proc/kpagecount"):
                self.fds.append(os.open(path, os.O_RDONLY))
            self.usable = len(os.pread(self.fds[0], 8, 0)) == 8
            return
        self.usable = False

    def page(self, pfn: int) -> tuple[int, str, int]:
        """(mapcount, flag letters, -1): the mlock_count of a real page is not visible."""
        words = [os.pread(fd, 8, pfn * 8) for fd in self.fds]
        flags, mapcount = (int.from_bytes(word, "little") for word in words)
        return mapcount, "".join(letter for bit, letter in LETTERS if flags & bit), -1

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []
