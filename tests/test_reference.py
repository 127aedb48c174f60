"""The plain reference model, held against itself; tests/test_conformance.py holds it against the recordings."""
from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastmlock.reference import KERNELS, ReferenceSystem, traits_of
from fastmlock.reference.consistency import problems
from fastmlock.scenario import parse
from fastmlock.scenario.run import Runner
from fastmlock.scenario.system import NotSupported


def test_kernels():
    assert traits_of("5.17-rc5+07") is KERNELS["5.17-rc2+07"]
    assert [t.p06_mlock_count for t in KERNELS.values() if t.name.startswith("5.17")] == [False] * 6 + [True] * 8
    with pytest.raises(ValueError, match=r"unknown kernel '4\.4'"):
        traits_of("4.4")


# ---------------------------------------------------------------- random programs
REGIONS = "AB"
PAGES = st.integers(0, 20)
PROC = st.integers(0, 2).map("p{}".format)


@st.composite
def commands(draw):
    p, r = draw(PROC), draw(st.sampled_from(REGIONS))
    off, n = draw(PAGES), draw(st.integers(1, 34))
    kind = draw(st.sampled_from((
        "mlock", "mlock", "mlock", "munlock", "munlock", "mlock2", "touch", "touch", "touch", "mmap", "mmap", "munmap",
        "madvise", "mprotect", "mremap", "file", "drain", "ldrain", "mlockall", "munlockall", "cpu", "movepages",
        "compact", "dropcaches", "rlimit", "setuid")))
    match kind:
        case "mlock" | "munlock" | "munmap":
            return f"{p} {kind} {r} {off} {n}"
        case "mlock2":
            return f"{p} mlock2 {r} {off} {n} onfault"
        case "touch":
            return f"{p} touch {r} {off} {n} {draw(st.sampled_from('rw'))}"
        case "mmap":
            over = draw(st.sampled_from(("", "", f"at={r}+{off}")))
            what = draw(st.sampled_from(("F shared", "F private", "G shared", "G private", "anon private",
                                         "anon shared")))
            option = draw(st.sampled_from(("", "locked", "populate")))
            return f"{p} mmap {r} {what} {draw(st.sampled_from(('rw', 'r', 'none')))} {off} {n} {option} {over}"
        case "madvise":
            advice = draw(st.sampled_from((
                "willneed", "dontneed", "free", "remove", "cold", "pageout", "populate_read", "populate_write",
                "dontneed_locked", "sequential", "random", "dontfork", "dofork", "wipeonfork")))
            return f"{p} madvise {r} {off} {n} {advice}"
        case "mprotect":
            return f"{p} mprotect {r} {off} {n} {draw(st.sampled_from(('rw', 'r', 'none')))}"
        case "mremap":
            how = draw(st.sampled_from(("", "maymove", "move", "dontunmap", "move dontunmap")))
            return f"{p} mremap {r} {off} {n} {draw(st.sampled_from((n, n + 3, max(n - 2, 1))))} {how} {r}"
        case "file":
            f = draw(st.sampled_from("FG"))
            return draw(st.sampled_from((f"truncate {f} {off}", f"punch {f} {off} {n}", f"fadvise {f} {off} {n}",
                                         f"fwrite {f} {off} {n}", f"fread {f} {off} {n}")))
        case "drain" | "compact":
            return kind
        case "dropcaches":
            return "dropcaches 3"
        case "ldrain" | "munlockall":
            return f"{p} {kind}"
        case "mlockall":
            return f"{p} mlockall {draw(st.sampled_from(('current', 'future', 'current future', 'future onfault')))}"
        case "cpu":
            return f"{p} cpu {draw(st.integers(0, 1))}"
        case "movepages":
            return f"{p} movepages {r} {off}"
        case "rlimit":
            return f"{p} rlimit memlock {draw(st.integers(0, 40)) * 4096}"
    return f"{p} setuid 65534"


OPENING = ["file F tmpfs 20", "file G ext4 20", *(f"p{p} mmap A F shared rw 0 20" for p in (0, 1)),
           *(f"p{p} mmap B anon private rw 0 34" for p in (0, 1)), "p0 fork p2"]


def steps(runner):
    """Each command of the runner's scenario, after it ran; ends where a disk file would be read in large folios."""
    runner.start()
    for command in runner.scenario.commands:
        try:
            runner.step(command)
        except NotSupported as refusal:
            assert "large folios" in str(refusal), (command.text, refusal)
            return
        yield command


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(kernel=st.sampled_from(sorted(KERNELS)), program=st.lists(commands(), min_size=1, max_size=40))
def test_random_programs_leave_a_consistent_system(kernel, program):
    text = "\n".join([*OPENING, *program, "p0 exit", "p2 exit", "drain"])
    system = ReferenceSystem(kernel)
    runner = Runner(parse(text), system)
    for command in steps(runner):
        found = problems(system)
        assert not found, (command.text, found[:5])
        runner.look()


def test_nothing_is_left_when_all_have_gone():
    for kernel in KERNELS:
        system = ReferenceSystem(kernel)
        pages = len(system.k.pages)
        pids = [system.spawn() for _ in range(3)]
        pids.append(system.fork(pids[0]))
        for pid in pids:
            system.mmap(pid, 0x200000000000, 33 * 4096, 3, 0x100022 | 0x2000, None, 0)
            system.mlockall(pid, 3)
        for pid in pids:
            system.exit(pid)
        system.drain_all()
        assert not problems(system)
        if not traits_of(kernel).p01_no_page_mlock or traits_of(kernel).p02_no_foll_mlock:
            # with patch 01 alone, pages that the controller maps too stay marked
            assert system.vmstat()["nr_mlock"] == system.vmstat()["nr_unevictable"] == 0
        assert len(system.k.pages) - pages <= 16        # what the controller has copied or first written meanwhile
