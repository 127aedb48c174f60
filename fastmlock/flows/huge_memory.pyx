# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Huge pmds: the fault that makes one, the write that may not use one, and cutting one into ptes. (mm/huge_memory.c)

The specification, sections 2.4, 2.8, 3 (patch 04) and 5; the recordings of fastmlock/data/thp.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport lru_cache_add_inactive_or_unevictable, mlock_page, munlock_page
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.lru cimport *
from fastmlock.mm.mlock cimport vma_counts_mlocks
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport anon_vma_prepare, linear_page_index
from fastmlock.mm.thp cimport *


# ---- the fault
cdef enum:
    HF_PTL = 1
    HF_ADDED = 2
    HF_MAPPED = 3
    HF_FULL = 4


cdef int do_huge_pmd_anonymous_page(World *w, Task *t, Frame *f) noexcept nogil:
    """A pmd that is none, at vpn b of the anonymous vma a: the huge zero page for a read, a THP for a write (c).
    res = 1. i = leaf, k = the new THP."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef int called
    if f.pc == 0:
        if not anon_vma_prepare(w, <uint32_t>f.a):
            return REQ_ERROR
        f.i = alloc_leaf(w, v.mm, f.b)
        if not f.i:
            return REQ_ERROR
        w.leaves[f.i].none = 1
        if f.c:
            f.k = alloc_thp(w, t.cpu, 0)
            if not f.k:
                return REQ_ERROR
        return ask(t, f, HF_PTL, REQ_SPIN_LOCK, LK_PTL, f.i)
    if f.pc == HF_PTL:
        f.pc = HF_MAPPED
        if not pmd_none(w, f.i) or pmd_huge(w, f.i):            # somebody was faster
            if f.k:
                free_thp(w, f.k)
        elif not f.k:
            set_huge_pmd(w, f.i, w.huge_zero, PTE_PRESENT | PTE_YOUNG | PTE_SPECIAL)
        else:
            thp_add_new_anon_rmap(w, t.cpu, f.k, v.anon_vma, linear_page_index(v, huge_start(f.b)))
            w.mms[v.mm].rss += THP_PAGES
            called = lru_cache_add_inactive_or_unevictable(w, t, f, HF_ADDED, f.k, v)
            if called != -1:
                return called
            f.pc = HF_ADDED
    if f.pc == HF_ADDED:
        if not set_huge_pmd(w, f.i, f.k, PTE_PRESENT | PTE_YOUNG | PTE_DIRTY
                            | (PTE_WRITE if v.flags & VM_WRITE else 0)):
            return REQ_ERROR
        f.pc = HF_MAPPED
    if f.pc == HF_MAPPED:
        return ask(t, f, HF_FULL, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    return ret(t, 1)


# ---- do_set_pmd
cdef int do_set_pmd(World *w, Task *t, Frame *f) noexcept nogil:
    """The pmd at vpn b of vma a is none, and page c of a file's THP, which d = is written, belongs there: the pmd maps
    the THP if it fits. A lock of its own, but from 6.7 to 6.16. The page-table lock is held. res = mapped. i = leaf."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef uint32_t head = compound_head(w, <uint32_t>f.c)
    cdef int called
    if f.pc == 0:
        f.i = find_leaf(w, v.mm, f.b)
        if (v.start - v.pgoff) & (THP_PAGES - 1) or not covers_pmd(v, f.b) \
                or w.tr.nohuge_no_pmd and v.flags & VM_NOHUGEPAGE:
            return ret(t, 0)
        get_page(w, head)
        thp_add_rmap(w, t.cpu, head)
        w.mms[v.mm].rss += THP_PAGES
        if not set_huge_pmd(w, f.i, head, PTE_PRESENT | PTE_YOUNG
                            | (PTE_WRITE if (v.flags & (VM_SHARED | VM_WRITE)) == (VM_SHARED | VM_WRITE) else 0)
                            | (PTE_DIRTY if f.d else 0)):
            return REQ_ERROR
        if w.tr.p04 and vma_counts_mlocks(w, v) and (not w.tr.large_folio or w.tr.mlock_whole_folio):
            called = mlock_page(w, t, f, 1, head)
            if called != -1:
                return called
    return ret(t, 1)


# ---- a write to a huge pmd that does not allow it
cdef enum:
    HW_PTL = 1
    HW_DRAINED = 2
    HW_REUSE = 3
    HW_COPY = 4
    HW_DONE = 5
    HW_SPLIT = 6
    HW_ZERO_ADDED = 7


cdef int do_huge_pmd_wp_page(World *w, Task *t, Frame *f) noexcept nogil:
    """At vpn b of vma a. A THP that nobody else maps is kept; any other is left to its ptes, one of which is copied.
    The huge zero page goes the same way, to 6.12; later a new THP replaces it. res = 1: done, 0: a matter of ptes now.
    i = leaf, j = the THP, k = its successor."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef int called
    if f.pc == 0:
        f.i = find_leaf(w, v.mm, f.b)
        return ask(t, f, HW_PTL, REQ_SPIN_LOCK, LK_PTL, f.i)
    if f.pc == HW_PTL:
        f.j = pmd_huge(w, f.i)
        f.pc = HW_COPY
        if not f.j or pte_get(w, f.i, <int>(f.b & 511)) & PTE_WRITE:
            return ask(t, f, HW_DONE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
        if <uint32_t>f.j == w.huge_zero:
            if w.tr.huge_zero_cow:
                if not anon_vma_prepare(w, <uint32_t>f.a):
                    return REQ_ERROR
                f.k = alloc_thp(w, t.cpu, 0)
                if not f.k:
                    return REQ_ERROR
                clear_huge_pmd(w, f.i)
                thp_add_new_anon_rmap(w, t.cpu, f.k, v.anon_vma, linear_page_index(v, huge_start(f.b)))
                w.mms[v.mm].rss += THP_PAGES
                called = lru_cache_add_inactive_or_unevictable(w, t, f, HW_ZERO_ADDED, f.k, v)
                if called != -1:
                    return called
                f.pc = HW_ZERO_ADDED
        elif not w.pages[f.j].flags & PG_anon or v.flags & VM_SHARED:
            pass
        elif w.tr.anon_exclusive and w.pages[f.j].flags & PG_anon_exclusive:
            f.pc = HW_REUSE
        elif not w.tr.cow_reuse_refcount:
            if thp_max_mapcount(w, f.j) == 1:
                f.pc = HW_REUSE
        elif w.pages[f.j].refcount <= 3:
            f.pc = HW_DRAINED
            if not test(w, f.j, PG_lru):
                return call(w, t, f, HW_DRAINED, F_DRAIN, t.cpu)
    if f.pc == HW_ZERO_ADDED:
        if not set_huge_pmd(w, f.i, f.k, PTE_PRESENT | PTE_YOUNG | PTE_DIRTY | PTE_WRITE):
            return REQ_ERROR
        return ask(t, f, HW_DONE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == HW_DRAINED:
        f.pc = HW_REUSE if w.pages[f.j].refcount == 1 else HW_COPY
    if f.pc == HW_REUSE:
        w.pages[f.j].flags |= PG_anon_exclusive
        thp_move_anon_rmap(w, f.j, v.anon_vma)
        huge_pmd_flags(w, f.i, PTE_WRITE | PTE_DIRTY | PTE_YOUNG, 0)
        return ask(t, f, HW_DONE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == HW_COPY:
        return ask(t, f, HW_SPLIT, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == HW_SPLIT:
        return call(w, t, f, HW_SPLIT + 2, F_SPLIT_PMD, f.a, f.b)
    return ret(t, f.pc == HW_DONE)


cdef inline void thp_move_anon_rmap(World *w, uint32_t head, uint32_t anon_vma) noexcept nogil:
    cdef int i
    for i in range(THP_PAGES):
        w.pages[head + i].mapping = anon_vma


# ---- a huge pmd becomes ptes
cdef enum:
    SP_PTL = 1
    SP_SPLIT = 2
    SP_MARKED = 3
    SP_CLEARED = 4
    SP_MUNLOCKED = 5
    SP_DONE = 6


cdef int split_huge_pmd(World *w, Task *t, Frame *f) noexcept nogil:
    """The huge pmd around vpn b of vma a, if there is one, becomes 512 ptes of the same pages; one of a file becomes
    none, to be faulted in again. Through patch 03 this takes PG_mlocked away; from 04 it is the end of one pmd's lock.
    From 6.17 the ptes of the whole THP, added at once, are a lock again. i = leaf, j = the THP."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef uint64_t pte
    cdef int called
    if f.pc == 0:
        f.i = find_leaf(w, v.mm, f.b)
        if not f.i or not pmd_huge(w, f.i):
            return ret(t, 0)
        return ask(t, f, SP_PTL, REQ_SPIN_LOCK, LK_PTL, f.i)
    if f.pc == SP_PTL:
        f.j = pmd_huge(w, f.i)
        f.pc = SP_SPLIT
        if not f.j or <uint32_t>f.j == w.huge_zero:
            if f.j:
                split_huge_entries(w, f.i)
            f.j = 0
            f.pc = SP_MUNLOCKED
        elif not w.tr.p04 and test(w, f.j, PG_mlocked):
            return call(w, t, f, SP_SPLIT, F_CLEAR_MLOCK, f.j)
    if f.pc == SP_SPLIT:
        pte = pte_get(w, f.i, 0)
        if pte & PTE_DIRTY:
            w.pages[f.j].flags |= PG_dirty
        f.pc = SP_MARKED
        if w.pages[f.j].flags & PG_anon:
            thp_map_by_ptes(w, t.cpu, f.j)
            split_huge_entries(w, f.i)
            if w.tr.mlock_whole_folio and vma_counts_mlocks(w, v):
                called = mlock_page(w, t, f, SP_MARKED, f.j)
                if called != -1:
                    return called
        else:
            if pte & PTE_YOUNG:
                w.pages[f.j].flags |= PG_referenced
            clear_huge_pmd(w, f.i)
            w.mms[v.mm].rss -= THP_PAGES
            return call(w, t, f, SP_CLEARED, F_REMOVE_RMAP, f.j, f.a, RMAP_COMPOUND)
    if f.pc == SP_MARKED:
        f.pc = SP_CLEARED
        if w.tr.p04 and vma_counts_mlocks(w, v):
            called = munlock_page(w, t, f, SP_CLEARED, f.j)
            if called != -1:
                return called
    if f.pc == SP_CLEARED:
        f.pc = SP_MUNLOCKED
        if not w.pages[f.j].flags & PG_anon and put_page_testzero(w, f.j):
            return call(w, t, f, SP_MUNLOCKED, F_FREE_PAGE, f.j)
    if f.pc == SP_MUNLOCKED:
        return ask(t, f, SP_DONE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    return ret(t, 0)


# ---- zap_huge_pmd
cdef enum:
    ZH_PTL = 1
    ZH_ACCESSED = 2
    ZH_REMOVED = 3
    ZH_UNLOCK = 4
    ZH_DONE = 5


cdef int zap_huge_pmd(World *w, Task *t, Frame *f) noexcept nogil:
    """The huge pmd at vpn b of vma a goes; its THP loses a map and (patch 04, the vma locked) a lock, and is gathered.
    i = leaf, j = the THP."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef uint64_t pte
    if f.pc == 0:
        f.i = find_leaf(w, v.mm, f.b)
        return ask(t, f, ZH_PTL, REQ_SPIN_LOCK, LK_PTL, f.i)
    if f.pc == ZH_PTL:
        f.j = pmd_huge(w, f.i)
        f.pc = ZH_UNLOCK
        if f.j:
            pte = pte_get(w, f.i, 0)
            clear_huge_pmd(w, f.i)
            if <uint32_t>f.j != w.huge_zero:
                w.mms[v.mm].rss -= THP_PAGES
                f.pc = ZH_ACCESSED
                if w.tr.huge_pmd_accessed and not test(w, f.j, PG_anon) and pte & PTE_YOUNG \
                        and not v.flags & (VM_SEQ_READ | VM_RAND_READ) and mark_page_accessed(w, t.cpu, f.j):
                    return call(w, t, f, ZH_ACCESSED, F_PVEC, t.cpu, PVEC_ACTIVATE)
    if f.pc == ZH_ACCESSED:
        return call(w, t, f, ZH_REMOVED, F_REMOVE_RMAP, f.j, f.a, RMAP_COMPOUND)
    if f.pc == ZH_REMOVED:
        w.gathers[<int64_t>task_index(w, t) * GATHER_MAX + t.gather] = f.j
        t.gather += 1
        f.pc = ZH_UNLOCK
    if f.pc == ZH_UNLOCK:
        return ask(t, f, ZH_DONE, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    return ret(t, 0)


# ---- fork
cdef int copy_huge_pmd(World *w, Task *t, Frame *f) noexcept nogil:
    """The huge pmd at vpn c of vma a, for the child's vma b: read-only on both sides, old in the child; a file's is
    left to be faulted in. i = leaf, j = the THP, k = the child's leaf."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    if f.pc == 0:
        f.i = find_leaf(w, v.mm, f.c)
        f.k = alloc_leaf(w, w.vmas[<uint32_t>f.b].mm, f.c)
        if not f.k:
            return REQ_ERROR
        w.leaves[f.k].none = 1
        return ask(t, f, 1, REQ_SPIN_LOCK, LK_PTL, f.i)
    if f.pc == 1:
        f.j = pmd_huge(w, f.i)
        if f.j and <uint32_t>f.j == w.huge_zero:
            if not set_huge_pmd(w, f.k, w.huge_zero, PTE_PRESENT | PTE_YOUNG | PTE_SPECIAL):
                return REQ_ERROR
        elif f.j and test(w, f.j, PG_hugetlb):
            get_page(w, f.j)
            w.pages[f.j].compound_mapcount += 1
            w.pages[f.j].flags &= ~<uint32_t>PG_anon_exclusive
            if not v.flags & VM_SHARED:
                huge_pmd_flags(w, f.i, 0, PTE_WRITE)
            if not set_huge_pmd(w, f.k, f.j, <int>(pte_get(w, f.i, 0) & 0xfff)):
                return REQ_ERROR
        elif f.j and test(w, f.j, PG_anon):
            get_page(w, f.j)
            thp_add_rmap(w, t.cpu, f.j)
            w.mms[w.vmas[<uint32_t>f.b].mm].rss += THP_PAGES
            w.pages[f.j].flags &= ~<uint32_t>PG_anon_exclusive
            huge_pmd_flags(w, f.i, 0, PTE_WRITE)
            if not set_huge_pmd(w, f.k, f.j, <int>(pte_get(w, f.i, 0) & (PTE_PRESENT | PTE_DIRTY))):
                return REQ_ERROR
        return ask(t, f, 2, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    return ret(t, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_HUGE_FAULT] = do_huge_pmd_anonymous_page
    table[<int>F_HUGE_WP] = do_huge_pmd_wp_page
    table[<int>F_SPLIT_PMD] = split_huge_pmd
    table[<int>F_SET_PMD] = do_set_pmd
    table[<int>F_ZAP_PMD] = zap_huge_pmd
    table[<int>F_COPY_HUGE_PMD] = copy_huge_pmd
