# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""mlock and munlock of one page with mlock_count: one at a time (patches 06 to 09), by batch (from 10).

mlock_count lives in the second word of the LRU linkage and is valid only while PG_lru (or the ticket of it) and
PG_unevictable are both set, under the lruvec lock.
"""
from fastmlock.mm.lru cimport add_page_to_lru_list, del_page_from_lru_list


cdef inline void cull(World *w, int cpu, uint32_t page, uint32_t count) noexcept nogil:
    """From an evictable list to the unevictable one."""
    cdef Page *p = &w.pages[page]
    del_page_from_lru_list(w, cpu, page)
    p.flags &= ~<uint32_t>PG_active
    p.flags |= PG_unevictable
    p.lru_prev = count
    touch(w, page, 2)
    add_page_to_lru_list(w, cpu, page, False)
    count_event(w, cpu, EV_CULLED, nr_pages(w, page))


cdef inline void rescue(World *w, int cpu, uint32_t page) noexcept nogil:
    """From the unevictable list to its evictable one."""
    del_page_from_lru_list(w, cpu, page)
    w.pages[page].flags &= ~<uint32_t>PG_unevictable
    touch(w, page, 1)
    add_page_to_lru_list(w, cpu, page, False)
    count_event(w, cpu, EV_RESCUED, nr_pages(w, page))


# ---- patch 10: the batch
cdef void mlock_batch_commit(World *w, int cpu, uint32_t page, int entry) noexcept nogil:
    cdef Page *p = &w.pages[page]
    if entry == LRU_PAGE:
        if page_evictable(w, page):
            if p.flags & PG_unevictable:
                rescue(w, cpu, page)
        elif p.flags & PG_unevictable:
            if p.flags & PG_mlocked:
                p.lru_prev += 1
        else:
            cull(w, cpu, page, 1 if p.flags & PG_mlocked else 0)
    elif entry == NEW_PAGE:
        if not page_evictable(w, page):
            p.flags |= PG_unevictable
            p.lru_prev = 1 if p.flags & PG_mlocked else 0
            count_event(w, cpu, EV_CULLED, nr_pages(w, page))
        add_page_to_lru_list(w, cpu, page, False)
    else:
        munlock_counted(w, cpu, page)
    p.flags |= PG_lru
    touch(w, page, 1)


cdef inline void munlock_counted(World *w, int cpu, uint32_t page) noexcept nogil:
    cdef Page *p = &w.pages[page]
    if p.flags & PG_unevictable:
        if p.lru_prev:
            p.lru_prev -= 1
        if p.lru_prev:
            return
    clear_page_mlocked(w, cpu, page, True)
    if p.flags & PG_unevictable and page_evictable(w, page):
        rescue(w, cpu, page)


# ---- patches 06 to 09: one page, one lock
cdef void mlock_page_locked(World *w, int cpu, uint32_t page) noexcept nogil:
    """The ticket was won, the lock is held."""
    cdef Page *p = &w.pages[page]
    if p.flags & PG_unevictable:
        p.lru_prev += 1
    else:
        cull(w, cpu, page, 1)
    p.flags |= PG_lru
    touch(w, page, 1)


cdef void munlock_page_locked(World *w, int cpu, uint32_t page) noexcept nogil:
    """No ticket is taken here: two munlocks of one page serialise on the lock."""
    cdef Page *p = &w.pages[page]
    cdef bint listed = (p.flags & PG_lru) != 0
    if listed and p.flags & PG_unevictable:
        if p.lru_prev:
            p.lru_prev -= 1
        if p.lru_prev:
            return
    clear_page_mlocked(w, cpu, page, listed or not p.flags & PG_unevictable)
    if listed and p.flags & PG_unevictable and page_evictable(w, page):
        rescue(w, cpu, page)
