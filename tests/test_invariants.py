"""What must hold between any two calls holds after every recorded step and every step of random programs."""
from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_reference import OPENING, commands, steps

from fastmlock import kernels
from fastmlock.scenario import parse, recordings
from fastmlock.scenario.run import Runner, run
from fastmlock.audit.consistency import problems
from fastmlock.state.world import ModelError
from fastmlock.system import System

MIB = 1 << 20


@pytest.mark.parametrize("kernel", recordings.kernels())
def test_recorded_scenarios(kernel: str) -> None:
    for name in recordings.scenarios(kernel):
        system = System(recordings.release(kernel))
        for record in run(recordings.scenario(name), system, image=True):
            assert not problems(system), (name, record["step"], record["cmd"], problems(system))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(kernel=st.sampled_from(sorted(kernels.RELEASES)), program=st.lists(commands(), min_size=1, max_size=40))
def test_random_programs(kernel: str, program: list[str]) -> None:
    scenario = parse("\n".join([*OPENING, *program, "p0 exit", "p2 exit", "drain"]))
    for _ in steps(Runner(scenario, System(kernel, check=True))):       # it looks after every call
        pass


PLACES = st.tuples(st.integers(0, 11), st.integers(1, 12)).map(lambda at: (at[0], min(at[1], 12 - at[0])))
DONTUNMAP = st.one_of(
    st.tuples(PLACES, st.sampled_from(["mremap A {0} {1} {1} maymove dontunmap A",
                                       "mremap A {0} {1} {1} move dontunmap M",
                                       "touch A {0} {1} w", "touch A {0} {1} r", "mlock A {0} {1}", "munlock A {0} {1}",
                                       "mlock2 A {0} {1} onfault", "munmap A {0} {1}", "mprotect A {0} {1} r",
                                       "madvise A {0} {1} dontneed", "movepages A {0}"]))
    .map(lambda made: made[1].format(*made[0])),
    st.sampled_from(["mlockall current", "mlockall current future", "munlockall", "ldrain"]))


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(kernel=st.sampled_from(sorted(kernels.RELEASES)),
       memory=st.sampled_from(["anon private", "anon shared", "F private", "F shared"]),
       program=st.lists(st.tuples(st.sampled_from("001"), DONTUNMAP), min_size=2, max_size=16))
def test_memory_left_by_mremap_dontunmap(kernel: str, memory: str, program: list[tuple[str, str]]) -> None:
    """The old vma is unlocked around pages that stay in it, in most kernels; that alone may be off."""
    lines = ["file F tmpfs 12", *(f"p{p} mmap A {memory} rw 0 12 locked" for p in (0, 1)),
             *(f"p{p} {command}" for p, command in program), "drain", "p0 exit", "p1 exit", "drain"]
    runner = Runner(parse("\n".join(lines)), System(kernel, check=True))
    runner.start()
    for command in runner.scenario.commands:
        runner.step(command)


def small_machine(kernel: str = "6.1") -> System:
    s = System(kernel, check=False)
    file = s.create_file("tmpfs", 8)
    for pid in (s.spawn(), s.spawn()):
        for at, what in ((0x100000000000, file), (0x110000000000, None)):
            s.mmap(pid, at, 8 * 4096, 3, (0x1 | 0x10) if what else (0x22 | 0x10), what, 0)
            s.mlock(pid, at, 8 * 4096)
    s.drain_all()
    assert problems(s) == []
    return s


def pages_of(s: System, flag: str) -> int:
    """Number of a page whose letters include `flag`."""
    return next(pfn for pfn in range(1, len(s.pages)) if flag in s.page(pfn)[1])


@pytest.mark.parametrize(("array", "field", "what"), [
    ("pages", "refcount", "refcount"), ("pages", "mapcount", "mapcount"), ("mms", "locked_vm", "locked_vm"),
    ("mms", "total_vm", "total_vm"), ("mms", "rss", "rss"), ("mms", "map_count", "map_count"),
    ("mappings", "nrpages", "nrpages"), ("mappings", "nr_vmas", "tree"), ("vmas", "pgoff", "tree")])
def test_one_wrong_number_is_seen(array: str, field: str, what: str) -> None:
    s = small_machine()
    at = {"pages": pages_of(s, "M"), "mms": int(s.tasks["mm"][2]), "mappings": 1,
          "vmas": int(s.mms["vma"][int(s.tasks["mm"][2])])}[array]
    s.arrays[array][field][at] += 1
    assert any(what in problem for problem in problems(s)), problems(s)


@pytest.mark.parametrize(("kernel", "change", "what"), [
    ("6.1", lambda s: s.pages["lru_prev"].__setitem__(pages_of(s, "U"), 9), "mlock_count 9"),
    ("6.1", lambda s: s.lruvecs["nr"].__setitem__((1, 4), 3), "unevictable: size 3"),
    ("6.1", lambda s: s.events.__setitem__((0, 3), 5), "mlocked - munlocked"),
    ("6.1", lambda s: s.stat.__setitem__(5, 77), "nr_mlock"),
    ("5.10", lambda s: s.pages["lru_next"].__setitem__(int(s.lruvecs["head"][1, 4]), 0), "links"),
    ("6.1", lambda s: s.pages["flags"].__setitem__(pages_of(s, "M"), 1 << 2 | 1 << 8), "evictable and on")])
def test_one_wrong_state_is_seen(kernel: str, change, what: str) -> None:
    s = small_machine(kernel)
    change(s)
    assert any(what in problem for problem in problems(s)), problems(s)


def test_a_checking_system_raises() -> None:
    s = small_machine()
    s.checking = True
    s.drain_all()
    s.mms["locked_vm"][int(s.tasks["mm"][2])] += 1
    with pytest.raises(ModelError, match="locked_vm"):
        s.drain_all()
