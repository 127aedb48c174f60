# What mlock and munlock do to one page, at every point of the series. (mm/mlock.c)
from libc.stdint cimport int64_t, uint32_t
from fastmlock.state.types cimport *
from fastmlock.mm.page cimport *
from fastmlock.mm.vmstat cimport *


cdef inline bint set_page_mlocked(World *w, int cpu, uint32_t page) noexcept nogil:
    """PG_mlocked 0 -> 1 with its counters; false if it was set already."""
    if test_set(w, page, PG_mlocked):
        return False
    mod_state(w, cpu, ST_MLOCK, nr_pages(w, page))
    count_event(w, cpu, EV_MLOCKED, nr_pages(w, page))
    return True


cdef inline bint vma_counts_mlocks(World *w, Vma *vma) noexcept nogil:
    """Patch 04: entries of this vma count as locks. VM_IO (patch 07) or any VM_SPECIAL bit (5.18) beside VM_LOCKED says
    no."""
    cdef uint64_t mask = VM_LOCKED
    if w.tr.special_check:
        mask |= VM_SPECIAL
    elif w.tr.p07:
        mask |= VM_IO
    return (vma.flags & mask) == VM_LOCKED


cdef inline bint vma_counts_mlock(World *w, Vma *vma, uint32_t page) noexcept nogil:
    """Patch 04: a pte in this vma counts as a lock of the page; ptes of a THP never do, its pmd does."""
    return vma_counts_mlocks(w, vma) and not page_compound(w, page)


cdef inline bint pte_munlocks(World *w, Vma *vma, uint32_t page) noexcept nogil:
    """Patch 04: a pte that goes from this vma takes a lock back: of a base page; from 6.7 of a whole large folio,
    whichever page of it is unmapped."""
    return vma_counts_mlocks(w, vma) and (w.tr.large_folio or not page_compound(w, page))


cdef inline void clear_page_mlocked(World *w, int cpu, uint32_t page, bint reachable) noexcept nogil:
    """The last lock is believed gone. `reachable`: the page could be moved now, or need not be."""
    if test_clear(w, page, PG_mlocked):
        mod_state(w, cpu, ST_MLOCK, -nr_pages(w, page))
        count_event(w, cpu, EV_MUNLOCKED if reachable else EV_STRANDED, nr_pages(w, page))


# ---- patches 10 on: one entry of the mlock batch, before and under the lruvec lock
cdef inline bint mlock_batch_prepare(World *w, int cpu, uint32_t page, int entry) noexcept nogil:
    """True if the entry goes on under the lock. A mlock that loses the PG_lru ticket is lost; a munlock that
    loses it clears PG_mlocked at once, whoever else may lock the page."""
    if entry == NEW_PAGE:
        return True
    if test_clear(w, page, PG_lru):
        return True
    if entry == MUNLOCK_PAGE:
        clear_page_mlocked(w, cpu, page, not test(w, page, PG_unevictable))
    return False


cdef void mlock_batch_commit(World *w, int cpu, uint32_t page, int entry) noexcept nogil

# patches 06 to 09: mlock and munlock of one page, under the lruvec lock
cdef void mlock_page_locked(World *w, int cpu, uint32_t page) noexcept nogil
cdef void munlock_page_locked(World *w, int cpu, uint32_t page) noexcept nogil
