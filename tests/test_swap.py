"""Swap: slots and counts, what kernels do differently, what /proc shows. tests/test_conformance.py holds the paths
against the own recordings s31*, tests/test_fuzz_reference.py the two models against each other."""
from __future__ import annotations

import re

import pytest

from fastmlock.audit.consistency import problems
from fastmlock.cli import main
from fastmlock.fuzz.generate import program
from fastmlock.fuzz.pair import against_exact
from fastmlock.observe import meminfo, smaps, status
from fastmlock.reference import ReferenceSystem
from fastmlock.reference.consistency import problems as reference_problems
from fastmlock.scenario.language import ScenarioError, parse
from fastmlock.scenario.run import run
from fastmlock.system import System

AT, PAGE = 0x100000000000, 4096
PAGEOUT = 21
KERNELS = ["5.10", "5.17-rc2", "5.17-rc2+06", "5.18", "6.1", "6.12", "6.18"]
SLOTS_BACK = """swap 64
p0 mmap A anon private rw 0 16
p0 touch A 0 16 w
drain
p0 madvise A 0 16 pageout
p0 fork p1
p1 mlock A 0 8
p0 touch A 4 8 r
p1 exit
p0 exit
drain
"""


def swapped_out(kernel: str, pages: int = 8, *, slots: int = 64) -> tuple[System, int]:
    """A process whose anonymous memory of so many pages lies on the swap device."""
    s = System(kernel, check=True)
    s.swapon(slots)
    pid = s.spawn()
    s.mmap(pid, AT, pages * PAGE, 3, 0x22 | 0x10, None, 0)
    s.touch(pid, AT, pages, True)
    s.drain_all()
    s.madvise(pid, AT, pages * PAGE, PAGEOUT)
    return s, pid


@pytest.mark.parametrize("kernel", KERNELS)
def test_pages_leave_for_slots_and_give_them_back(kernel: str) -> None:
    s, pid = swapped_out(kernel)
    assert {s.pte(pid, AT + n * PAGE) for n in range(8)} == {("s", 0)}
    assert s.swap_sizes == (63, 8, 0)
    assert s.touch(pid, AT, 3, False) == (3, 0)
    assert s.swap_sizes == (63, 5, 0)                   # read past the swap cache: their slots are free again
    s.exit(pid)
    assert s.swap_sizes == (63, 0, 0) and not problems(s)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_fork_shares_slots_and_reading_goes_through_the_swap_cache(kernel: str) -> None:
    s, pid = swapped_out(kernel)
    child = s.fork(pid)
    s.touch(child, AT, 1, False)
    assert "S" in s.page(s.pte(child, AT)[1])[1]
    used, cached = s.swap_sizes[1:]
    assert used == 8 and cached == 5                    # a window of eight, three of them in front of the vma
    s.touch(pid, AT, 1, False)
    assert s.page(s.pte(pid, AT)[1])[0] == 2
    for process in (pid, child):
        s.exit(process)
    assert s.swap_sizes == (63, 0, 0) and not problems(s)


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_room_pages_stay(kernel: str) -> None:
    s, pid = swapped_out(kernel, 8, slots=6)
    assert [s.pte(pid, AT + n * PAGE)[0] for n in range(8)] == ["s"] * 5 + ["a"] * 3
    assert "A" in s.page(s.pte(pid, AT + 7 * PAGE)[1])[1]


def test_mlock_brings_back_and_marks_except_where_swapping_in_forgets() -> None:
    for kernel in KERNELS:
        s, pid = swapped_out(kernel)
        before = s.vmstat()["unevictable_pgs_mlocked"]
        assert s.mlock(pid, AT, 4 * PAGE) == (0, 0)
        assert s.vm_lck(pid) == 16 and s.pte(pid, AT)[0] == "a"
        marked = s.vmstat()["unevictable_pgs_mlocked"] - before
        assert marked == (0 if s.release >= 612 else 4), kernel     # 6.11: folio_add_new_anon_rmap() does not mlock


@pytest.mark.parametrize("kernel", KERNELS)
def test_tmpfs(kernel: str) -> None:
    s = System(kernel, check=True)
    s.swapon(600)
    file, pid = s.create_file("tmpfs", 12), s.spawn()
    s.mmap(pid, AT, 12 * PAGE, 3, 0x1 | 0x10, file, 0)
    s.touch(pid, AT, 12, True)
    s.drain_all()
    s.madvise(pid, AT, 12 * PAGE, PAGEOUT)
    assert s.pte(pid, AT) == ("-", 0) and not any(s.cached(file, n) for n in range(12))
    assert s.swap_sizes == (599, 12, 0) and s.swapped(pid, AT, 12) == (0, 0, 12)
    assert s.pread(file, 5, 1) == (4096, 0)
    assert s.cached(file, 5) and s.swap_sizes[1] == 11
    s.punch(file, 0, 4)
    assert s.swap_sizes[1] == 11 - 4
    s.truncate(file, 0)
    assert s.swap_sizes == (599, 0, 0) and not problems(s)


@pytest.mark.parametrize("model", [System, ReferenceSystem], ids=["compiled", "plain"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_all_slots_come_back(kernel: str, model: type) -> None:
    s = model(kernel)
    for _ in run(parse(SLOTS_BACK), s):
        pass
    if model is System:
        assert s.swap_sizes == (63, 0, 0) and not problems(s)
    else:
        assert not s.k.swap.slots and not reference_problems(s)


def test_proc() -> None:
    s, pid = swapped_out("6.1")
    child = s.fork(pid)
    kb = dict(re.findall(r"^(\w+):\s+(\d+) kB$", smaps(s, pid) + status(s, pid) + meminfo(s), re.MULTILINE))
    assert (kb["Swap"], kb["SwapPss"], kb["VmSwap"], kb["Rss"]) == ("32", "16", "32", "0")
    assert (kb["SwapTotal"], kb["SwapFree"], kb["SwapCached"]) == ("252", "220", "0")
    s.touch(child, AT, 1, False)
    assert re.search(r"^SwapCached: +20 kB$", meminfo(s), re.MULTILINE)


# ---- how swap is asked for

def test_a_scenario_asks_for_swap_by_a_line_or_its_name() -> None:
    text = "p0 mmap A anon private rw 0 4\n"
    assert parse(text).swap_pages == 0 and parse("swap 64\n" + text).swap_pages == 64
    assert parse(text, "/some/where/s31_mine.txt").swap_pages == 16384
    assert parse("swap 99\n" + text, "s31_mine.txt").swap_pages == 99
    assert len(parse("swap 64\n" + text).commands) == 1                 # a line like procs: no step
    for wrong in ("swap", "swap 1", "swap on", "swap 4 5", "swap 64\nswap 64"):
        with pytest.raises(ScenarioError):
            parse(wrong)


def test_a_swap_device_is_switched_on_once() -> None:
    s = System("6.1")
    with pytest.raises(ValueError, match="a swap device of 1 pages"):
        s.swapon(1)
    s.swapon(8)
    with pytest.raises(ValueError, match="swap is on already"):
        s.swapon(8)


def test_the_command_line_can_switch_it(tmp_path, capsys) -> None:
    scenario = tmp_path / "x.txt"
    scenario.write_text("p0 mmap A anon private rw 0 4\np0 touch A 0 4 w\ndrain\np0 madvise A 0 4 pageout\n")
    for option, kind in (([], "a"), (["--swap", "64"], "s"), (["--swap", "64", "--reference"], "s")):
        assert main(["run", str(scenario), "--kernel", "6.1", *option]) == 0
        assert f'"pg": [[0, 3, "{kind}"' in capsys.readouterr().out.splitlines()[-1]
    assert main(["run", str(scenario), "--kernel", "6.1", "--swap", "1"]) == 2
    assert "give 0, or 2 to 1048576 pages" in capsys.readouterr().err


@pytest.mark.parametrize("kernel", ["5.10", "5.17-rc2", "5.17-rc2+07", "5.18", "6.1", "6.12", "6.18"])
def test_swapoff_brings_everything_back(kernel):
    """Random programs with swap, which is switched off two thirds in: both models in the same state."""
    done = 0
    for index in range(40):
        lines = program("swapoff", index).splitlines()
        if not any(line.startswith("swap ") for line in lines):
            continue
        lines.insert(len(lines) * 2 // 3, "swapoff")
        outcome = against_exact(lines, lambda: System(kernel), lambda: ReferenceSystem(kernel))
        assert outcome.difference is None, (index, outcome.difference)
        done += 1
    assert done > 8


def test_swapoff_without_swap():
    for system in (System("6.1"), ReferenceSystem("6.1")):
        assert system.swapoff() == (-1, 22)
