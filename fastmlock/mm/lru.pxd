# LRU lists and the per-cpu batches in front of them. (include/linux/mm_inline.h, mm/swap.c)
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from fastmlock.state.types cimport *
from fastmlock.mm.mlock cimport mlock_batch_prepare
from fastmlock.mm.page cimport *
from fastmlock.mm.vmstat cimport *


cdef inline int page_lru(World *w, uint32_t page) noexcept nogil:
    cdef uint32_t flags = w.pages[page].flags
    if flags & PG_unevictable:
        return LRU_UNEVICTABLE
    return (0 if flags & PG_swapbacked else 2) + (1 if flags & PG_active else 0)


cdef inline uint32_t lru_lock_of(World *w, uint32_t page) noexcept nogil:
    """The object whose lru_lock protects the page's lists: its lruvec, or (5.10) its node."""
    if w.tr.lru_lock_per_memcg:
        return w.pages[page].lruvec
    return 1 + w.pages[page].node


cdef inline void add_page_to_lru_list(World *w, int cpu, uint32_t page, bint at_tail) noexcept nogil:
    """Accounts the page on its list and threads it, at the head unless `at_tail`. From patch 06 on the
    unevictable list is a size only, and the second word of the linkage holds mlock_count."""
    cdef int lru = page_lru(w, page)
    cdef Page *p = &w.pages[page]
    cdef Lruvec *lv = &w.lruvecs[p.lruvec]
    cdef int n = 1 << p.order
    lv.nr[lru] += n
    mod_state(w, cpu, lru, n)
    work(w, WK_LRU_SIZE, 1)
    if lru == LRU_UNEVICTABLE and w.tr.p06:
        return
    work(w, WK_LIST, 1)
    if at_tail:
        p.lru_next = 0
        p.lru_prev = lv.tail[lru]
        if lv.tail[lru]:
            w.pages[lv.tail[lru]].lru_next = page
            touch(w, lv.tail[lru], 0)
        else:
            lv.head[lru] = page
        lv.tail[lru] = page
    else:
        p.lru_prev = 0
        p.lru_next = lv.head[lru]
        if lv.head[lru]:
            w.pages[lv.head[lru]].lru_prev = page
            touch(w, lv.head[lru], 0)
        else:
            lv.tail[lru] = page
        lv.head[lru] = page


cdef inline void del_page_from_lru_list(World *w, int cpu, uint32_t page) noexcept nogil:
    cdef int lru = page_lru(w, page)
    cdef Page *p = &w.pages[page]
    cdef Lruvec *lv = &w.lruvecs[p.lruvec]
    cdef int n = 1 << p.order
    lv.nr[lru] -= n
    vm_bug_on(w, lv.nr[lru] < 0, BUG_LRU)
    mod_state(w, cpu, lru, -n)
    work(w, WK_LRU_SIZE, 1)
    if lru == LRU_UNEVICTABLE and w.tr.p06:
        p.lru_prev = 0              # the count is lost with the linkage word
        return
    work(w, WK_LIST, 1)
    if p.lru_prev:
        w.pages[p.lru_prev].lru_next = p.lru_next
        touch(w, p.lru_prev, 0)
    else:
        lv.head[lru] = p.lru_next
    if p.lru_next:
        w.pages[p.lru_next].lru_prev = p.lru_prev
        touch(w, p.lru_next, 0)
    else:
        lv.tail[lru] = p.lru_prev
    p.lru_next = p.lru_prev = 0


# ---- batches
cdef inline PageVec *cpu_pvec(World *w, int cpu, int kind) noexcept nogil:
    return &w.pvecs[cpu * NR_PVECS + kind]


cdef inline PageVec *task_pvec(World *w, int task, int which) noexcept nogil:
    return &w.tpvecs[task * NR_TPVECS + which]


cdef inline bint pvec_full(World *w, PageVec *pv, int kind) noexcept nogil:
    return pv.nr >= (w.tr.mlock_pvec_size if kind == PVEC_MLOCK else w.tr.pvec_size)


cdef inline bint pvec_add(World *w, int cpu, int kind, uint32_t page, int entry) noexcept nogil:
    """Queues a page on a batch of this cpu with a reference; true if the batch must be processed now."""
    cdef PageVec *pv = cpu_pvec(w, cpu, kind)
    get_page(w, page)
    vm_bug_on(w, pv.nr >= PVEC_MAX, BUG_PVEC)
    pv.page[pv.nr] = page
    pv.kind[pv.nr] = <uint8_t>entry
    pv.nr += 1
    work(w, WK_PVEC, 1)
    return pvec_full(w, pv, kind) or page_compound(w, page) or w.lru_disabled


cdef inline bint lru_cache_add(World *w, int cpu, uint32_t page) noexcept nogil:
    """Queues a page for the LRU; true if the lru_add batch must be processed now."""
    return pvec_add(w, cpu, PVEC_LRU_ADD, page, 0)


# one more use of a page; true if the activate batch must be processed now
cdef bint mark_page_used(World *w, int cpu, uint32_t page) noexcept nogil


cdef inline bint mark_page_accessed(World *w, int cpu, uint32_t page) noexcept nogil:
    """mark_page_used(), which has nothing to do for a page that is referenced and unevictable."""
    if (w.pages[page].flags & (PG_referenced | PG_unevictable)) == (PG_referenced | PG_unevictable):
        return False
    return mark_page_used(w, cpu, page)


# A batch is processed entry by entry: `prepare` does what comes before the lock and says whether the lock is
# needed; `commit` does what is done under it.
cdef inline bint pvec_prepare(World *w, int cpu, int kind, PageVec *pv, int i) noexcept nogil:
    """Before the lock: pages not yet on a list need it at once; the others only if the PG_lru ticket is won."""
    work(w, WK_PVEC, 1)
    if kind == PVEC_LRU_ADD:
        return True
    if kind == PVEC_MLOCK:
        return mlock_batch_prepare(w, cpu, pv.page[i], pv.kind[i])
    return test_clear(w, pv.page[i], PG_lru)


cdef void pvec_commit(World *w, int cpu, int kind, PageVec *pv, int i) noexcept nogil

# a page reaches its list, under the lruvec lock
cdef void lru_add_fn(World *w, int cpu, uint32_t page) noexcept nogil
