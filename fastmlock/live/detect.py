"""Tells by behaviour, not by version number, how a kernel handles mlocked pages: before the rework, after it, in part.

Every probe is a few calls of the scenario protocol, so that it runs on the running kernel (`LiveSystem`) as on any
model. Sources: KERNEL.md 1.7 (events), 3 (patches), 5 (later kernels), 7 (ready comparisons).
"""
from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

from fastmlock.scenario.run import FIRST_ADDRESS
from fastmlock.scenario.system import (
    MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, MLOCK_ONFAULT, PAGE_SIZE, PROT_NONE, PROT_READ, PROT_WRITE,
    Maker, SystemUnderTest, opened,
)

RW = PROT_READ | PROT_WRITE
CULLED, RESCUED = "unevictable_pgs_culled", "unevictable_pgs_rescued"
MLOCKED, MUNLOCKED = "unevictable_pgs_mlocked", "unevictable_pgs_munlocked"


class Answer(StrEnum):
    """What a probe says of the kernel."""

    AFTER = "after"
    BEFORE = "before"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Evidence:
    """One probe: what it looked at, what it saw, what that speaks for."""

    name: str
    question: str
    seen: str
    answer: Answer
    value: int | None = None
    """A measured number where there is one."""


@dataclass(frozen=True)
class Verdict:
    """``reworked`` is "yes", "no", "in part" or "unclear"."""

    reworked: str
    reason: str
    evidence: tuple[Evidence, ...]
    batch: int | None
    """Entries of the per-cpu mlock batch, None if there is none or it was not seen."""

    def __str__(self) -> str:
        return f"rework of mlock and munlock: {self.reworked}; {self.reason}"


class _Probe:
    """One process and what it does, with the counters' changes. Files and regions are made fresh."""

    def __init__(self, system: SystemUnderTest) -> None:
        self.system = system
        self.next = FIRST_ADDRESS + 0x1000000000

    def address(self) -> int:
        self.next += 0x10000000
        return self.next

    def anon(self, pid: int, pages: int, prot: int = RW) -> int:
        addr, err = self.system.mmap(pid, self.address(), pages * PAGE_SIZE, prot,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, None, 0)
        _needed(err, "mmap")
        return addr

    def shared(self, pid: int, file: int, pages: int) -> int:
        addr, err = self.system.mmap(pid, self.address(), pages * PAGE_SIZE, RW, MAP_SHARED | MAP_FIXED, file, 0)
        _needed(err, "mmap")
        return addr

    def changes(self, act: Callable[[], object]) -> dict[str, int]:
        """What the events change by, drained before and after."""
        self.system.drain_all()
        before = self.system.vmstat()
        act()
        self.system.drain_all()
        now = self.system.vmstat()
        return {name: now[name] - before[name] for name in now}


class ProbeFailed(Exception):
    """A probe could not do what it is made of."""


def _needed(err: int, what: str) -> None:
    if err:
        raise ProbeFailed(f"{what}: {errno.errorcode.get(err, err)}")


# ---- the probes; each is tried `TRIES` times where other programs could have been in between

PAIRS, PAGES, TRIES = 200, 32, 3
FAULTS, WINDOW = 96, 16


def probe_pairs(system: SystemUnderTest) -> Evidence:
    """mlock and munlock of one page again and again, while another process keeps it locked. After: the count goes up
    and down, no event but the first. Before: each munlock clears the mark, walks and marks again: counted mlocked."""
    probe = _Probe(system)
    file = system.create_file("tmpfs", 1)
    keeper, other = system.spawn(), system.spawn()
    for pid in (keeper, other):
        addr = probe.shared(pid, file, 1)
        system.touch(pid, addr, 1, True)
        if pid == keeper:
            _needed(system.mlock(pid, addr, PAGE_SIZE)[1], "mlock")

    def pairs() -> None:
        for _ in range(PAIRS):
            system.mlock(other, addr, PAGE_SIZE)
            system.munlock(other, addr, PAGE_SIZE)

    seen = probe.changes(pairs)
    mlocked, munlocked = seen[MLOCKED], seen[MUNLOCKED]
    text = f"{PAIRS} pairs beside another locker: mlocked {mlocked:+}, munlocked {munlocked:+}"
    for pid in (keeper, other):
        system.exit(pid)
    if mlocked == 0 and munlocked == 0:
        answer = Answer.AFTER
    elif mlocked >= PAIRS:
        answer = Answer.BEFORE
    else:
        answer = Answer.UNCLEAR
    return Evidence("pairs", "does a munlock beside another locker look for that locker?", text, answer, mlocked)


def probe_culled(system: SystemUnderTest) -> Evidence:
    """mlock/munlock pairs of one's own page. After: it goes to the unevictable list and back each time, culled and
    rescued. Before, the page waits in a per-cpu batch when munlock comes, and has never been culled; from patch 01 to
    06 munlock leaves it where it is."""
    probe = _Probe(system)
    pid = system.spawn()
    addr = probe.anon(pid, 1)
    system.touch(pid, addr, 1, True)

    def pairs() -> None:
        for _ in range(PAIRS):
            system.mlock(pid, addr, PAGE_SIZE)
            system.munlock(pid, addr, PAGE_SIZE)
            system.local_drain(pid)

    seen = probe.changes(pairs)
    culled, rescued = seen[CULLED], seen[RESCUED]
    system.exit(pid)
    good = culled >= PAIRS and rescued >= PAIRS
    return Evidence("culled", "do pages leave the unevictable list when they are munlocked?",
                    f"{PAIRS} pairs on one page: culled {culled:+}, rescued {rescued:+}",
                    Answer.AFTER if good else Answer.BEFORE, culled)


def probe_faultaround(system: SystemUnderTest) -> Evidence:
    """A touch of one page of a file locked ONFAULT: after, fault-around marks all it maps, 16 as a rule; before, none
    is marked until reclaim finds it."""
    probe = _Probe(system)
    file = system.create_file("tmpfs", PAGES)
    pid = system.spawn()
    addr = probe.shared(pid, file, PAGES)
    _needed(system.mlock2(pid, addr, PAGES * PAGE_SIZE, MLOCK_ONFAULT)[1], "mlock2")
    seen = probe.changes(lambda: system.touch(pid, addr, 1, False))[MLOCKED]
    system.exit(pid)
    answer = Answer.AFTER if seen >= 1 else Answer.BEFORE if seen == 0 else Answer.UNCLEAR
    return Evidence("faultaround", "does a fault in an ONFAULT area mark the pages that it maps?",
                    f"one page of {PAGES} touched: mlocked {seen:+}", answer, seen)


def probe_hole(system: SystemUnderTest) -> Evidence:
    """mlock over a hole fails with ENOMEM in both worlds. After, the present pages before the hole are marked."""
    probe = _Probe(system)
    pid = system.spawn()
    addr = probe.anon(pid, 8)
    system.touch(pid, addr, 8, True)
    _needed(system.munmap(pid, addr + 4 * PAGE_SIZE, PAGE_SIZE)[1], "munmap")
    replies: list[tuple[int, int]] = []
    seen = probe.changes(lambda: replies.append(system.mlock(pid, addr, 8 * PAGE_SIZE)))[MLOCKED]
    locked = system.vm_lck(pid)
    system.exit(pid)
    name = errno.errorcode.get(replies[0][1], "success")
    answer = Answer.UNCLEAR if replies[0][1] != errno.ENOMEM else Answer.AFTER if seen >= 4 else Answer.BEFORE
    return Evidence("hole", "does an mlock that fails at a hole mark the pages before it?",
                    f"{name}, VmLck {locked} kB, mlocked {seen:+} of 4", answer, seen)


def probe_prot_none(system: SystemUnderTest) -> Evidence:
    """mlock2(ONFAULT) of a PROT_NONE area: ENOMEM while populate looked at ONFAULT areas (before patch 02), 0 since."""
    probe = _Probe(system)
    pid = system.spawn()
    addr = probe.anon(pid, 4, PROT_NONE)
    _, err = system.mlock2(pid, addr, 4 * PAGE_SIZE, MLOCK_ONFAULT)
    system.exit(pid)
    answer = Answer.AFTER if not err else Answer.BEFORE if err == errno.ENOMEM else Answer.UNCLEAR
    return Evidence("prot_none", "does mlock2(ONFAULT) of PROT_NONE memory succeed?",
                    errno.errorcode.get(err, "0") if err else "it does", answer)


def probe_batch(system: SystemUnderTest) -> Evidence:
    """The mlock batch (patch 10), by its residue. Pages of an ONFAULT area are faulted in one at a time: they count as
    mlocked at once, as culled only when the batch is full. The most that are culled at once is its capacity."""
    probe = _Probe(system)
    pid = system.spawn()
    file = system.create_file("tmpfs", FAULTS * WINDOW, sparse=True)
    for fault in range(FAULTS):            # one page in each fault-around window, so that a fault maps one page
        system.pwrite(file, fault * WINDOW + WINDOW - 1, 1)
    addr = probe.shared(pid, file, FAULTS * WINDOW)
    _needed(system.mlock2(pid, addr, FAULTS * WINDOW * PAGE_SIZE, MLOCK_ONFAULT)[1], "mlock2")
    system.drain_all()
    counted = [system.vmstat()]
    for fault in range(FAULTS):
        system.touch(pid, addr + (fault * WINDOW + WINDOW - 1) * PAGE_SIZE, 1, False)
        counted.append(system.vmstat())
    system.drain_all()
    system.exit(pid)
    steps = [after[CULLED] - before[CULLED] for before, after in pairwise(counted)]
    marked = counted[-1][MLOCKED] - counted[0][MLOCKED]
    biggest = max(steps)
    waits = marked >= FAULTS and biggest > 1
    return Evidence("batch", "do mlocked pages wait in a per-cpu batch, and how many?",
                    f"{FAULTS} faults of a page each: mlocked {marked:+}, culled at most {biggest} at once",
                    Answer.AFTER if waits else Answer.BEFORE, biggest if waits else None)


Probe = Callable[[SystemUnderTest], Evidence]
PROBES: tuple[tuple[str, Probe], ...] = (
    ("01", probe_pairs), ("02", probe_prot_none), ("04", probe_faultaround), ("07", probe_culled),
    ("07", probe_hole), ("10", probe_batch))
"""Each with the patch of the series that changes its answer."""


def detect(make: Maker) -> Verdict:
    """Runs all probes, each on a fresh system of `make`, and again where the answer was unclear."""
    return verdict([_ask(probe, make) for _, probe in PROBES])


def _ask(probe: Probe, make: Maker) -> Evidence:
    evidence: list[Evidence] = []
    for _ in range(TRIES):
        with opened(make) as system:
            try:
                evidence.append(probe(system))
            except ProbeFailed as error:
                name = probe.__name__.removeprefix("probe_")
                evidence.append(Evidence(name, (probe.__doc__ or "").split(":")[0], str(error), Answer.UNCLEAR))
        # the machine's counters are everybody's: an answer counts when it has been given twice
        same = [one for one in evidence if one.answer == evidence[-1].answer]
        if len(same) > 1 and same[-1].answer != Answer.UNCLEAR:
            break
    return max(evidence, key=lambda one: (sum(one.answer == other.answer for other in evidence), one.value or 0))


def verdict(evidence: Sequence[Evidence]) -> Verdict:
    """What the answers of the probes, in the order of `PROBES`, say together."""
    answer = {one.name: one.answer for one in evidence}
    if answer.get("culled") == Answer.BEFORE:
        # what looks like a batch without a munlock that works is the older lru_add batch (patches 04 and 05)
        evidence = [replace(one, answer=Answer.BEFORE, value=None) if one.name == "batch" else one for one in evidence]
    clear = [(patch, one) for (patch, _), one in zip(PROBES, evidence) if one.answer != Answer.UNCLEAR]
    after = [f"{patch} ({one.name})" for patch, one in clear if one.answer == Answer.AFTER]
    before = [f"{patch} ({one.name})" for patch, one in clear if one.answer == Answer.BEFORE]
    batch = next((one.value for one in evidence if one.name == "batch"), None)
    unclear = [one.name for one in evidence if one.answer == Answer.UNCLEAR]
    note = f"; unclear: {', '.join(unclear)}" if unclear else ""
    if len(clear) < 4:
        return Verdict("unclear", f"only {len(clear)} of {len(evidence)} probes gave a clear answer{note}",
                       tuple(evidence), batch)
    if not before:
        reason = "all that can be seen from outside behaves as after patch 10; 08, 09 and 11 to 13 cannot be seen"
        return Verdict("yes", reason + note, tuple(evidence), batch)
    if not after:
        return Verdict("no", "everything behaves as before the series" + note, tuple(evidence), batch)
    return Verdict("in part", f"as after patches {', '.join(after)}; as before {', '.join(before)}" + note,
                   tuple(evidence), batch)
