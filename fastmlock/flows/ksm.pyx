# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""KSM: one place is merged into a page of equal content, or given a page of its own again. (mm/ksm.c)

The specification, sections 2.8 and 3 (patches 01 and 04). Which places are looked at, and in which order, is ksmd's
part: `fastmlock.ksmd`.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport mlock_page
from fastmlock.mm.ksm cimport stable_tree_append
from fastmlock.mm.lru cimport *
from fastmlock.mm.mlock cimport vma_counts_mlock
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport *

cdef enum:
    KM_MMAP = 1
    KM_LOCKED = 2
    KM_ACCESSED = 3
    KM_MLOCKED = 4
    KM_REMOVED = 5
    KM_REPLACED = 6
    KM_OLD_MUNLOCKED = 7
    KM_KSM_LOCK = 8
    KM_KSM_LOCKED = 9
    KM_DONE = 10
    KM_UNLOCKED = 11
    KM_UP = 12


cdef int try_to_merge_one_page(World *w, Task *t, Frame *f) noexcept nogil:
    """The page at vpn b of vma a is write-protected, unless somebody else holds it, and becomes a KSM page itself (c =
    0) or gives its place to the KSM page c, whose content is the same. Through patch 03 a locked vma has the lock moved
    behind that; from 04 on adding and removing the mapping does it. ret = merged. i = leaf, j = page, k = merged, d =
    the page whose lock is held."""
    cdef uint32_t vma = <uint32_t>f.a, ksm = <uint32_t>f.c, page = <uint32_t>f.j
    cdef Vma *v = &w.vmas[vma]
    cdef Page *p = &w.pages[page]
    cdef int entry = <int>(f.b & 511), called
    cdef uint64_t pte
    if f.pc == 0:
        f.i = find_leaf(w, v.mm, f.b)
        f.j = pte_pfn(pte_get(w, f.i, entry))
        get_page(w, f.j)
        return ask(t, f, KM_MMAP, REQ_DOWN_READ, LK_MMAP, v.mm)
    if f.pc == KM_MMAP:
        f.d = page
        f.k = 1
        if page == ksm:                             # shared since a fork
            f.d = 0
            f.pc = KM_DONE
        else:
            return ask(t, f, KM_LOCKED, REQ_LOCK_PAGE, LK_PAGE, page)
    if f.pc == KM_LOCKED:
        f.k = 0
        f.pc = KM_DONE
        if p.mapcount + 1 == p.refcount:
            f.k = 1
            p.flags &= ~<uint32_t>PG_anon_exclusive
            pte = pte_get(w, f.i, entry)
            if pte & PTE_DIRTY:
                p.flags |= PG_dirty
            pte_flags(w, f.i, entry, 0, PTE_DIRTY | PTE_WRITE)
            if ksm:
                get_page(w, ksm)
                page_dup_rmap(w, ksm)
                f.pc = KM_MLOCKED
                if w.tr.p04 and vma_counts_mlock(w, v, ksm):
                    called = mlock_page(w, t, f, KM_MLOCKED, ksm)
                    if called != -1:
                        return called
            else:
                p.flags |= PG_ksm
                p.mapping = 0
                f.pc = KM_ACCESSED
                if mark_page_accessed(w, t.cpu, page):
                    return call(w, t, f, KM_ACCESSED, F_PVEC, t.cpu, PVEC_ACTIVATE)
    if f.pc == KM_ACCESSED:
        p.flags |= PG_dirty
        f.pc = KM_DONE
    if f.pc == KM_MLOCKED:
        pte_set(w, f.i, entry, mk_pte(ksm, PTE_PRESENT | PTE_YOUNG), 0, 0)
        return call(w, t, f, KM_REMOVED, F_REMOVE_RMAP, page, f.a)
    if f.pc == KM_REMOVED:
        p.refcount -= 1                             # the entry's; ksmd's own is left
        f.pc = KM_DONE
        if not w.tr.p04 and v.flags & VM_LOCKED:
            f.pc = KM_OLD_MUNLOCKED
            if test(w, page, PG_mlocked):
                return call(w, t, f, KM_OLD_MUNLOCKED, F_MUNLOCK_PAGE, page)
    if f.pc == KM_OLD_MUNLOCKED:
        f.pc = KM_DONE
        if not test(w, ksm, PG_mlocked):
            f.d = ksm
            return ask(t, f, KM_KSM_LOCK, REQ_UNLOCK_PAGE, LK_PAGE, page)
    if f.pc == KM_KSM_LOCK:
        return ask(t, f, KM_KSM_LOCKED, REQ_LOCK_PAGE, LK_PAGE, ksm)
    if f.pc == KM_KSM_LOCKED:
        return call(w, t, f, KM_DONE, F_MLOCK_PAGE, ksm)
    if f.pc == KM_DONE:
        if f.k and not stable_tree_append(w, ksm if ksm else page, v.anon_vma, v.mm, f.b):
            return REQ_ERROR
        f.pc = KM_UNLOCKED
        if f.d:
            return ask(t, f, KM_UNLOCKED, REQ_UNLOCK_PAGE, LK_PAGE, <uint32_t>f.d)
    if f.pc == KM_UNLOCKED:
        return ask(t, f, KM_UP, REQ_UP_READ, LK_MMAP, v.mm)
    if f.pc == KM_UP:
        f.pc = KM_REPLACED
        if put_page_testzero(w, page):
            return call(w, t, f, KM_REPLACED, F_FREE_PAGE, page)
    return sysret(t, f.k, 0)


cdef int unmerge_ksm_pages(World *w, Task *t, Frame *f) noexcept nogil:
    """Every place of [b, c) in vma a that has a KSM page gets a copy, by a fault that pretends to write, or (6.2) says
    that it does not."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef uint64_t pte
    while f.b < f.c and vma_next_entry(w, v, &f.b, &pte) and f.b < f.c:
        f.b += 1
        if (pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT and w.pages[pte_pfn(pte)].flags & PG_ksm:
            return call(w, t, f, 1, F_FAULT, f.a, f.b - 1, FAULT_UNSHARE if w.tr.ksm_unshares else FAULT_WRITE)
    return ret(t, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_KSM_MERGE] = try_to_merge_one_page
    table[<int>F_KSM_UNMERGE] = unmerge_ksm_pages
