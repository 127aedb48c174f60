"""What the exit of some processes would be, file by file: storms.

Of a file a storm has what decides: how many leave, how many pages each has mlocked, and what the search for other
lockers meets of VMAs on the way. That order is i_mmap's (by the first page, then by age); where a locker stays, the
search ends at it. Pages that nobody else maps are a storm of their own: for them no kernel searches.
"""
from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

from fastmlock.studies.storm import MAX_MAP_COUNT, Storm

from .record import File, Snapshot


@dataclass(frozen=True)
class Part:
    """A part of the pages that leave with some processes, and the storm that stands for it."""

    file: File
    shared: bool            #: others map these pages, too
    storm: Storm


@dataclass(frozen=True)
class Others:
    """What a search for other lockers meets besides the leaving lockers themselves, averaged over the pages."""

    passed: float           #: VMAs that are no locker of those that leave, up to the first locker of those that stay
    stays: float            #: share of the pages which somebody who stays has locked
    before: float           #: share of the pages where that one comes before all that leave


def others(file: File, snapshot: Snapshot, leaving: Collection[int]) -> Others:
    """`Others` of `file` when `leaving` leave, over the pages that they have mlocked and others map. Which pages of a
    mapping these are is not known; they are taken to be spread evenly."""
    order = sorted(file.mappings, key=lambda one: (one.first, snapshot.processes[one.pid].started, one.pid))
    leavers = {one for one in order if one.shared and one.pid in leaving}
    edges = sorted({edge for one in file.mappings for edge in (one.first, one.first + one.pages)})
    passed = stays = before = weight = 0.0
    for first, end in pairwise(edges):
        here = [one for one in order if one.first <= first < one.first + one.pages]
        share = sum((end - first) * one.shared / one.pages for one in here if one in leavers)
        if not share:
            continue
        ends = [i for i, one in enumerate(here) if one.resident and one.pid not in leaving]
        begins = next(i for i, one in enumerate(here) if one in leavers)
        stop = ends[0] if ends else len(here)
        weight += share
        passed += share * sum(one not in leavers for one in here[:stop])
        stays += share * bool(ends)
        before += share * (stop < begins)
    return Others(passed / weight, stays / weight, before / weight)


def parts(snapshot: Snapshot, leaving: Collection[int], *, machine: str = "generic") -> list[Part]:
    """All pages that `leaving` have mlocked: each file's in the snapshot's order, those first that others map. Raises
    StormError where one of the storms cannot be run."""
    found = []
    cpus = max(2, snapshot.cpus)
    for file in snapshot.files:
        of = {pid: [one for one in file.mappings if one.pid == pid] for pid in sorted(file.lockers & set(leaving))}
        shared = {pid: sum(one.shared for one in mine) for pid, mine in of.items()}
        alone = [sum(one.resident - one.shared for one in mine) for mine in of.values()]
        leavers = [pid for pid, pages in shared.items() if pages]
        if leavers:
            met = others(file, snapshot, leavers)
            # whose mappings are passed, the search does not ask: one process has them all
            maps = min(round(met.passed), MAX_MAP_COUNT)
            found.append(Part(file, True, Storm(
                procs=len(leavers), pages=max(1, round(sum(shared.values()) / len(leavers))), cpus=cpus,
                machine=machine, mappers=min(maps, 1), maps=max(maps, 1),
                survivor="none" if met.stays < 0.5 else "before" if met.before > met.stays / 2 else "after")))
        if any(alone):      # each has its own; they do not meet
            found.append(Part(file, False, Storm(procs=1, pages=max(alone), cpus=cpus, machine=machine)))
    return found


__all__ = ["Others", "Part", "others", "parts"]
