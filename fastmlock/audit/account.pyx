# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""What a kernel's account of locked pages has wrong, held against the page tables themselves."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from fastmlock.mm.pgtable cimport *
from fastmlock.state.types cimport *
from fastmlock.state.world cimport WorldHandle

from dataclasses import dataclass

import numpy as np

from fastmlock.state.layout import K


@dataclass(frozen=True)
class Audit:
    """Numbers of base pages, but for the counter."""

    locked: int
    """Mapped by a present entry of a locked vma."""
    unmarked: int
    """Locked, and not Mlocked."""
    left_marked: int
    """Mlocked, and locked by nobody."""
    evictable: int
    """Locked, and on an evictable list."""
    left_unevictable: int
    """On the unevictable list, locked by nobody, and of a mapping that is evictable."""
    count_low: int
    """On the unevictable list with an mlock_count below the number of locked entries (from patch 06)."""
    count_high: int
    """The same, above."""
    nr_mlock_off: int
    """The counter nr_mlock less the pages that are locked."""

    @property
    def right(self):
        """Nothing is wrong."""
        return not (self.unmarked or self.left_marked or self.evictable or self.left_unevictable or self.count_low
                    or self.count_high or self.nr_mlock_off)


def lockers(WorldHandle world):
    """Present entries of locked VMAs, by page frame: int32[pages in use]."""
    cdef World *w = world.w
    found = np.zeros(w.pages_used, np.int32)
    cdef int32_t[::1] count = found
    cdef uint32_t vma
    cdef int task
    with nogil:
        for task in range(1, w.nr_tasks):
            vma = w.mms[w.tasks[task].mm].vma if w.tasks[task].mm else 0
            while vma:
                if w.vmas[vma].flags & VM_LOCKED and not w.vmas[vma].flags & VM_SPECIAL:
                    count_vma(w, vma, count)
                vma = w.vmas[vma].next
    return found


cdef void count_vma(World *w, uint32_t vma, int32_t[::1] count) noexcept nogil:
    cdef Vma *v = &w.vmas[vma]
    cdef int64_t vpn = v.start
    cdef uint64_t pte
    while vma_next_entry(w, v, &vpn, &pte):
        vpn += 1
        if (pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT:
            count[pte_pfn(pte)] += 1


def audit(WorldHandle world):
    """-> `Audit` of the world as it stands; drain the batches first to see what is wrong for good."""
    count = lockers(world)
    pages = world.pages[:len(count)]
    flags = pages["flags"]
    used = (flags & (K.PG_buddy | K.PG_reserved) == 0) & (pages["refcount"] > 0)
    locked = used & (count > 0)
    mlocked = used & (flags & K.PG_mlocked != 0)
    listed = used & (flags & K.PG_lru != 0)
    unevictable = listed & (flags & K.PG_unevictable != 0)
    file = flags & K.PG_anon == 0
    pinned = file & (world.mappings["unevictable"][np.where(file, pages["mapping"], 0)] != 0)
    counted = unevictable & bool(world.traits.p06)
    nr_mlock = int(world.stat[K.ST_MLOCK] + world.stat_diff[:, K.ST_MLOCK].sum())
    number = lambda which: int(np.count_nonzero(which))
    return Audit(
        locked=number(locked),
        unmarked=number(locked & ~mlocked),
        left_marked=number(mlocked & ~locked),
        evictable=number(locked & listed & ~unevictable),
        left_unevictable=number(unevictable & ~locked & ~pinned),
        count_low=number(counted & (pages["lru_prev"] < count)),
        count_high=number(counted & (pages["lru_prev"] > count)),
        nr_mlock_off=nr_mlock - number(locked),
    )
