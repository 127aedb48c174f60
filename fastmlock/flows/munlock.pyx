# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""munlock before the series: the range engine, the isolation batch, and the walk that looks for other lockers.

The specification, sections 2.5 to 2.7. Patch 01 deletes all of it.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.interval_tree cimport tree_next
from fastmlock.mm.lru cimport *
from fastmlock.mm.mlock cimport set_page_mlocked
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.ksm cimport rmap_next_ksm
from fastmlock.mm.rmap cimport rmap_lock, rmap_tree
from fastmlock.mm.vma cimport set_vm_flags


# ---- page_mlock: the reverse-map walk
cdef enum:
    WALK_NEXT = 1
    WALK_PTL = 2
    WALK_SEEN = 3
    WALK_END = 4
    WALK_UNLOCK = 5
    WALK_DONE = 6


cdef inline bint pte_maps(World *w, uint32_t leaf, int i, uint32_t page) noexcept nogil:
    cdef uint64_t pte = pte_get(w, leaf, i)
    return (pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT and pte_pfn(pte) == page


cdef uint32_t next_locked_ksm(World *w, uint32_t page, Frame *f, int64_t *visits) noexcept nogil:
    """The next place of a KSM page that lies in a locked vma: its leaf, with node and address in the frame."""
    while rmap_next_ksm(w, page, PTE_PRESENT, page, &f.i, &f.b, &f.j, visits):
        if w.vmas[w.nodes[f.i].vma].flags & VM_LOCKED:
            return f.j
    return 0


cdef int page_mlock(World *w, Task *t, Frame *f) noexcept nogil:
    """Is the page (a) still mapped by a VM_LOCKED vma? The caller holds the page lock and has the page isolated.
    Under the rmap lock for read, VMAs are visited in tree order until a locked one maps the page: it is marked
    again and the walk stops. i = tree node, j = leaf, k = stop, b = vpn, c = lock class, d = lock."""
    cdef uint32_t page = <uint32_t>f.a
    cdef Page *p = &w.pages[page]
    cdef int64_t visits
    cdef Vma *vma
    cdef uint32_t leaf = 0
    if f.pc == 0:
        w.rmap_walks += 1
        f.c = LK_ANON_VMA if p.flags & PG_anon else LK_I_MMAP
        f.d = rmap_lock(w, page)
        return ask(t, f, WALK_NEXT, REQ_DOWN_READ, <int>f.c, <uint32_t>f.d)
    if f.pc == WALK_PTL:
        # the flag is read again under the page-table lock: munlock clears it before it fills its batch
        vma = &w.vmas[w.nodes[f.i].vma]
        if vma.flags & VM_LOCKED and pte_maps(w, f.j, <int>(f.b & 511), page):
            if w.tr.walk_marks_thp or not page_compound(w, page):
                set_page_mlocked(w, t.cpu, page)
                touch(w, page, 1)           # its own try to isolate fails: PG_lru is clear
            f.k = 1
        return ask(t, f, WALK_SEEN, REQ_SPIN_UNLOCK, LK_PTL, f.j)
    if f.pc == WALK_SEEN:
        f.pc = WALK_END if f.k or page_mapcount(w, page) == 0 else WALK_NEXT
    while f.pc == WALK_NEXT:
        visits = 0
        if p.flags & PG_ksm:
            leaf = next_locked_ksm(w, page, f, &visits)
        else:
            f.i = tree_next(w, rmap_tree(w, page), f.i, p.index, True, &visits)
        w.rmap_vmas += visits
        work(w, WK_RMAP_VMA, visits)
        if not f.i:
            f.pc = WALK_END
            break
        if not p.flags & PG_ksm:
            vma = &w.vmas[w.nodes[f.i].vma]
            f.b = vma.start + (p.index - vma.pgoff)
            leaf = find_leaf(w, vma.mm, f.b)
        if leaf and pte_maps(w, leaf, <int>(f.b & 511), page):
            f.j = leaf
            return ask(t, f, WALK_PTL, REQ_SPIN_LOCK, LK_PTL, leaf)
        if page_mapcount(w, page) == 0:
            f.pc = WALK_END
    if f.pc == WALK_END:
        f.pc = WALK_UNLOCK
        return REQ_RESCHED                  # the kernel offers the cpu once a vma, the rwsem held
    if f.pc == WALK_UNLOCK:
        return ask(t, f, WALK_DONE, REQ_UP_READ, <int>f.c, <uint32_t>f.d)
    return ret(t, 0)


# ---- one batch of at most 15 pages
cdef enum:
    MP_ISOLATE = 0
    MP_LOCK = 1
    MP_LOCKED = 2
    MP_ISOLATED = 3
    MP_DRAINED = 4
    MP_RELEASED = 5
    MP_PAGE = 6
    MP_PAGE_LOCKED = 7
    MP_WALKED = 8
    MP_PUT_BACK = 9
    MP_PAGE_DONE = 10
    MP_PUT = 11
    MP_ADD = 12
    MP_ADD_LOCK = 13
    MP_ADD_LOCKED = 14
    MP_ADDED = 15
    MP_DONE = 16


cdef int munlock_pagevec(World *w, Task *t, Frame *f) noexcept nogil:
    """Phase 1 isolates what it can under one lruvec lock; phase 2 asks, page by page under the page lock, whether
    another locker remains; phase 3 puts back those that nobody else maps. i = entry, j = lock held,
    b = PG_mlocked cleared, c = rescued."""
    cdef int ti = task_index(w, t)
    cdef PageVec *pv = task_pvec(w, ti, TPV_WORK)
    cdef PageVec *aside = task_pvec(w, ti, TPV_FREE)
    cdef PageVec *putback = task_pvec(w, ti, TPV_PUTBACK)
    cdef uint32_t page
    cdef bint locked

    # phase 1: isolation
    if f.pc == MP_LOCK:
        f.j = lru_lock_of(w, pv.page[f.i])
        w.lru_locks += 1
        return ask(t, f, MP_LOCKED, REQ_SPIN_LOCK, LK_LRU, f.j)
    if f.pc == MP_LOCKED:
        del_page_from_lru_list(w, t.cpu, pv.page[f.i])
        f.i += 1
        f.pc = MP_ISOLATE
        if w.fine:
            return REQ_WORK
    if f.pc == MP_ISOLATE:
        while f.i < pv.nr:
            page = pv.page[f.i]
            w.munlocks += 1
            if test_clear(w, page, PG_mlocked):
                f.b += 1
                if test_clear(w, page, PG_lru):
                    if lru_lock_of(w, page) != <uint32_t>f.j:
                        if f.j:
                            return ask(t, f, MP_LOCK, REQ_SPIN_UNLOCK, LK_LRU, f.j)
                        f.pc = MP_LOCK
                        return REQ_NONE
                    del_page_from_lru_list(w, t.cpu, page)
                    f.i += 1
                    if w.fine:
                        return REQ_WORK
                    continue
                count_event(w, t.cpu, EV_STRANDED if test(w, page, PG_unevictable) else EV_MUNLOCKED, 1)
            aside.page[aside.nr] = page
            aside.nr += 1
            pv.page[f.i] = 0
            f.i += 1
            if w.fine:
                return REQ_WORK
        if f.b:
            mod_state(w, t.cpu, ST_MLOCK, -<int>f.b)
        f.i = 0
        f.pc = MP_ISOLATED
        if f.j:
            return ask(t, f, MP_ISOLATED, REQ_SPIN_UNLOCK, LK_LRU, f.j)
    if f.pc == MP_ISOLATED:
        if aside.nr:
            return call(w, t, f, MP_DRAINED, F_DRAIN, t.cpu)
        f.pc = MP_PAGE
    if f.pc == MP_DRAINED:
        return call(w, t, f, MP_RELEASED, F_RELEASE, list_ref(LIST_TASK_PVEC, ti * NR_TPVECS + TPV_FREE), aside.nr)
    if f.pc == MP_RELEASED:
        aside.nr = 0
        f.pc = MP_PAGE

    # phase 2: who else locks it?
    if f.pc == MP_PAGE_LOCKED:
        page = pv.page[f.i]
        if w.pages[page].mapcount <= 1 and page_evictable(w, page):
            putback.page[putback.nr] = page
            putback.nr += 1
            if test_clear(w, page, PG_unevictable):
                f.c += 1
            f.i += 1
            return ask(t, f, MP_PAGE, REQ_UNLOCK_PAGE, LK_PAGE, page)
        get_page(w, page)
        if w.pages[page].mapcount > 1:
            return call(w, t, f, MP_WALKED, F_PAGE_MLOCK, page)
        f.pc = MP_WALKED
    if f.pc == MP_WALKED:
        page = pv.page[f.i]
        if not test(w, page, PG_mlocked):
            count_event(w, t.cpu, EV_MUNLOCKED, 1)
        return call(w, t, f, MP_PUT_BACK, F_PUTBACK, page)
    if f.pc == MP_PUT_BACK:
        return ask(t, f, MP_PAGE_DONE, REQ_UNLOCK_PAGE, LK_PAGE, pv.page[f.i])
    if f.pc == MP_PAGE_DONE:
        page = pv.page[f.i]
        f.i += 1
        f.pc = MP_PAGE
        if put_page_testzero(w, page):
            return call(w, t, f, MP_PAGE, F_FREE_PAGE, page)
    if f.pc == MP_PAGE:
        while f.i < pv.nr and not pv.page[f.i]:
            f.i += 1
        if f.i < pv.nr:
            return ask(t, f, MP_PAGE_LOCKED, REQ_LOCK_PAGE, LK_PAGE, pv.page[f.i])
        pv.nr = 0
        if not putback.nr:
            return ret(t, 0)
        count_event(w, t.cpu, EV_MUNLOCKED, putback.nr)
        f.i = f.j = 0
        f.pc = MP_ADD

    # phase 3: straight back to the lists, one lruvec lock for as many as share it
    if f.pc == MP_ADD_LOCK:
        f.j = lru_lock_of(w, putback.page[f.i])
        w.lru_locks += 1
        return ask(t, f, MP_ADD_LOCKED, REQ_SPIN_LOCK, LK_LRU, f.j)
    if f.pc == MP_ADD or f.pc == MP_ADD_LOCKED:
        while f.i < putback.nr:
            if lru_lock_of(w, putback.page[f.i]) != <uint32_t>f.j:
                if f.j:
                    return ask(t, f, MP_ADD_LOCK, REQ_SPIN_UNLOCK, LK_LRU, f.j)
                f.pc = MP_ADD_LOCK
                return REQ_NONE
            pvec_commit(w, t.cpu, PVEC_LRU_ADD, putback, f.i)
            f.i += 1
            if w.fine:
                f.pc = MP_ADD_LOCKED
                return REQ_WORK
        return ask(t, f, MP_ADDED, REQ_SPIN_UNLOCK, LK_LRU, f.j)
    if f.pc == MP_ADDED:
        count_event(w, t.cpu, EV_RESCUED, f.c)
        return call(w, t, f, MP_DONE, F_RELEASE, list_ref(LIST_TASK_PVEC, ti * NR_TPVECS + TPV_PUTBACK), putback.nr)
    putback.nr = 0
    return ret(t, 0)


# ---- the range
cdef enum:
    MR_NEXT = 1
    MR_PTL = 2
    MR_FILLED = 3
    MR_BATCH = 4
    MR_RESCHED = 5
    MR_HEAD_LOCKED = 6
    MR_HEAD_MUNLOCKED = 7
    MR_HEAD_PUT = 8


cdef inline bint normal_page(World *w, uint64_t pte) noexcept nogil:
    """The entry is present and its page is one the VM manages."""
    return (pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT


cdef int munlock_vma_pages_range(World *w, Task *t, Frame *f) noexcept nogil:
    """VM_LOCKED goes first, so that nobody marks through this vma again; then the present pages, 15 at a time. An
    absent page costs a descent of its own, even where a whole table is missing. Patches 01 to 06 only clear the
    flags. b = position, i = leaf, j = head of a THP."""
    cdef uint32_t vma = <uint32_t>f.a
    cdef PageVec *pv = task_pvec(w, task_index(w, t), TPV_WORK)
    cdef int64_t at
    cdef uint64_t pte
    cdef int node, entry, end
    if f.pc == 0:
        set_vm_flags(w, vma, w.vmas[vma].flags & ~<uint64_t>VM_LOCKED_MASK)
        if w.tr.p01:
            return ret(t, 0)
        f.pc = MR_NEXT
    if f.pc == MR_NEXT:
        while f.b < f.c:
            at = next_mapped(w, w.vmas[vma].mm, f.b, f.c)
            work(w, WK_LEVEL, 4 * (at - f.b))
            f.b = at
            if at >= f.c:
                break
            f.i = find_leaf(w, w.vmas[vma].mm, at)
            end = <int>min(f.c - (at & ~<int64_t>511), 512)
            entry = next_pte(w, f.i, <int>(at & 511), end)
            work(w, WK_LEVEL, 4 * (entry - <int>(at & 511)))
            f.b = (at & ~<int64_t>511) + entry
            if entry < end:
                return ask(t, f, MR_PTL, REQ_SPIN_LOCK, LK_PTL, f.i)
        return ret(t, 0)
    if f.pc == MR_PTL:
        end = <int>min(f.c - (f.b & ~<int64_t>511), 512)
        entry = <int>(f.b & 511)
        node = -1
        while entry < end and pv.nr < 15:
            pte = pte_get(w, f.i, entry)
            work(w, WK_PTE, 1)
            if not normal_page(w, pte):
                break
            if page_compound(w, pte_pfn(pte)):
                break
            if node < 0:
                node = w.pages[pte_pfn(pte)].node
            elif w.pages[pte_pfn(pte)].node != node:
                break
            get_page(w, pte_pfn(pte))
            pv.page[pv.nr] = pte_pfn(pte)
            pv.nr += 1
            entry += 1
        f.b = (f.b & ~<int64_t>511) + entry
        if node < 0:
            # a THP: its head is munlocked as a page of 512; parts of it that ptes map are passed one by one
            pte = pte_get(w, f.i, entry)
            f.b += 1
            if normal_page(w, pte) and test(w, pte_pfn(pte), PG_head):
                f.j = pte_pfn(pte)
                get_page(w, f.j)
                if pmd_huge(w, f.i):
                    f.b += 511
                return ask(t, f, MR_HEAD_LOCKED, REQ_SPIN_UNLOCK, LK_PTL, f.i)
        return ask(t, f, MR_FILLED, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == MR_HEAD_LOCKED:
        return ask(t, f, MR_HEAD_MUNLOCKED, REQ_LOCK_PAGE, LK_PAGE, f.j)
    if f.pc == MR_HEAD_MUNLOCKED:
        return call(w, t, f, MR_HEAD_PUT, F_MUNLOCK_PAGE, f.j)
    if f.pc == MR_HEAD_PUT:
        return ask(t, f, MR_HEAD_PUT + 1, REQ_UNLOCK_PAGE, LK_PAGE, f.j)
    if f.pc == MR_HEAD_PUT + 1:
        f.pc = MR_BATCH
        if put_page_testzero(w, f.j):
            return call(w, t, f, MR_BATCH, F_FREE_PAGE, f.j)
    if f.pc == MR_FILLED:
        if pv.nr:
            return call(w, t, f, MR_BATCH, F_MUNLOCK_PVEC, 0)
        f.pc = MR_BATCH
    f.pc = MR_NEXT
    return REQ_RESCHED


cdef void register(flow_fn *table) noexcept:
    table[<int>F_PAGE_MLOCK] = page_mlock
    table[<int>F_MUNLOCK_PVEC] = munlock_pagevec
    table[<int>F_MUNLOCK_RANGE] = munlock_vma_pages_range
