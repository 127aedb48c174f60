# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""mlock and munlock of one page up to patch 09; from patch 10 the batch does it (mm.mlock, flows.drain)."""


cdef int mlock_one(World *w, Task *t, Frame *f) noexcept nogil:
    """mlock_vma_page (to 05): mark, and move to the unevictable list through the lru_add batch. mlock_page (06 to
    09): mark, and count under the lruvec lock; a lost PG_lru ticket loses the count."""
    cdef uint32_t page = <uint32_t>f.a
    if f.pc == 0:
        if not w.tr.p06:
            if not set_page_mlocked(w, t.cpu, page):
                return ret(t, 0)
            return call(w, t, f, 3, F_ISOLATE, page)
        set_page_mlocked(w, t.cpu, page)
        if not test_clear(w, page, PG_lru):
            return ret(t, 0)
        w.lru_locks += 1
        return ask(t, f, 1, REQ_SPIN_LOCK, LK_LRU, lru_lock_of(w, page))
    if f.pc == 1:
        mlock_page_locked(w, t.cpu, page)
        return ask(t, f, 2, REQ_SPIN_UNLOCK, LK_LRU, lru_lock_of(w, page))
    if f.pc == 3 and t.res:
        return become(t, f, F_PUTBACK)
    return ret(t, 0)


cdef int munlock_one(World *w, Task *t, Frame *f) noexcept nogil:
    """munlock_vma_page of one page. Base: the page may be marked again by the walk that looks for other lockers;
    01 to 05: nobody looks; 06 to 09: the count under the lruvec lock decides."""
    cdef uint32_t page = <uint32_t>f.a
    cdef int n = nr_pages(w, page)
    if f.pc == 0:
        if w.tr.p06:
            w.lru_locks += 1
            return ask(t, f, 1, REQ_SPIN_LOCK, LK_LRU, lru_lock_of(w, page))
        if not test_clear(w, page, PG_mlocked):
            return ret(t, 0)
        mod_state(w, t.cpu, ST_MLOCK, -n)
        return call(w, t, f, 3, F_ISOLATE, page)
    if f.pc == 1:
        munlock_page_locked(w, t.cpu, page)
        return ask(t, f, 2, REQ_SPIN_UNLOCK, LK_LRU, lru_lock_of(w, page))
    if f.pc == 3:
        if not t.res:
            if test(w, page, PG_unevictable):
                count_event(w, t.cpu, EV_STRANDED, n)
            elif not w.tr.p01:
                count_event(w, t.cpu, EV_MUNLOCKED, n)
            return ret(t, 0)
        if not w.tr.p01 and page_mapcount(w, page) > 1 and not (n > 1 and test(w, page, PG_anon)):
            return call(w, t, f, 4, F_PAGE_MLOCK, page)
        f.pc = 4
    if f.pc == 4:
        if not test(w, page, PG_mlocked):
            count_event(w, t.cpu, EV_MUNLOCKED, n)
        return become(t, f, F_PUTBACK)
    return ret(t, 0)


cdef int clear_page_mlock(World *w, Task *t, Frame *f) noexcept nogil:
    """To patch 04: the last mapping went with PG_mlocked still set."""
    cdef uint32_t page = <uint32_t>f.a
    if f.pc == 0:
        if not test_clear(w, page, PG_mlocked):
            return ret(t, 0)
        mod_state(w, t.cpu, ST_MLOCK, -nr_pages(w, page))
        count_event(w, t.cpu, EV_CLEARED, nr_pages(w, page))
        return call(w, t, f, 1, F_ISOLATE, page)
    if t.res:
        return become(t, f, F_PUTBACK)
    if test(w, page, PG_unevictable):
        count_event(w, t.cpu, EV_STRANDED, nr_pages(w, page))
    return ret(t, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_MLOCK_PAGE] = mlock_one
    table[<int>F_MUNLOCK_PAGE] = munlock_one
    table[<int>F_CLEAR_MLOCK] = clear_page_mlock
