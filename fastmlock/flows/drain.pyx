# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""LRU batches and the freeing of pages: everything that takes lru_lock outside mlock itself. (mm/swap.c)"""
from fastmlock.flows.frame cimport *
from fastmlock.mm.hugetlb cimport free_compound_page
from fastmlock.mm.lru cimport *
from fastmlock.state.prefetch cimport PREFETCH_AHEAD, prefetch


cdef int lru_add_drain(World *w, Task *t, Frame *f) noexcept nogil:
    """Processes the batches of one cpu (a) in the kernel's order, mlock last."""
    while f.i < NR_PVECS:
        work(w, WK_DRAIN, 1)
        f.i += 1
        if cpu_pvec(w, <int>f.a, f.i - 1).nr:
            return call(w, t, f, 0, F_PVEC, f.a, f.i - 1)
    return ret(t, 0)


cdef int lru_add_drain_all(World *w, Task *t, Frame *f) noexcept nogil:
    """Every cpu with something in its batches drains; here they follow one another. i = whose turn it is
    (`drained_cpu`): at the request in front of it a driver may hold the task back while that cpu is busy."""
    if f.pc == 1:
        f.i += 1
        return call(w, t, f, 0, F_DRAIN, drained_cpu(t, f.i - 1))
    if f.i < w.nr_cpus:
        f.pc = 1
        return REQ_RESCHED
    return ret(t, 0)


cdef enum:
    PV_NEXT = 0
    PV_LOCK = 1
    PV_LOCKED = 2
    PV_UNLOCKED = 3
    PV_RELEASED = 4


cdef int pagevec_process(World *w, Task *t, Frame *f) noexcept nogil:
    """One batch: a = cpu, b = kind. The lock is held across consecutive entries of one lruvec (j = the lock held)
    and the references are dropped afterwards, which may free pages."""
    cdef int cpu = <int>f.a, kind = <int>f.b
    cdef PageVec *pv = cpu_pvec(w, cpu, kind)
    if f.pc == PV_LOCK:
        f.j = lru_lock_of(w, pv.page[f.i])
        w.lru_locks += 1
        return ask(t, f, PV_LOCKED, REQ_SPIN_LOCK, LK_LRU, f.j)
    if f.pc == PV_LOCKED:
        pvec_commit(w, cpu, kind, pv, f.i)
        f.i += 1
        f.pc = PV_NEXT
        if w.fine:
            return REQ_WORK
    if f.pc == PV_NEXT:
        while f.i < pv.nr:
            if pvec_prepare(w, cpu, kind, pv, f.i):
                if lru_lock_of(w, pv.page[f.i]) != <uint32_t>f.j:
                    if f.j:
                        return ask(t, f, PV_LOCK, REQ_SPIN_UNLOCK, LK_LRU, f.j)
                    f.pc = PV_LOCK
                    return REQ_NONE
                pvec_commit(w, cpu, kind, pv, f.i)
            f.i += 1
            if w.fine:
                return REQ_WORK
        f.pc = PV_UNLOCKED
        if f.j:
            return ask(t, f, PV_UNLOCKED, REQ_SPIN_UNLOCK, LK_LRU, f.j)
    if f.pc == PV_UNLOCKED:
        return call(w, t, f, PV_RELEASED, F_RELEASE, list_ref(LIST_CPU_PVEC, cpu * NR_PVECS + kind), pv.nr)
    pv.nr = 0
    return ret(t, 0)


cdef inline void final_free(World *w, int cpu, uint32_t page) noexcept nogil:
    """The page is off the LRU and unreferenced."""
    final_clearance(w, cpu, page)
    if test(w, page, PG_head):
        free_compound_page(w, page)
    else:
        free_page(w, cpu, page)


cdef inline void final_clearance(World *w, int cpu, uint32_t page) noexcept nogil:
    """From patch 05 a PG_mlocked left over is cleared when the page is freed."""
    if w.pages[page].flags & PG_mlocked:
        mod_state(w, cpu, ST_MLOCK, -nr_pages(w, page))
        count_event(w, cpu, EV_CLEARED, nr_pages(w, page))


cdef inline void chain_freed(World *w, int cpu, Frame *f, uint32_t page) noexcept nogil:
    """Adds a freed page to what this release_pages() will give back at its end: c = first, d = last. Through 6.8 the
    last page is freed first, so that the first one is the next to be allocated."""
    final_clearance(w, cpu, page)
    if test(w, page, PG_head):
        free_compound_page(w, page)
        return
    free_page_prepare(w, page)
    if not f.c:
        f.c = f.d = page
        w.pages[page].lru_next = 0
    elif w.tr.release_reverses:
        w.pages[<uint32_t>f.d].lru_next = page
        w.pages[page].lru_next = 0
        f.d = page
    else:
        w.pages[page].lru_next = <uint32_t>f.c
        f.c = page
    f.k += 1


cdef inline void give_back(World *w, int cpu, Frame *f) noexcept nogil:
    """The chain goes in front of the cpu's free list."""
    cdef uint32_t *head = &w.pcp[cpu & (PCP_LISTS - 1)]
    if f.c:
        w.pages[<uint32_t>f.d].lru_next = head[0]
        head[0] = <uint32_t>f.c
        w.pages_nfree += f.k
        work(w, WK_FREE, f.k)
        f.c = f.k = 0


cdef inline void take_off_lru(World *w, int cpu, uint32_t page) noexcept nogil:
    del_page_from_lru_list(w, cpu, page)
    w.pages[page].flags &= ~<uint32_t>(PG_lru | PG_active | PG_unevictable)


cdef enum:
    LOCK_BATCH = 32         # pages after which the lruvec lock is let go (SWAP_CLUSTER_MAX)
    RL_NEXT = 0
    RL_LOCK = 1
    RL_LOCKED = 2
    RL_DONE = 3


cdef inline int releasing_cpu(Task *t, int64_t ref) noexcept nogil:
    """A cpu's batch is worked off on that cpu, whoever asked for it."""
    return <int>(ref // NR_PVECS) if ref >> 40 == LIST_CPU_PVEC else t.cpu


cdef int release_pages(World *w, Task *t, Frame *f) noexcept nogil:
    """Drops a reference of each of b pages of list a. Those whose last it was leave the LRU, under one lruvec lock
    (j = the lock held) for up to 32 of them, and are freed in the end, without it. 0 entries are holes. c, d, k = the
    freed ones."""
    cdef uint32_t *list = list_pages(w, f.a)
    cdef int cpu = releasing_cpu(t, f.a)
    cdef uint32_t page
    cdef int i
    if f.pc == RL_DONE:
        give_back(w, cpu, f)
        return ret(t, 0)
    if f.pc == RL_LOCK:
        f.j = lru_lock_of(w, list[f.i])
        w.lru_locks += 1
        return ask(t, f, RL_LOCKED, REQ_SPIN_LOCK, LK_LRU, f.j)
    if f.pc == RL_LOCKED:
        take_off_lru(w, cpu, list[f.i])
        chain_freed(w, cpu, f, list[f.i])
        f.i += 1
    i = f.i
    while i < f.b:
        page = list[i]
        if i + PREFETCH_AHEAD < f.b:
            prefetch(&w.pages[list[i + PREFETCH_AHEAD]])
        if test(w, page, PG_tail | PG_reserved):
            page = list[i] = compound_head(w, page) if test(w, page, PG_tail) else 0
        if page and put_page_testzero(w, page):
            if test(w, page, PG_lru):
                if lru_lock_of(w, page) != <uint32_t>f.j:
                    f.i = i
                    if f.j:
                        return ask(t, f, RL_LOCK, REQ_SPIN_UNLOCK, LK_LRU, f.j)
                    f.pc = RL_LOCK
                    return REQ_NONE
                take_off_lru(w, cpu, page)
            chain_freed(w, cpu, f, page)
        i += 1
        if f.j and i % LOCK_BATCH == 0:
            f.i = i
            page = f.j
            f.j = 0
            return ask(t, f, RL_NEXT, REQ_SPIN_UNLOCK, LK_LRU, page)
        if i & 511 == 0:                # let the time of 512 pages pass
            f.i = i
            f.pc = RL_NEXT
            return REQ_WORK
    if f.j:
        return ask(t, f, RL_DONE, REQ_SPIN_UNLOCK, LK_LRU, f.j)
    give_back(w, cpu, f)
    return ret(t, 0)


cdef int free_unreferenced(World *w, Task *t, Frame *f) noexcept nogil:
    """__page_cache_release and the freeing of one page (a) whose last reference was dropped."""
    cdef uint32_t page = <uint32_t>f.a
    if f.pc == 0:
        if test(w, page, PG_lru):
            w.lru_locks += 1
            return ask(t, f, 1, REQ_SPIN_LOCK, LK_LRU, lru_lock_of(w, page))
    elif f.pc == 1:
        f.j = lru_lock_of(w, page)
        take_off_lru(w, t.cpu, page)
        return ask(t, f, 2, REQ_SPIN_UNLOCK, LK_LRU, f.j)
    final_free(w, t.cpu, page)
    return ret(t, 0)


cdef int isolate_lru_page(World *w, Task *t, Frame *f) noexcept nogil:
    """Takes a page off its list: res = 1 if the PG_lru ticket was won, with a reference for the winner."""
    cdef uint32_t page = <uint32_t>f.a
    if f.pc == 0:
        if not test_clear(w, page, PG_lru):
            return ret(t, 0)
        get_page(w, page)
        w.lru_locks += 1
        return ask(t, f, 1, REQ_SPIN_LOCK, LK_LRU, lru_lock_of(w, page))
    if f.pc == 1:
        del_page_from_lru_list(w, t.cpu, page)
        return ask(t, f, 2, REQ_SPIN_UNLOCK, LK_LRU, lru_lock_of(w, page))
    return ret(t, 1)


cdef int putback_lru_page(World *w, Task *t, Frame *f) noexcept nogil:
    """An isolated page goes back through the lru_add batch; the isolation's reference is dropped."""
    cdef uint32_t page = <uint32_t>f.a
    if f.pc == 0 and lru_cache_add(w, t.cpu, page):
        return call(w, t, f, 1, F_PVEC, t.cpu, PVEC_LRU_ADD)
    if put_page_testzero(w, page):
        return become(t, f, F_FREE_PAGE)
    return ret(t, 0)


cdef int local_drain(World *w, Task *t, Frame *f) noexcept nogil:
    if f.pc == 0:
        return call(w, t, f, 1, F_DRAIN, t.cpu)
    return sysret(t, 0, 0)


cdef int sys_drain_all(World *w, Task *t, Frame *f) noexcept nogil:
    if f.pc == 0:
        return call(w, t, f, 1, F_DRAIN_ALL, 0)
    return sysret(t, 0, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_DRAIN] = lru_add_drain
    table[<int>F_DRAIN_ALL] = lru_add_drain_all
    table[<int>F_PVEC] = pagevec_process
    table[<int>F_RELEASE] = release_pages
    table[<int>F_FREE_PAGE] = free_unreferenced
    table[<int>F_ISOLATE] = isolate_lru_page
    table[<int>F_PUTBACK] = putback_lru_page
    table[<int>F_LOCAL_DRAIN] = local_drain
    table[<int>F_SYS_DRAIN_ALL] = sys_drain_all
