"""A short campaign, model against reference, with a fixed seed; and the parts of the fuzzer by themselves."""
from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from fastmlock import System, kernels
from fastmlock.cli import main
from fastmlock.fuzz.campaign import Campaign
from fastmlock.fuzz.coverage import outcomes, table
from fastmlock.fuzz.generate import EMULATED, LIVE, Profile, program
from fastmlock.fuzz.pair import (
    Fault, Outcome, against_exact, against_live, batch_time_only, exactly, records_of, runnable,
)
from fastmlock.fuzz.shrink import shrink
from fastmlock.reference import ReferenceSystem
from fastmlock.scenario.compare import StepDifference
from fastmlock.scenario.language import ScenarioError, parse

PROGRAMS = int(os.environ.get("FASTMLOCK_FUZZ_PROGRAMS", "60"))
"""Programs for each kernel."""
RELEASES = ["5.10", "5.17-rc2", "5.18", "6.1", "6.12", "6.18",
            *[f"5.17-rc2+{n:02}" for n in (1, 2, 4, 6, 7, 8, 10, 11)],
            "5.17-rc2+13+mlock_pvec_size=1", "6.12+mlock_pvec_size=4"]


@pytest.mark.parametrize("kernel", RELEASES)
def test_model_and_reference_agree_in_everything(kernel: str) -> None:
    totals = Campaign("ci", PROGRAMS, lambda lines: against_exact(lines, lambda: System(kernel),
                                                                  lambda: ReferenceSystem(kernel))).run()
    print(kernel, *totals.lines(), sep="\n    ")
    assert totals.programs == PROGRAMS and totals.steps > 10 * PROGRAMS
    assert not totals.files, "\n".join(totals.files)
    assert not totals.differences and not totals.faults


# ---- the generator

@pytest.mark.parametrize("profile", [Profile(), LIVE, EMULATED])
def test_programs_are_a_function_of_seed_and_index(profile: Profile) -> None:
    texts = [program("s", index, profile) for index in range(40)]
    assert texts == [program("s", index, profile) for index in range(40)]
    assert len(set(texts)) == 40 and texts != [program("t", index, profile) for index in range(40)]


def test_most_programs_are_valid_and_use_every_verb() -> None:
    used: set[str] = set()
    valid = 0
    for index in range(400):
        text = program("verbs", index)
        try:
            scenario = parse(text)
        except ScenarioError:
            continue
        valid += 1
        used.update(words[1] if words[0][0] == "p" and words[0][1:2].isdigit() else words[0]
                    for words in (command.text.split() for command in scenario.commands))
    assert valid > 300
    assert used >= {"mmap", "munmap", "mlock", "mlock2", "munlock", "mlockall", "munlockall", "touch", "mremap",
                    "drain",
                    "madvise", "mprotect", "msync", "rlimit", "setuid", "cpu", "ldrain", "movepages", "fork", "exit",
                    "kill", "file", "truncate", "punch", "fadvise", "fwrite", "fread"}


def test_a_profile_leaves_out() -> None:
    texts = "".join(program("x", index, EMULATED) for index in range(100))
    assert " exec" in "".join(program("x", index) for index in range(100))
    assert " exec" not in texts and "compact" in texts
    assert "ext4" in texts and "ext4" not in "".join(program("x", index, LIVE) for index in range(100))


REACHED = """brk compact cpu drain dropcaches exec exit fadvise fork fread fwrite kill ldrain movepages oomkill punch
sysctl touch truncate mlock2|ENOMEM mlock2|EPERM mlock2|EINVAL mlock|EPERM mlock|ENOMEM mlock|EINVAL mlockall|EPERM
mlockall|ENOMEM mlockall|EINVAL mmap|EAGAIN mmap|EINVAL mmap|EPERM mprotect|ENOMEM mremap|EFAULT mremap|EINVAL
mremap|ENOMEM msync|EBUSY msync|EINVAL munlock|ENOMEM munmap|EINVAL madvise|EACCES madvise|EFAULT rlimit|EPERM
setuid|EPERM shmlock|EPERM remappages|EINVAL peek|EIO"""


def test_programs_reach_what_calls_can_answer() -> None:
    counts: Counter[str] = Counter()
    for index in range(500):
        counts.update(outcomes(runnable(program("reach", index).splitlines(), lambda: System("6.18"))[1][1:]))
    reached = {(text.split()[0], text.rpartition(" -> ")[2]) for text in counts}
    wanted = {(verb, err or "done") for verb, _, err in (word.partition("|") for word in REACHED.split())}
    assert not wanted - reached
    lines = list(table(counts))
    assert sum(int(line.split()[0]) for line in lines) == counts.total()
    assert any(line.split()[1:3] == ["madvise", "dontneed:"] for line in lines)


# ---- pairs: a system that lies is found out

class Lying(System):
    """One counter more after each munlock, which no other field shows."""

    extra = 0

    def munlock(self, pid, addr, length):  # type: ignore[no-untyped-def]
        self.extra += 1
        return super().munlock(pid, addr, length)

    def vmstat(self):  # type: ignore[no-untyped-def]
        out = super().vmstat()
        out["nr_active_anon"] += self.extra
        return out


class Breaking(System):
    def mlock2(self, pid, addr, length, flags):  # type: ignore[no-untyped-def]
        raise IndexError("no such page")


PROGRAM = ["procs 1", "file F tmpfs 4", "p0 mmap A F shared rw 0 4", "p0 touch A 0 4 r", "drain", "p0 mlock A 0 4",
           "p0 munlock A 1 2", "drain", "p0 touch A 0 1 w"]


def test_one_counter_is_enough_to_differ() -> None:
    assert against_exact(PROGRAM, lambda: System("6.1"), lambda: System("6.1")).difference is None
    found = against_exact(PROGRAM, lambda: System("6.1"), lambda: Lying("6.1")).difference
    assert found is not None and found.cmd == "p0 munlock A 1 2" and "nr_active_anon" in found.texts[0]


def test_soft_flags_differ_too() -> None:
    records, _, _ = records_of(PROGRAM, lambda: System("6.1"))
    other, _, _ = records_of(PROGRAM, lambda: System("6.1"))
    assert exactly(records, other) is None
    runs = other[-1]["f"]["F"]  # type: ignore[index]
    runs[0][4] += "R"
    assert exactly(records, other) is not None


def test_lines_that_are_not_supported_are_left_out_and_counted() -> None:
    lines = [*PROGRAM, "sysctl /proc/sys/vm/nothing 1", "p0 munmap A 0 4"]
    outcome = against_exact(lines, lambda: System("6.1"), lambda: System("6.1"))
    assert outcome.unsupported == ["not supported: sysctl /proc/sys/vm/nothing"]
    assert outcome.lines == [*PROGRAM, "p0 munmap A 0 4"] and outcome.steps == len(PROGRAM)


def test_what_changes_from_run_to_run_is_unsettled_and_no_difference() -> None:
    runs: list[int] = []

    def sometimes() -> System:
        runs.append(1)
        return Lying2("6.1") if len(runs) < 3 else System("6.1")

    class Lying2(System):
        def vm_lck(self, pid):  # type: ignore[no-untyped-def]
            return super().vm_lck(pid) + 4

    outcome = against_live(PROGRAM, lambda: System("6.1"), sometimes)
    assert outcome.difference is None and outcome.unsettled > 0 and len(runs) == 3
    outcome = against_live(PROGRAM, lambda: System("6.1"), lambda: Lying2("6.1"))
    assert outcome.difference is not None and outcome.unsettled == 0


@pytest.mark.parametrize("text, chance", [
    ("p0.A[0-3]: model a mapcount 1 as, real a mapcount 1 Las", True),
    ("F[2]: model c mapcount 0 LUMRDs mlock_count 1, real c mapcount 0 LRDs", True),
    ("F[2]: model c mapcount 0 no flags, real c mapcount 0 L", True),
    ("unevictable_pgs_culled: model 0, real 1", True), ("nr_mlock: model 0, real -1", True),
    ("unevictable_pgs_mlocked: model 0, real 1", False), ("ret: model 0, real -1", False),
    ("p0 VmLck: model 4, real 8", False), ("p0.A vma: model [], real [[0, 1, 'rd', 0, 0]]", False),
    ("p0.A[0]: model a mapcount 1 as, real a mapcount 2 Las", False),
    ("p0.A[0]: model - mapcount -1 no flags, real a mapcount 1 Las", False),
    ("p0.A[0]: model a mapcount 1 Las, real a mapcount 1 Ls", False)])
def test_only_what_happens_at_batch_time_is_left_to_chance(text: str, chance: bool) -> None:
    fine = "unevictable_pgs_rescued: model 0, real 3"
    assert batch_time_only(StepDifference(1, "drain", (fine, text), ())) is chance


def test_batch_time_is_a_difference_where_nobody_disturbs() -> None:
    class Late(System):
        def vmstat(self):  # type: ignore[no-untyped-def]
            out = super().vmstat()
            out["unevictable_pgs_culled"] = 0
            return out

    args = PROGRAM, lambda: System("6.1"), lambda: Late("6.1")
    assert against_live(*args, repeats=2).difference is not None
    outcome = against_live(*args, repeats=2, disturbed=lambda: True)
    assert outcome.difference is None and outcome.unsettled > 0


def test_a_breakdown_is_a_fault() -> None:
    with pytest.raises(Fault, match=r"line 4 \(p0 mlock2 A 0 1 onfault\): IndexError: no such page"):
        against_exact(["procs 1", "p0 mmap A anon private rw 0 4", "drain", "p0 mlock2 A 0 1 onfault"],
                      lambda: Breaking("6.1"), lambda: System("6.1"))


# ---- shrinking

def test_shrinking_leaves_what_matters() -> None:
    asked: list[int] = []

    def shows(lines: list[str]) -> bool:
        asked.append(1)
        return against_exact(lines, lambda: System("6.1"), lambda: Lying("6.1")).difference is not None

    noise = ["file G tmpfs 9", "p0 mmap B G private rw 0 9", "p0 touch B 0 9 w", "p0 mprotect B 0 4 r"]
    small = shrink([*PROGRAM[:3], *noise, *PROGRAM[3:]], shows)
    assert shows(small) and len(small) == 3 and small[-1].startswith("p0 munlock")
    before = len(asked)
    assert shrink([*PROGRAM, *noise], shows, most=5) and len(asked) - before <= 5


# ---- campaigns

def lying(lines: object) -> Outcome:
    return against_exact(lines, lambda: System("6.1"), lambda: Lying("6.1"))  # type: ignore[arg-type]


def test_differences_are_written_small_and_a_campaign_goes_on(tmp_path: Path) -> None:
    whole = Campaign("w", 12, lying, folder=tmp_path / "whole", shrinks=1).run()
    assert whole.programs == 12 and whole.differences + whole.faults == len(whole.files) > 1
    text = next(text for text in (Path(path).read_text() for path in whole.files) if "broke down" not in text)
    assert text.startswith("# two systems, seed w, program") and "munlock" in text
    assert lying(text.splitlines()).difference is not None

    class Stop(Exception):
        pass

    def stop(done: int) -> None:
        if done == 5:
            raise Stop

    part = Campaign("w", 12, lying, folder=tmp_path / "part", shrinks=1)
    with pytest.raises(Stop):
        part.run(stop)
    rest = part.run()
    assert (rest.programs, rest.steps, rest.differences) == (whole.programs, whole.steps, whole.differences)
    other = Campaign("v", 3, lying, folder=tmp_path / "part")
    assert other.run().programs == 3


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fuzz", "--programs", "0"]) == 2
    assert main(["fuzz", "--against", "nothing"]) == 2
    assert main(["fuzz", "--against", "6.1-emulated"]) == 2
    assert "needs --oracle" in capsys.readouterr().err
    status = main(["fuzz", "--programs", "5", "--kernel", "6.1", "--seed", "ci", "-o", str(tmp_path)])
    out = capsys.readouterr().out
    assert out.startswith("5 programs, ") and status == (0 if " 0 programs differ, 0 broke" in out else 1)
    assert (tmp_path / "checkpoint.json").exists()


def test_releases_are_known() -> None:
    assert {name.partition("+mlock")[0] for name in RELEASES} <= set(kernels.RELEASES)


@pytest.mark.parametrize("lines", [
    "swap 2\nfile G tmpfs 2\np2 mmap B G private rw 0 2\np2 touch B 1 1 w\np2 madvise B 0 2 pageout\np2 touch B 0 1 r",
    "swap 2\np0 mmap B anon private rw 0 1\np0 touch B 0 1 w\np0 madvise B 0 1 pageout\np0 movepages B 0",
    "file G ext4 1\np2-3 mmap B G private rx 0 1\np3 touch B 0 1 r\nreclaim 1\np2 touch B 0 1 r\nreclaim 1",
    "swap 40\nfile G tmpfs 5\np0 mmap A G private rw 0 4 populate\np0 madvise A 0 4 pageout\n"
    "p0 fork p1\np0 touch A 1 1 w",
    "swap 2\nfile G tmpfs 1\np1 mmap B G private rw 0 1\np1 touch B 0 1 w\np1 madvise B 0 1 pageout\n"
    "p1 madvise B 0 1 dontneed",
    "file F tmpfs 0\np0-8 mmap A F shared r 0 17\np3-6 mlock A 0 17\nfwrite F 16 1\np3-6 touch A 16 1 r\n"
    "p0 movepages A 0",
    "p0 rlimit memlock -1\np0 setuid 1\np0 rlimit memlock -1",
    "swap 2\nfile F tmpfs 1\np0 mmap E F shared r 0 1 populate\npunch F 0 1\nreclaim 1",
    "file F ext4 4\np0 mmap A F shared rw 2147483647 8\np0 madvise A 2 6 willneed\np0 touch A 3 1 r",
], ids=["fault-around of swapped pages", "move_pages of a swapped page", "code stays active", "first swap fault",
        "swapped copies are given up", "which cpu drains first", "no limit is none",
        "reclaim of a page that no file has any more", "read ahead far beyond the end of a file"])
@pytest.mark.parametrize("kernel", ["5.10", "5.17-rc2", "5.17-rc2+10", "5.18", "6.1", "6.18"])
def test_what_campaigns_have_found(kernel: str, lines: str) -> None:
    outcome = against_exact(lines.splitlines(), lambda: System(kernel), lambda: ReferenceSystem(kernel))
    assert outcome.difference is None and not outcome.unsupported
