# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Reclaim by scanning the LRU lists: lazy culling, and the repair of pages that lost their mark. (mm/vmscan.c)

The specification, section 2.8, and patch 13. One pass ages the active list, then reclaims from the inactive one; the
lists of anonymous memory and tmpfs are scanned if there is a swap device. How many pages a kernel would scan is the
caller's choice, but for a memory cgroup that is told to give up all it can.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport mlock_page
from fastmlock.mm.lru cimport *
from fastmlock.mm.interval_tree cimport tree_next_overlap
from fastmlock.mm.mlock cimport vma_counts_mlock, vma_counts_mlocks
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport *
from fastmlock.mm.rmap_walk cimport page_vma_mapped, rmap_next

cdef enum:
    SWAP_CLUSTER_MAX = 32
    SCAN_FAR = 8
    IDLE_PASSES = 3


# ---- page_referenced
cdef enum:
    PR_TRIED = 1
    PR_NEXT = 2
    PR_PTL = 3
    PR_PTL_FREE = 4
    PR_DONE = 5


cdef int page_referenced(World *w, Task *t, Frame *f) noexcept nogil:
    """Collects and clears the young bits of every entry that maps page a, up to the first locked vma. From patch 13
    that one restores a mark the page has missed. i = tree node, j = leaf, k = answer, b = vpn, c = lock class, d =
    lock."""
    cdef uint32_t page = <uint32_t>f.a
    cdef Page *p = &w.pages[page]
    cdef uint64_t pte
    cdef Vma *v
    cdef int entry, called
    if f.pc == 0 and test(w, page, PG_head):
        return become(t, f, F_THP_REFERENCED)
    if f.pc == 0:
        f.c = rmap_lock_class(w, page)
        f.d = rmap_lock(w, page)
        if w.tr.rmap_trylock:
            return ask(t, f, PR_TRIED, REQ_DOWN_READ_TRYLOCK, <int>f.c, <uint32_t>f.d)
        return ask(t, f, PR_NEXT, REQ_DOWN_READ, <int>f.c, <uint32_t>f.d)
    if f.pc == PR_TRIED:
        if not t.res:
            return ret(t, -1)
        f.pc = PR_NEXT
    while True:
        if f.pc == PR_NEXT:
            if f.k & SEEN_LOCKED or not rmap_next(w, page, PTE_PRESENT, page, &f.i, &f.b, &f.j):
                return ask(t, f, PR_DONE, REQ_UP_READ, <int>f.c, <uint32_t>f.d)
            return ask(t, f, PR_PTL, REQ_SPIN_LOCK, LK_PTL, f.j)
        if f.pc == PR_PTL:
            v = &w.vmas[w.nodes[f.i].vma]
            entry = <int>(f.b & 511)
            pte = pte_get(w, f.j, entry)
            f.pc = PR_PTL_FREE
            if not page_vma_mapped(w, pte, PTE_PRESENT, page):
                pass                                # gone meanwhile
            elif v.flags & VM_LOCKED:
                f.k |= SEEN_LOCKED
                if w.tr.p13 and vma_counts_mlock(w, v, page):
                    called = mlock_page(w, t, f, PR_PTL_FREE, page)
                    if called != -1:
                        return called
            elif pte & PTE_YOUNG:
                pte_flags(w, f.j, entry, 0, PTE_YOUNG)
                if not v.flags & VM_SEQ_READ:
                    f.k += 1
                    if v.flags & VM_EXEC:
                        f.k |= SEEN_EXEC
        if f.pc == PR_PTL_FREE:
            return ask(t, f, PR_NEXT, REQ_SPIN_UNLOCK, LK_PTL, f.j)
        if f.pc == PR_DONE:
            return ret(t, f.k)


cdef enum:
    TR_TRIED = 1
    TR_VMA = 2
    TR_ENTRY = 3
    TR_PTL = 4
    TR_PTL_FREE = 5
    TR_WHOLE = 6
    TR_DONE = 7


cdef inline void whole_in_vma(World *w, Vma *v, uint32_t head, int64_t *first) noexcept nogil:
    """Where the vma maps the THP's first page, or would."""
    first[0] = v.start + (w.pages[head].index - v.pgoff)


cdef int thp_referenced(World *w, Task *t, Frame *f) noexcept nogil:
    """page_referenced of a THP, a = its head: vma by vma, huge pmds and ptes of any part of it. Up to patch 12 the
    first locked vma ends the walk; from 13 on only one that maps it by a pmd, whose missed mark it restores, and ptes
    in a locked vma are like any other. From 6.7 they are passed over, and 512 in one page table count as a pmd. i =
    tree node, j = leaf, k = answer, b = vpn, c = ptes of a locked vma, d = page-table entry held."""
    cdef uint32_t head = <uint32_t>f.a
    cdef int64_t first
    cdef int entry, called
    cdef uint64_t pte
    cdef Vma *v
    if f.pc == 0:
        if w.tr.rmap_trylock:
            return ask(t, f, TR_TRIED, REQ_DOWN_READ_TRYLOCK, <int>rmap_lock_class(w, head), <uint32_t>rmap_lock(w, head))
        return ask(t, f, TR_VMA, REQ_DOWN_READ, <int>rmap_lock_class(w, head), <uint32_t>rmap_lock(w, head))
    if f.pc == TR_TRIED:
        if not t.res:
            return ret(t, -1)
        f.pc = TR_VMA
    while True:
        if f.pc == TR_VMA:
            f.i = 0 if f.k & SEEN_LOCKED else tree_next_overlap(w, rmap_tree(w, head), f.i, w.pages[head].index,
                                                                w.pages[head].index + THP_PAGES - 1)
            work(w, WK_RMAP_VMA, 1)
            if not f.i:
                return ask(t, f, TR_DONE, REQ_UP_READ, <int>rmap_lock_class(w, head), <uint32_t>rmap_lock(w, head))
            v = &w.vmas[w.nodes[f.i].vma]
            whole_in_vma(w, v, head, &first)
            f.b = max(first, v.start)
            f.c = 0
            f.pc = TR_ENTRY
        if f.pc == TR_DONE:
            return ret(t, f.k)
        v = &w.vmas[w.nodes[f.i].vma]
        whole_in_vma(w, v, head, &first)
        entry = <int>(f.b & 511)
        if f.pc == TR_ENTRY:
            f.b = next_mapped(w, v.mm, f.b, min(v.end, first + THP_PAGES))
            if f.b >= min(v.end, first + THP_PAGES) or f.k & SEEN_LOCKED:
                f.pc = TR_VMA
                continue
            f.j = find_leaf(w, v.mm, f.b)
            return ask(t, f, TR_PTL, REQ_SPIN_LOCK, LK_PTL, f.j)
        if f.pc == TR_PTL:
            pte = pte_get(w, f.j, entry)
            f.pc = TR_PTL_FREE
            if not page_vma_mapped(w, pte, PTE_PRESENT, head + <uint32_t>(f.b - first)):
                pass
            elif pmd_huge(w, f.j):
                if v.flags & VM_LOCKED:
                    f.k |= SEEN_LOCKED
                    if w.tr.p13 and vma_counts_mlocks(w, v):
                        called = mlock_page(w, t, f, TR_PTL_FREE, head)
                        if called != -1:
                            return called
                elif pte & PTE_YOUNG:
                    huge_pmd_flags(w, f.j, 0, PTE_YOUNG)
                    f.k = seen(f.k, v)
                f.b |= 511
            elif v.flags & VM_LOCKED and not w.tr.p13:
                f.k |= SEEN_LOCKED
            elif v.flags & VM_LOCKED and w.tr.large_folio:
                f.c += 1
                if f.c == THP_PAGES and not first & (THP_PAGES - 1):
                    f.k |= SEEN_LOCKED
                    if vma_counts_mlocks(w, v):
                        called = mlock_page(w, t, f, TR_PTL_FREE, head)
                        if called != -1:
                            return called
            elif pte & PTE_YOUNG:
                pte_flags(w, f.j, entry, 0, PTE_YOUNG)
                f.k = seen(f.k, v)
        if f.pc == TR_PTL_FREE:
            f.b += 1
            return ask(t, f, TR_ENTRY, REQ_SPIN_UNLOCK, LK_PTL, f.j)


cdef inline int seen(int before, Vma *v) noexcept nogil:
    """One more young entry."""
    if v.flags & VM_SEQ_READ:
        return before
    return before + 1 | (SEEN_EXEC if v.flags & VM_EXEC else 0)


# ---- one list of one lruvec
cdef enum:
    SL_DRAINED = 1
    SL_LOCKED = 2
    SL_TAKEN = 3
    SL_PAGE = 4
    SL_AGED = 5
    SL_SHRUNK = 6
    SL_ADD = 7
    SL_ADDED = 8
    SL_UNLOCKED = 9
    SL_PUT = 10
    SL_RELEASED = 11


cdef int shrink_list(World *w, Task *t, Frame *f) noexcept nogil:
    """At most c pages from the tail of list b (| SCAN_FAR: what is freed will not be back soon) of lruvec a, 32 at a
    time, isolated into the task's gather; a THP counts 512 and is taken all the same. Those of the active list lose
    their young bits and PG_active; those of the inactive list are reclaimed if they can be, the tails of a THP that is
    split among them. What is left goes back: unevictable pages through the lru_add batch, the others at once. res =
    pages freed. d = freed, i = pages looked at, j = position, k = the lock, then how many are freed and stand in
    front."""
    cdef uint32_t *taken = list_pages(w, list_ref(LIST_GATHER, task_index(w, t)))
    cdef Lruvec *lv = &w.lruvecs[f.a]
    cdef uint32_t page
    cdef int lru = <int>f.b & ~SCAN_FAR
    cdef bint rotated
    if f.pc == 0:
        if not f.c:
            return ret(t, f.d)
        return call(w, t, f, SL_DRAINED, F_DRAIN, t.cpu)
    if f.pc == SL_DRAINED:
        if not lv.tail[lru]:
            return ret(t, f.d)
        w.lru_locks += 1
        f.k = lru_lock_of(w, lv.tail[lru])
        return ask(t, f, SL_LOCKED, REQ_SPIN_LOCK, LK_LRU, f.k)
    if f.pc == SL_LOCKED:
        f.i = f.j = t.gather = 0
        page = lv.tail[lru]
        while page and f.i < SWAP_CLUSTER_MAX and f.c:
            f.c = max(f.c - nr_pages(w, page), 0)
            f.i += nr_pages(w, page)
            # being freed, or somebody else has the ticket: the scan ends here
            if not w.pages[page].refcount or not test_clear(w, page, PG_lru):
                break
            get_page(w, page)
            del_page_from_lru_list(w, t.cpu, page)
            taken[t.gather] = page
            t.gather += 1
            page = lv.tail[lru]
        return ask(t, f, SL_TAKEN, REQ_SPIN_UNLOCK, LK_LRU, f.k)
    if f.pc == SL_TAKEN:
        if not t.gather:
            return ret(t, f.d)
        f.k = 0
        f.pc = SL_PAGE
    while True:
        if f.pc == SL_RELEASED:
            t.gather = 0
            if not lv.tail[lru]:
                return ret(t, f.d)
            f.pc = 0
            return REQ_RESCHED
        if f.pc == SL_PAGE:
            if f.j == t.gather:
                return call(w, t, f, SL_RELEASED, F_RELEASE, list_ref(LIST_GATHER, task_index(w, t)), f.k)
            page = taken[f.j]
            if lru & 1:
                f.pc = SL_UNLOCKED
                if page_evictable(w, page) and page_mapped(w, page) and trylock_page(w, page):
                    return call(w, t, f, SL_AGED, F_PAGE_REFERENCED, page)
            else:
                return call(w, t, f, SL_SHRUNK, F_SHRINK_PAGE, page, SHRINK_ASK | (SHRINK_FAR if f.b & SCAN_FAR else 0))
        page = taken[f.j]
        if f.pc == SL_AGED:
            # code that is in use goes round again
            rotated = t.res > 0 and t.res & SEEN_EXEC and not w.pages[page].flags & PG_swapbacked
            return ask(t, f, SL_ADD if rotated else SL_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, page)
        if f.pc == SL_UNLOCKED:
            w.pages[page].flags &= ~<uint32_t>PG_active
            w.pages[page].flags |= PG_workingset
            f.pc = SL_ADD
        if f.pc == SL_SHRUNK:
            if t.res:
                taken[f.k] = page
                f.k += 1
                f.d += 1
                f.j += 1
                f.pc = SL_PAGE
                continue
            f.pc = SL_ADD
        if f.pc == SL_ADD:
            if not page_evictable(w, page):
                f.j += 1
                return call(w, t, f, SL_PAGE, F_PUTBACK, page)
            w.lru_locks += 1
            return ask(t, f, SL_ADDED, REQ_SPIN_LOCK, LK_LRU, lru_lock_of(w, page))
        if f.pc == SL_ADDED:
            lru_add_fn(w, t.cpu, page)
            return ask(t, f, SL_PUT, REQ_SPIN_UNLOCK, LK_LRU, lru_lock_of(w, page))
        if f.pc == SL_PUT:
            f.j += 1
            f.pc = SL_PAGE
            if put_page_testzero(w, page):
                return call(w, t, f, SL_PAGE, F_FREE_PAGE, page)


cdef int sys_reclaim(World *w, Task *t, Frame *f) noexcept nogil:
    """One pass over the lists of every lruvec: a = pages of each. Or (a < 0) passes over all there is, until some in a
    row have freed nothing. i = list of all, j = passes without effect, k = freed before this pass, d = freed."""
    cdef int lists = 4 if w.swap_pages else 2
    cdef int lru
    if f.pc == 1:
        f.d += t.res
    if f.i == lists * w.nr_lruvecs and f.a < 0:
        f.j = f.j + 1 if f.d == f.k else 0
        f.k = <int32_t>f.d
        if f.j < IDLE_PASSES:
            f.i = 0
    if f.i < lists * w.nr_lruvecs:
        lru = f.i % lists
        f.i += 1
        lru = (LRU_INACTIVE_FILE if lru < 2 else LRU_INACTIVE_ANON) + (0 if lru & 1 else 1)
        return call(w, t, f, 1, F_SHRINK_LIST, 1 + (f.i - 1) // lists, lru | (SCAN_FAR if f.a < 0 else 0),
                    f.a if f.a >= 0 else w.pages_used)
    return sysret(t, f.d, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_PAGE_REFERENCED] = page_referenced
    table[<int>F_THP_REFERENCED] = thp_referenced
    table[<int>F_SHRINK_LIST] = shrink_list
    table[<int>F_SYS_RECLAIM] = sys_reclaim
