# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""LRU batches: what is done to each entry before and under the lruvec lock (mm/swap.c, mm/mlock.c)."""
from fastmlock.mm.mlock cimport mlock_batch_commit


cdef bint mark_page_used(World *w, int cpu, uint32_t page) noexcept nogil:
    """First use sets PG_referenced; the second moves the page to the active list (by batch), and a page still
    waiting in this cpu's lru_add batch gets PG_active there. Unevictable pages are left alone."""
    cdef Page *p = &w.pages[page]
    cdef PageVec *pv
    cdef bint full = False
    cdef int i
    if p.flags & PG_tail:
        page = p.compound_head
        p = &w.pages[page]
    if not p.flags & PG_referenced:
        p.flags |= PG_referenced
        touch(w, page, 1)
        return False
    if p.flags & PG_unevictable:
        return False
    if not p.flags & PG_active:
        if p.flags & PG_lru:
            full = pvec_add(w, cpu, PVEC_ACTIVATE, page, 0)
        else:
            pv = cpu_pvec(w, cpu, PVEC_LRU_ADD)
            for i in range(pv.nr - 1, -1, -1):
                if pv.page[i] == page:
                    p.flags |= PG_active
                    break
        p.flags &= ~<uint32_t>PG_referenced
        touch(w, page, 1)
    return full


cdef void pvec_commit(World *w, int cpu, int kind, PageVec *pv, int i) noexcept nogil:
    cdef uint32_t page = pv.page[i]
    if kind == PVEC_LRU_ADD:
        lru_add_fn(w, cpu, page)
    elif kind == PVEC_MLOCK:
        mlock_batch_commit(w, cpu, page, pv.kind[i])
    else:
        lru_move_fn(w, cpu, kind, page)
        w.pages[page].flags |= PG_lru
        touch(w, page, 1)


cdef void lru_add_fn(World *w, int cpu, uint32_t page) noexcept nogil:
    """A page reaches its list for the first time, or comes back to it."""
    cdef Page *p = &w.pages[page]
    cdef bint was_unevictable = test_clear(w, page, PG_unevictable)
    p.flags |= PG_lru
    touch(w, page, 1)
    if page_evictable(w, page):
        if was_unevictable:
            count_event(w, cpu, EV_RESCUED, nr_pages(w, page))
    else:
        p.flags &= ~<uint32_t>PG_active
        p.flags |= PG_unevictable
        touch(w, page, 2)
        if w.tr.p06:
            # 06 to 09 count the lock that brought it here; from 10 the batch entry behind it does
            p.lru_prev = 1 if not w.tr.p10 and p.flags & PG_mlocked else 0
        if not was_unevictable:
            count_event(w, cpu, EV_CULLED, nr_pages(w, page))
    add_page_to_lru_list(w, cpu, page, False)


cdef void lru_move_fn(World *w, int cpu, int kind, uint32_t page) noexcept nogil:
    """One entry of the activate, deactivate, lazyfree or rotate batch; the ticket is held."""
    cdef Page *p = &w.pages[page]
    cdef bint tail = False
    if p.flags & PG_unevictable:
        return
    if kind == PVEC_ACTIVATE:
        if p.flags & PG_active:
            return
        del_page_from_lru_list(w, cpu, page)
        p.flags |= PG_active
    elif kind == PVEC_DEACTIVATE:
        if not p.flags & PG_active:
            return
        del_page_from_lru_list(w, cpu, page)
        p.flags &= ~<uint32_t>(PG_active | PG_referenced)
    elif kind == PVEC_DEACTIVATE_FILE:
        if page_mapped(w, page):
            return
        del_page_from_lru_list(w, cpu, page)
        p.flags &= ~<uint32_t>(PG_active | PG_referenced)
        if p.flags & (PG_dirty | PG_writeback):
            p.flags |= PG_reclaim
        else:
            tail = True
    elif kind == PVEC_LAZYFREE:
        if not (p.flags & PG_anon and p.flags & PG_swapbacked) or p.flags & PG_swapcache:
            return
        del_page_from_lru_list(w, cpu, page)
        p.flags &= ~<uint32_t>(PG_active | PG_referenced | PG_swapbacked)
    else:
        del_page_from_lru_list(w, cpu, page)
        p.flags &= ~<uint32_t>PG_active
        tail = True
    touch(w, page, 1)
    add_page_to_lru_list(w, cpu, page, tail)
