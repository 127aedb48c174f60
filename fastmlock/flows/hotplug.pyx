# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""What leaves the machine: pages to another node, frames, cpus. (mm/migrate.c, mm/memory_hotplug.c, mm/page_alloc.c)

The specification, sections 1.4 and 4.1. While pages are moved no batch may hold on to one: from 5.13 every addition to
a batch is processed at once for as long, earlier kernels drain before each pass.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.lru cimport *

cdef enum:
    OFFLINE_PASSES = 5


cdef inline void lru_cache_disable(World *w, int by) noexcept nogil:
    if w.tr.lru_cache_disable:
        w.lru_disabled += by


cdef int move_page(World *w, Task *t, Frame *f) noexcept nogil:
    """Page a moves to node b - 1, if it is on a list once every cpu has drained. ret = moved."""
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        lru_cache_disable(w, 1)
        return call(w, t, f, 1, F_DRAIN_ALL, 0)
    if f.pc == 1:
        return call(w, t, f, 2, F_MIGRATE, f.a, f.b)
    lru_cache_disable(w, -1)
    return sysret(t, t.res, 0)


cdef void isolate_free(World *w, uint32_t *head, int64_t first, int64_t end) noexcept nogil:
    """Takes the free frames of [first, end) out of a free list."""
    cdef uint32_t page
    while head[0]:
        page = head[0]
        if first <= page < end:
            head[0] = w.pages[page].lru_next
            w.pages[page].flags = PG_offline
            w.pages[page].lru_next = 0
            w.pages_nfree -= 1
        else:
            head = &w.pages[page].lru_next


cdef void isolate_all_free(World *w, int64_t first, int64_t end) noexcept nogil:
    cdef int cpu
    isolate_free(w, &w.pages_free, first, end)
    for cpu in range(min(w.nr_cpus, PCP_LISTS)):
        isolate_free(w, &w.pcp[cpu], first, end)


cdef int offline_pages(World *w, Task *t, Frame *f) noexcept nogil:
    """Frames [a, b) leave the machine: the free ones are nobody's any more, what is in the others moves away, locked or
    not. ret = frames that are still in use after a few passes; then all come back. c = position, i = pass, d = the zero
    pages lie in another zone, and stay."""
    cdef int64_t left = 0
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        lru_cache_disable(w, 1)
        f.c = f.b
        f.pc = 3
        isolate_all_free(w, f.a, f.b)
    if f.pc == 1:
        isolate_all_free(w, f.a, f.b)
        f.pc = 2
    while True:
        if f.pc == 2:
            while f.c < f.b:
                f.c += 1
                if w.pages[f.c - 1].flags & PG_lru and w.pages[f.c - 1].refcount:
                    return call(w, t, f, 1, F_MIGRATE, f.c - 1)
            f.pc = 3
        for page in range(f.a, f.b):
            left += not w.pages[page].flags & (PG_offline | (PG_reserved if f.d else 0))
        if not left or f.i == OFFLINE_PASSES:
            lru_cache_disable(w, -1)
            if left:
                online_pages(w, f.a, f.b)
            return sysret(t, left, 0)
        f.i += 1
        f.c = f.a
        return call(w, t, f, 2, F_DRAIN_ALL, 0)


cdef void online_pages(World *w, int64_t first, int64_t end) noexcept nogil:
    """Frames of [first, end) that had left are free again."""
    cdef int64_t page
    for page in range(first, end):
        if w.pages[page].flags & PG_offline:
            w.pages[page].flags = PG_buddy
            w.pages[page].lru_next = w.pages_free
            w.pages_free = <uint32_t>page
            w.pages_nfree += 1


cdef int cpu_dead(World *w, Task *t, Frame *f) noexcept nogil:
    """A cpu (a) has died: its batches are drained, the mlock batch last, its free pages are everybody's, and what it
    has counted is added to what this one has."""
    cdef uint32_t *head = &w.pcp[f.a & (PCP_LISTS - 1)]
    cdef uint32_t page
    cdef int i
    if f.pc == 0:
        return call(w, t, f, 1, F_DRAIN, f.a)
    while head[0]:
        page = head[0]
        head[0] = w.pages[page].lru_next
        w.pages[page].lru_next = w.pages_free
        w.pages_free = page
    for i in range(NR_EVENTS):
        w.events[t.cpu * NR_EVENTS + i] += w.events[f.a * NR_EVENTS + i]
        w.events[f.a * NR_EVENTS + i] = 0
    for i in range(NR_STATS):
        w.stat[i] += w.stat_diff[f.a * NR_STATS + i]
        w.stat_diff[f.a * NR_STATS + i] = 0
    return sysret(t, 0, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_MOVE_PAGES] = move_page
    table[<int>F_OFFLINE] = offline_pages
    table[<int>F_CPU_DEAD] = cpu_dead
