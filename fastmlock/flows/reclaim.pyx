# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Reclaim of single pages: MADV_COLD, MADV_PAGEOUT, shrink_page_list(), try_to_unmap(). (mm/vmscan.c, mm/rmap.c)

The specification, section 2.8 and patches 11 and 13. Anonymous and tmpfs pages leave for the swap device, if one is on.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport mlock_drain_due, mlock_page
from fastmlock.flows.scan cimport SEEN_ENTRIES, SEEN_EXEC, SEEN_LOCKED, SHRINK_ASK, SHRINK_FAR
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.filemap cimport delete_from_page_cache, page_cache_to_swap
from fastmlock.mm.lru cimport *
from fastmlock.mm.mlock cimport vma_counts_mlock
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport *
from fastmlock.mm.swapfile cimport *
from fastmlock.mm.rmap_walk cimport page_vma_mapped, rmap_next


# ---- MADV_COLD, MADV_PAGEOUT
cdef enum:
    CO_NEXT = 1
    CO_PTL = 2
    CO_ISOLATED = 3
    CO_UNLOCKED = 4
    CO_SHRINK = 5
    CO_SHRUNK = 6
    CO_SPLIT = 7
    CO_SPLIT_DONE = 8
    CO_SPLIT_PUT = 9
    CO_RELEASED = 10

cdef enum:
    KEPT = 1024             # where in the task's gather the pages wait that shrink_page_list keeps


cdef int cold_or_pageout(World *w, Task *t, Frame *f) noexcept nogil:
    """Pages of [b, c) in vma a that are mapped once: aged, then deactivated, or (d) isolated and reclaimed table by
    table. A THP is taken whole, or split if only part of it is meant. i = leaf, j = entry, k = page or position in the
    isolated list (the task's gather); then i = pages freed, j = pages kept."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef uint32_t *isolated = list_pages(w, list_ref(LIST_GATHER, task_index(w, t)))
    cdef uint64_t pte
    cdef uint32_t page
    cdef int end
    if f.pc == 0:
        return call(w, t, f, CO_NEXT, F_DRAIN, t.cpu)
    while True:
        if f.pc == CO_NEXT:
            f.b = next_mapped(w, v.mm, f.b, f.c)
            if f.b >= f.c:
                return ret(t, 0)
            f.i = find_leaf(w, v.mm, f.b)
            f.j = <int32_t>(f.b - w.leaves[f.i].vpn)
            return ask(t, f, CO_PTL, REQ_SPIN_LOCK, LK_PTL, f.i)
        if f.pc == CO_ISOLATED:
            f.pc = CO_PTL
            if t.res:
                if test(w, f.k, PG_unevictable):
                    return call(w, t, f, CO_PTL, F_PUTBACK, f.k)
                isolated[t.gather] = f.k
                t.gather += 1
        if f.pc == CO_SPLIT:
            return call(w, t, f, CO_SPLIT_DONE, F_SPLIT_PAGE, f.k)
        if f.pc == CO_SPLIT_DONE:
            f.b = w.leaves[f.i].vpn + (f.j if t.res else 512)
            return ask(t, f, CO_SPLIT_PUT, REQ_UNLOCK_PAGE, LK_PAGE, f.k)
        if f.pc == CO_SPLIT_PUT:
            page = f.k
            f.k = 0
            f.pc = CO_NEXT
            if put_page_testzero(w, page):
                return call(w, t, f, CO_NEXT, F_FREE_PAGE, page)
            continue
        if f.pc == CO_PTL and pmd_huge(w, f.i) and f.j < 512:
            page = pmd_huge(w, f.i)
            if page != w.huge_zero and page_mapcount(w, page) == 1:
                if f.j or f.c - w.leaves[f.i].vpn < 512:
                    f.k = page
                    get_page(w, page)
                    w.pages[page].flags |= PG_locked
                    return ask(t, f, CO_SPLIT, REQ_SPIN_UNLOCK, LK_PTL, f.i)
                f.j = 512
                huge_pmd_flags(w, f.i, 0, PTE_YOUNG)
                w.pages[page].flags &= ~<uint32_t>PG_referenced
                if f.d:
                    f.k = page
                    return call(w, t, f, CO_ISOLATED, F_ISOLATE, page)
                if w.pages[page].flags & PG_active and not w.pages[page].flags & PG_unevictable:
                    if pvec_add(w, t.cpu, PVEC_DEACTIVATE, page, 0):
                        return call(w, t, f, CO_PTL, F_PVEC, t.cpu, PVEC_DEACTIVATE)
            f.j = 512
        if f.pc == CO_PTL:
            end = <int>min(f.c - w.leaves[f.i].vpn, 512)
            f.j = next_pte(w, f.i, f.j, end)
            if f.j >= end:
                f.b = w.leaves[f.i].vpn + 512
                page = f.i
                f.i = f.j = f.k = 0
                return ask(t, f, CO_SHRINK, REQ_SPIN_UNLOCK, LK_PTL, page)
            pte = pte_get(w, f.i, f.j)
            f.j += 1
            page = pte_pfn(pte)
            if (pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT and page_compound(w, page):
                f.j -= 1
                f.k = compound_head(w, page)
                if page_mapcount(w, page) != 1 or not trylock_page(w, f.k):
                    f.j = 512
                    f.k = 0
                    continue
                get_page(w, f.k)
                return ask(t, f, CO_SPLIT, REQ_SPIN_UNLOCK, LK_PTL, f.i)
            if ((pte & (PTE_PRESENT | PTE_SPECIAL)) != PTE_PRESENT or not test(w, page, PG_lru)
                    or w.pages[page].mapcount != 1):
                continue
            pte_flags(w, f.i, f.j - 1, 0, PTE_YOUNG)
            w.pages[page].flags &= ~<uint32_t>PG_referenced
            if f.d:
                f.k = page
                return call(w, t, f, CO_ISOLATED, F_ISOLATE, page)
            if w.pages[page].flags & PG_active and not w.pages[page].flags & PG_unevictable:
                if pvec_add(w, t.cpu, PVEC_DEACTIVATE, page, 0):
                    return call(w, t, f, CO_PTL, F_PVEC, t.cpu, PVEC_DEACTIVATE)
            continue
        if f.pc == CO_SHRUNK:
            page = isolated[f.k]
            f.k += 1
            f.pc = CO_SHRINK
            if t.res:
                isolated[f.i] = page
                f.i += 1
            else:
                isolated[KEPT + f.j] = page
                f.j += 1
        if f.pc == CO_SHRINK:
            if f.k < t.gather:
                w.pages[isolated[f.k]].flags &= ~<uint32_t>PG_active
                return call(w, t, f, CO_SHRUNK, F_SHRINK_PAGE, isolated[f.k])
            f.k = 0
            f.pc = CO_RELEASED
            if f.i:
                return call(w, t, f, CO_RELEASED, F_RELEASE, list_ref(LIST_GATHER, task_index(w, t)), f.i)
        if f.pc == CO_RELEASED:
            t.gather = 0
            if f.k < f.j:
                f.k += 1
                return call(w, t, f, CO_RELEASED, F_PUTBACK, isolated[KEPT + f.k - 1])
            f.pc = CO_NEXT


# ---- one isolated page of shrink_page_list
cdef enum:
    SH_LOCKED = 1
    SH_UNMAPPED = 2
    SH_ACTIVATE = 3
    SH_KEEP = 4
    SH_FREED = 5
    SH_REFERENCED = 6
    SH_SPLIT = 7


cdef inline bint reclaimable(World *w, uint32_t page, int64_t seen) noexcept nogil:
    """page_check_references: what page_referenced has seen decides. A page of a locked vma goes on to be unmapped,
    which marks it; from patch 13 it was marked already and is kept."""
    cdef Page *p = &w.pages[page]
    cdef bint referenced = test_clear(w, page, PG_referenced)
    if seen < 0:                            # the rmap lock was not to be had
        return False
    if seen & SEEN_LOCKED:
        if w.tr.p13 and not p.flags & PG_mlocked:
            p.flags |= PG_active
        return not w.tr.p13
    if not seen & SEEN_ENTRIES:
        return True
    p.flags |= PG_referenced
    if referenced or seen & SEEN_ENTRIES > 1 or seen & SEEN_EXEC and not p.flags & PG_swapbacked:
        p.flags |= PG_active
    return False


cdef inline bint writepage(World *w, int cpu, uint32_t page) noexcept nogil:
    """A dirty page of tmpfs leaves its file for the swap cache (shmem_writepage); what is in the swap cache is written.
    False if there is nowhere to write to."""
    cdef Page *p = &w.pages[page]
    cdef uint32_t slot
    if not p.flags & PG_swapcache:
        slot = get_swap_page(w, cpu)
        if not slot:
            return False
        page_cache_to_swap(w, page, slot)       # whose reference is the swap cache's now
        add_to_swap_cache(w, page, slot)
        w.swap[slot].count = 1
    p.flags &= ~<uint32_t>PG_dirty
    return True


cdef inline void remove_mapping(World *w, uint32_t page, bint remembered) noexcept nogil:
    """Out of the swap cache or the page cache. A page that comes back soon will be active: what one process paged out
    is taken to come back soon, what went with all else of its cgroup is not."""
    cdef Page *p = &w.pages[page]
    if p.flags & PG_swapcache:
        w.swap[p.private_].shadow = remembered
        delete_from_swap_cache(w, page)
    else:
        delete_from_page_cache(w, p.mapping, p.index, remembered)
    p.refcount -= 1


cdef int shrink_page(World *w, Task *t, Frame *f) noexcept nogil:
    """a = page, b = SHRINK_ASK, SHRINK_FAR; res = 1 if nobody has it any more but the caller, who isolated it. A page
    that must stay is active behind it, unless it is locked, and one that is locked need not keep a slot."""
    cdef uint32_t page = <uint32_t>f.a, slot
    cdef Page *p = &w.pages[page]
    if f.pc == 0:
        if p.flags & PG_locked:
            return ret(t, 0)
        return ask(t, f, SH_LOCKED, REQ_LOCK_PAGE, LK_PAGE, page)
    if f.pc == SH_LOCKED:
        f.pc = SH_REFERENCED
        t.res = 0
        if not page_evictable(w, page):
            f.pc = SH_ACTIVATE
        elif f.b & SHRINK_ASK and page_mapped(w, page):
            return call(w, t, f, SH_REFERENCED, F_PAGE_REFERENCED, page)
    if f.pc == SH_REFERENCED:
        if f.b & SHRINK_ASK and not reclaimable(w, page, t.res):
            return ask(t, f, SH_KEEP, REQ_UNLOCK_PAGE, LK_PAGE, page)
        f.pc = SH_SPLIT
        if p.flags & PG_head:
            if not p.flags & PG_swapbacked or not p.flags & PG_anon and w.tr.shmem_swaps_whole:
                return unsupported(w, f.fn)
            return call(w, t, f, SH_SPLIT, F_SPLIT_PAGE, page, 1)       # its tails are reclaimed with it
    if f.pc == SH_SPLIT:
        if p.flags & PG_head and not p.flags & PG_anon:         # a file's that could not be split is kept as it is
            return ask(t, f, SH_KEEP, REQ_UNLOCK_PAGE, LK_PAGE, page)
        f.pc = SH_ACTIVATE if p.flags & PG_head else SH_UNMAPPED
        if f.pc == SH_UNMAPPED \
                and (p.flags & (PG_anon | PG_swapbacked | PG_swapcache)) == (PG_anon | PG_swapbacked):
            slot = get_swap_page(w, t.cpu)
            if slot:
                add_to_swap(w, page, slot)
            else:
                f.pc = SH_ACTIVATE
        t.res = 1
        if p.mapcount and f.pc == SH_UNMAPPED:
            return call(w, t, f, SH_UNMAPPED, F_TRY_TO_UNMAP, page)
    if f.pc == SH_UNMAPPED:
        if not t.res:
            f.pc = SH_ACTIVATE
        elif p.flags & PG_anon and not p.flags & PG_swapbacked:         # lazily freed and still clean
            if p.refcount == 1:
                return ask(t, f, SH_FREED, REQ_UNLOCK_PAGE, LK_PAGE, page)
        elif p.flags & PG_dirty and not p.flags & PG_swapbacked:        # a disk file's: not written here
            p.flags |= PG_reclaim
            f.pc = SH_ACTIVATE
        elif p.refcount == 2 and (p.mapping or p.flags & PG_swapcache):     # the cache's and ours alone
            if not p.flags & PG_dirty or writepage(w, t.cpu, page):
                remove_mapping(w, page, not f.b & SHRINK_FAR)
                return ask(t, f, SH_FREED, REQ_UNLOCK_PAGE, LK_PAGE, page)
            f.pc = SH_ACTIVATE
    if f.pc == SH_ACTIVATE:
        if p.flags & PG_mlocked or vm_swap_full(w):
            try_to_free_swap(w, page)
        if not p.flags & PG_mlocked:
            p.flags |= PG_active
    if f.pc == SH_FREED:
        p.flags &= ~<uint32_t>PG_unevictable
        return ret(t, 1)
    if f.pc == SH_KEEP:
        return ret(t, 0)
    return ask(t, f, SH_KEEP, REQ_UNLOCK_PAGE, LK_PAGE, page)


# ---- try_to_unmap
cdef enum:
    TU_NEXT = 1
    TU_PTL = 2
    TU_REMOVED = 3
    TU_PTL_FREE = 4
    TU_DONE = 5
    TU_PUT = 6


cdef inline bint unmap_one(World *w, Vma *v, uint32_t leaf, int entry, uint64_t pte, uint32_t page) noexcept nogil:
    """The entry becomes none or, of an anonymous page in the swap cache, a swap entry. True if it has to stay: the page
    was freed lazily, and then written again or taken by somebody."""
    cdef Page *p = &w.pages[page]
    if pte & PTE_DIRTY:
        folio_mark_dirty(w, page)
    if (p.flags & (PG_anon | PG_swapbacked)) == PG_anon and (p.flags & PG_dirty or p.refcount != 1 + p.mapcount):
        p.flags |= PG_swapbacked
        return True
    pte_clear(w, leaf, entry)
    w.mms[v.mm].rss -= 1
    if p.flags & PG_anon and p.flags & PG_swapbacked:
        w.swap[p.private_].count += 1
        pte_set(w, leaf, entry, mk_pte(p.private_, PTE_SWAP | (
            PTE_SWP_EXCLUSIVE if w.tr.anon_exclusive and p.flags & PG_anon_exclusive else 0)), 0, 0)
        p.flags &= ~<uint32_t>PG_anon_exclusive
    return False


cdef int try_to_unmap(World *w, Task *t, Frame *f) noexcept nogil:
    """Unmaps page a everywhere up to the first locked vma that maps it, which marks it; or (c) there too. res =
    unmapped everywhere. i = tree node, j = leaf, k = stop, or -1: locked vmas do not count, b = vpn, c = lock class, d
    = lock."""
    cdef uint32_t page = <uint32_t>f.a
    cdef Page *p = &w.pages[page]
    cdef uint64_t pte
    cdef Vma *v
    cdef int entry, called
    if f.pc == 0:
        f.k = -1 if f.c else 0
        f.c = rmap_lock_class(w, page)
        f.d = rmap_lock(w, page)
        return ask(t, f, TU_NEXT, REQ_DOWN_READ, <int>f.c, <uint32_t>f.d)
    while True:
        if f.pc == TU_NEXT:
            if f.k > 0 or p.mapcount == 0 or not rmap_next(w, page, PTE_PRESENT, page, &f.i, &f.b, &f.j):
                return ask(t, f, TU_DONE, REQ_UP_READ, <int>f.c, <uint32_t>f.d)
            return ask(t, f, TU_PTL, REQ_SPIN_LOCK, LK_PTL, f.j)
        v = &w.vmas[w.nodes[f.i].vma]
        entry = <int>(f.b & 511)
        if f.pc == TU_PTL:
            pte = pte_get(w, f.j, entry)
            f.pc = TU_PTL_FREE
            if not page_vma_mapped(w, pte, PTE_PRESENT, page):
                pass
            elif v.flags & VM_LOCKED and not f.k:
                f.k = 1
                if not w.tr.p04:
                    return call(w, t, f, TU_PTL_FREE, F_MLOCK_PAGE, page)
                if vma_counts_mlock(w, v, page):
                    called = mlock_page(w, t, f, TU_PTL_FREE, page)
                    if called != -1:
                        return called
            elif unmap_one(w, v, f.j, entry, pte, page):
                f.k = 1
            else:
                return call(w, t, f, TU_REMOVED, F_REMOVE_RMAP, page, w.nodes[f.i].vma)
        if f.pc == TU_REMOVED:
            f.pc = TU_PUT
            if mlock_drain_due(w, t, v):
                return call(w, t, f, TU_PUT, F_PVEC, t.cpu, PVEC_MLOCK)
        if f.pc == TU_PUT:
            p.refcount -= 1
            f.pc = TU_PTL_FREE
        if f.pc == TU_PTL_FREE:
            return ask(t, f, TU_NEXT, REQ_SPIN_UNLOCK, LK_PTL, f.j)
        if f.pc == TU_DONE:
            return ret(t, p.mapcount == 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_COLD] = cold_or_pageout
    table[<int>F_SHRINK_PAGE] = shrink_page
    table[<int>F_TRY_TO_UNMAP] = try_to_unmap
