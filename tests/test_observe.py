"""/proc of a simulated machine: the kernel's formats, and numbers that agree with what is known."""
from __future__ import annotations

import re

import numpy as np
import pytest

from fastmlock.cli import main
from fastmlock.observe import kpagecount, kpageflags, meminfo, pagemap, smaps, status, vmstat
from fastmlock.system import System

AT = 0x100000000000
LRU, UNEVICTABLE, MLOCKED, ZERO, NOPAGE = 1 << 5, 1 << 18, 1 << 33, 1 << 24, 1 << 20


@pytest.fixture
def machine() -> tuple[System, list[int], int]:
    """Two lockers of an 8-page tmpfs file; the first has 4 pages of anonymous memory too, of which 2 are read only."""
    s = System("6.1")
    file = s.create_file("tmpfs", 8)
    pids = [s.spawn(), s.spawn()]
    for pid in pids:
        s.mmap(pid, AT, 8 * 4096, 3, 0x1 | 0x10, file, 0)
        s.mlock(pid, AT, 8 * 4096)
    s.mmap(pids[0], 2 * AT, 4 * 4096, 3, 0x22 | 0x10, None, 0)
    s.touch(pids[0], 2 * AT, 2, True)
    s.touch(pids[0], 2 * AT + 2 * 4096, 2, False)
    s.drain_all()
    return s, pids, file


def kb(text: str, name: str) -> list[int]:
    return [int(value) for value in re.findall(rf"^{re.escape(name)}:\s+(\d+) kB$", text, re.MULTILINE)]


def test_machine_wide(machine) -> None:
    s, _, _ = machine
    counters = dict(line.split() for line in vmstat(s).splitlines())
    assert counters["nr_mlock"] == counters["nr_unevictable"] == counters["unevictable_pgs_mlocked"] == "8"
    assert counters["nr_anon_pages"] == "2" and counters["nr_mapped"] == "8"
    assert "Mlocked:              32 kB\n" in meminfo(s) and kb(meminfo(s), "Unevictable") == [32]


def test_status(machine) -> None:
    s, (p, q), _ = machine
    assert "\nVmLck:\t      32 kB\n" in status(s, p)
    assert [kb(status(s, p), name)[0] for name in ("VmSize", "VmRSS", "RssAnon", "RssShmem", "RssFile")] \
        == [48, 40, 8, 32, 0]
    assert kb(status(s, q), "VmRSS") == [32]


def test_smaps(machine) -> None:
    s, (p, _), file = machine
    text = smaps(s, p)
    assert text.startswith(f"{AT:08x}-{AT + 8 * 4096:08x} rw-s 00000000 00:00 {file} ")
    assert kb(text, "Rss") == [32, 8] and kb(text, "Pss") == [16, 8] and kb(text, "Locked") == [16, 0]
    assert kb(text, "Shared_Dirty") == [32, 0] and kb(text, "Private_Dirty") == [0, 8]
    assert kb(text, "Anonymous") == [0, 8]
    assert re.findall(r"^VmFlags: (.*) $", text, re.MULTILINE) == ["rd wr sh lo", "rd wr ac"]
    assert ("Pss_Dirty" in text) and "Pss_Dirty" not in smaps(System("5.17-rc2"), 1)


def test_words(machine) -> None:
    s, (p, _), file = machine
    pfn = s.cached(file, 3)
    assert int(kpagecount(s, pfn)[0]) == 2 and int(kpageflags(s, pfn)[0]) & (LRU | UNEVICTABLE | MLOCKED) \
        == LRU | UNEVICTABLE | MLOCKED
    assert kpageflags(s, [0, 10**6]).tolist() == [NOPAGE, NOPAGE] and kpagecount(s, 10**6).tolist() == [0]
    words = pagemap(s, p, AT, 8)
    assert words[3] == pfn | 1 << 63 | 1 << 61
    anon = pagemap(s, p, 2 * AT, 5)
    assert [int(word) >> 56 for word in anon] == [0x81, 0x81, 0x80, 0x80, 0]
    assert kpageflags(s, int(anon[2]) & (1 << 55) - 1)[0] & np.uint64(ZERO)


def test_run_show(capsys) -> None:
    assert main(["run", "s02_two_lockers_fifo", "--kernel", "6.1", "--show", "meminfo,vmstat,status,kpagecount"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("==> /proc/meminfo <==\n") and "==> /proc/vmstat <==\n" in out and '"step"' not in out


def test_run_show_refuses(capsys) -> None:
    assert main(["run", "s02_two_lockers_fifo", "--kernel", "6.1", "--show", "slabinfo"]) != 0
    assert "no file 'slabinfo'; there are vmstat" in capsys.readouterr().err
