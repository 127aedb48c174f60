"""Cpus and memory that leave, pages on other nodes and of other memory cgroups. The two models are held against each
other where both can do it; else what must add up is looked at (fastmlock.audit.consistency, after every call)."""
from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from fastmlock.audit.consistency import problems
from fastmlock.fuzz.generate import EVERYTHING, program
from fastmlock.fuzz.pair import against_exact
from fastmlock.reference import ReferenceSystem
from fastmlock.reference.consistency import problems as reference_problems
from fastmlock.scenario import conformance, recordings
from fastmlock.scenario.language import parse
from fastmlock.scenario.run import run
from fastmlock.system import System

AT, PAGE = 0x100000000000, 4096
KERNELS = ["5.10", "5.17-rc2", "5.17-rc2+06", "5.17-rc2+13", "6.1", "6.12", "6.18"]
MODELS = pytest.mark.parametrize("model", [System, ReferenceSystem], ids=["compiled", "plain"])
SWITCH = "sysctl /sys/devices/system/cpu/cpu1/online"


# ---- as recorded

@MODELS
@pytest.mark.parametrize("kernel", ["5.10", "6.1", "6.12"])
def test_recordings(kernel: str, model: type) -> None:
    """No step may differ, in no field."""
    there = recordings.hotplug(kernel)
    assert len(there) == 3
    for name, (scenario, real) in there.items():
        held = conformance.hold(scenario, real, kernel, lambda release: model(release, cpus=3))
        assert held.comparison is not None and held.comparison.equal_soft == held.comparison.steps, (
            name, held.unsupported, held.failure, held.comparison and held.comparison.differing[:2])


def test_there_is_no_block_where_there_is_no_page() -> None:
    for model in (System, ReferenceSystem):
        records = list(run(parse("p0 mmap A anon private rw 0 4\np0 touch A 0 1 r\np0 offline A 0\np0 offline A 1\n"),
                           model("6.1")))
        assert [(record["ret"], record["err"]) for record in records[3:]] == [(-1, "EINVAL")] * 2


# ---- cpus

UNPLUGGED = f"""file F tmpfs 8
p0-1 mmap A F shared rw 0 8
p1 cpu 1
p1 mmap B anon private rw 0 5 locked
p1 mlock2 A 0 4 onfault
p1 touch A 0 4 r
p1 munlock A 1 1
{SWITCH} 0
p1 touch A 4 2 r
{SWITCH} 1
p1 cpu 1
p1 touch A 6 2 r
"""


@MODELS
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_dead_cpu_is_drained_and_its_task_goes_on_elsewhere(kernel: str, model: type) -> None:
    system = model(kernel)
    records = list(run(parse(UNPLUGGED), system))
    flags = "".join(entry[4] for region in records[8]["p"]["p1"]["reg"].values() for entry in region["pg"])
    assert records[8]["ret"] == 0 and "L" in flags
    for region in records[8]["p"]["p1"]["reg"].values():
        assert all(not entry[4] or "L" in entry[4] for entry in region["pg"]), "nothing waits in a batch any more"
    if model is System:
        assert system.tasks["cpu"][3] == 1 and not problems(system)
        assert not (system.pvecs[1]["nr"][:6]).any() or kernel == "6.18"
    else:
        assert not reference_problems(system)


def test_switches_that_are_not_there() -> None:
    for system in (System("6.1"), ReferenceSystem("6.1")):
        assert system.sysctl("/sys/devices/system/cpu/cpu0/online", "0") == (-1, errno.ENOENT)
        assert system.sysctl("/sys/devices/system/cpu/cpu2/online", "0") == (-1, errno.ENOENT)
        assert system.sysctl("/sys/devices/system/cpu/cpu1/online", "x") == (-1, errno.EINVAL)
        for value in "0011":
            assert system.sysctl("/sys/devices/system/cpu/cpu1/online", value) == (0, 0)
    s = System("6.1")
    s.set_cpu_online(1, False)
    pid = s.spawn()
    with pytest.raises(ValueError, match="cpu 1 is offline"):
        s.set_cpu(pid, 1)
    with pytest.raises(ValueError, match="cpu 1 is offline"):
        s.spawn(cpu=1)


# ---- memory

def locked_file(model: type, kernel: str) -> tuple[object, int, list[int]]:
    """Two lockers of an 8-page file, the first of which has 4 locked pages of anonymous memory; all settled."""
    s = model(kernel)
    file = s.create_file("tmpfs", 8)
    pids = [s.spawn(), s.spawn()]
    for pid in pids:
        s.mmap(pid, AT, 8 * PAGE, 3, 0x1 | 0x10, file, 0)
        s.mlock(pid, AT, 8 * PAGE)
    s.mmap(pids[0], 2 * AT, 4 * PAGE, 3, 0x22 | 0x10 | 0x2000, None, 0)
    s.drain_all()
    return s, file, pids


def state(s: object, file: int, pids: list[int]) -> list[object]:
    """Counters and pages, without the frames they lie in."""
    of = [s.page(s.cached(file, n)) for n in range(8)]
    of += [s.page(s.pte(pids[0], 2 * AT + n * PAGE)[1]) for n in range(4)]
    return [s.vmstat(), of]


@pytest.mark.parametrize("kernel", ["5.10", *(f"5.17-rc2+{n:02}" for n in (1, 4, 6, 7, 8, 10, 11)), "6.1", "6.12"])
def test_locked_memory_moves_away_when_its_frames_leave(kernel: str) -> None:
    after = []
    for model in (System, ReferenceSystem):
        s, file, pids = locked_file(model, kernel)
        where = sorted([s.cached(file, n) for n in range(8)] + [s.pte(pids[0], 2 * AT + n * PAGE)[1] for n in range(4)])
        assert s.offline_pages(where[0], where[-1] - where[0] + 1) == (0, 0)
        there = {s.cached(file, n) for n in range(8)} | {s.pte(pids[0], 2 * AT + n * PAGE)[1] for n in range(4)}
        assert not there & set(where) and len(there) == 12
        s.drain_all()
        after.append(state(s, file, pids))
        for pid in pids:
            s.munlock(pid, AT, 8 * PAGE)
        after.append(state(s, file, pids))
        if model is System:
            assert not problems(s)
            assert s.online_pages(where[0], where[-1] - where[0] + 1) == (0, 0) and not problems(s)
        else:
            assert not reference_problems(s)
    assert after[:2] == after[2:]


def test_what_cannot_move_keeps_its_frames() -> None:
    s, _, pids = locked_file(System, "6.1")
    assert s.offline_pages(1, len(s.pages) + 1) == (-1, errno.EINVAL)
    zero = int((s.pages["flags"] & (1 << 18) != 0).nonzero()[0][0])
    assert s.offline_pages(zero, 4) == (-1, errno.EBUSY)
    assert not problems(s)
    assert s.touch(pids[0], AT, 8, True) == (8, 0)


# ---- nodes and memory cgroups

class Scattered(System):
    """Processes take turns in memory cgroups and nodes."""

    def __init__(self, kernel: str) -> None:
        self.turn = 0
        super().__init__(kernel, cpus=2, nodes=2, memcgs=3, check=True)

    def spawn(self, *, cpu: int = 0) -> int:
        self.turn += 1
        return super().spawn(cpu=cpu, memcg=self.turn % 3, node=(None, 0, 1)[self.turn % 3])


@pytest.mark.parametrize("kernel", ["5.10", "5.17-rc2", "5.17-rc2+04", "5.17-rc2+07", "5.17-rc2+13", "6.1", "6.12"])
def test_who_is_charged_changes_nothing_that_a_process_sees(kernel: str) -> None:
    """Random programs over six lruvecs agree with the reference, which has one, in all but what depends on the order of
    lists: reclaim is left out."""
    profile = replace(EVERYTHING, leave_out=frozenset({"reclaim", "sysctl", "dontunmap", "mremap", "pageout"}), swap=0)
    for index in range(12):
        outcome = against_exact(program("scattered", index, profile).splitlines(), lambda: Scattered(kernel),
                                lambda: ReferenceSystem(kernel))
        assert outcome.difference is None, (index, outcome.difference)


@pytest.mark.parametrize("kernel", ["5.10", "6.1"])
def test_the_first_toucher_pays(kernel: str) -> None:
    s = System(kernel, cpus=2, nodes=2, memcgs=2, check=True)
    file = s.create_file("tmpfs", 4, sparse=True)
    p, q = s.spawn(memcg=0, node=1), s.spawn(memcg=1)
    for pid in (p, q):
        s.mmap(pid, AT, 4 * PAGE, 3, 0x1 | 0x10, file, 0)
    s.touch(p, AT, 2, True)
    s.touch(q, AT, 4, True)
    for pid in (p, q):
        s.mlock(pid, AT, 4 * PAGE)
    s.mmap(q, 2 * AT, PAGE, 3, 0x22 | 0x10 | 0x2000, None, 0)
    s.drain_all()
    assert s.memory_stat(0)["unevictable"] == 2 * PAGE and s.memory_stat(1)["unevictable"] == 3 * PAGE
    assert [int(s.pages[s.cached(file, n)]["node"]) for n in range(4)] == [1, 1, 0, 0]
    total = s.vmstat()
    assert total["nr_unevictable"] == 5
    assert len({int(s.pages[s.cached(file, n)]["lruvec"]) for n in range(4)}) == 2


@pytest.mark.parametrize("kernel", ["5.10", "5.17-rc2", "5.17-rc2+06", "5.17-rc2+08", "6.1", "6.12"])
def test_a_locked_page_moves_to_another_node_and_stays_locked(kernel: str) -> None:
    s = System(kernel, cpus=2, nodes=2, check=True)
    pid = s.spawn()
    s.mmap(pid, AT, 2 * PAGE, 3, 0x22 | 0x10 | 0x2000, None, 0)
    before = s.vmstat()
    assert s.move_pages(pid, AT, 1) == (1, 0) and s.move_pages(pid, AT, 1) == (1, 0)
    s.drain_all()
    page = s.pages[s.pte(pid, AT)[1]]
    assert int(page["node"]) == 1 and "LUM" in s.page(s.pte(pid, AT)[1])[1]
    change = {name: s.vmstat()[name] - before[name] for name in before}
    events = {name: change[f"unevictable_pgs_{name}"] for name in ("mlocked", "stranded", "cleared", "rescued")}
    new = s.traits.p08
    assert events == {"mlocked": 1, "stranded": 1, "cleared": int(not s.traits.p05), "rescued": new}, change
    assert s.move_pages(pid, AT, 2) == (-errno.ENODEV, 0) and s.move_pages(pid, 3 * AT, 1) == (-errno.EFAULT, 0)
    child = s.fork(pid)
    assert s.move_pages(child, AT, 0) == (-errno.EACCES, 0)


def test_groups_and_nodes_that_are_not_there() -> None:
    s = System("6.1")
    for wrong in ({"memcg": 1}, {"memcg": -1}, {"node": 1}, {"cpu": 2}):
        with pytest.raises(ValueError, match=r"there are [12]"):
            s.spawn(**wrong)
