# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Populate: faulting in what mlock covers, page by page through get_user_pages. (mm/gup.c)

The specification, section 2.4.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.lru cimport *
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.vma cimport find_vma, vma_is_secretmem

cdef enum:
    GU_LOOK = 1
    GU_FOUND = 2
    GU_ACCESSED = 3
    GU_DRAINED = 4
    GU_MLOCKED = 5
    GU_PAGE_UNLOCKED = 6
    GU_NEXT = 7
    GU_FAULT = 8
    GU_FAULTED = 9
    GU_HUGE_MLOCKED = 10
    GU_HUGE_NEXT = 11


cdef int get_user_pages(World *w, Task *t, Frame *f) noexcept nogil:
    """Touches every page of [b, c) in vma a; d = FollFlag. res = pages passed, or -EFAULT if the first failed. With
    FOLL_UNLOCKABLE it ends early where mmap_lock was dropped to read a file, and populate drains and goes on.
    i = pages passed, j = leaf, k = page. Up to patch 01 a page found in a locked vma is marked here, if its page
    lock can be had at once, after a local drain for each."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef int64_t vpn = f.b + f.i
    cdef int entry = <int>(vpn & 511)
    cdef uint64_t pte
    if f.pc == 0:
        f.pc = GU_LOOK
        if vma_is_secretmem(w, v):
            return ret(t, -EFAULT)
    if f.pc == GU_FAULTED:
        if t.res < 0:
            return ret(t, f.i if f.i else -EFAULT)
        if t.res == FAULT_RETRY:
            return ret(t, f.i)
        f.pc = GU_LOOK
    if f.pc == GU_LOOK:
        if vpn >= f.c:
            return ret(t, f.i)
        f.j = find_leaf(w, v.mm, vpn)
        if f.j:
            return ask(t, f, GU_FOUND, REQ_SPIN_LOCK, LK_PTL, f.j)
        f.pc = GU_FAULT
    if f.pc == GU_FOUND:
        pte = pte_get(w, f.j, entry)
        work(w, WK_PTE, 1)
        if not pte & PTE_PRESENT or f.d & FOLL_WRITE and not pte & PTE_WRITE:
            return ask(t, f, GU_FAULT, REQ_SPIN_UNLOCK, LK_PTL, f.j)
        f.k = 0 if pte & PTE_SPECIAL else pte_pfn(pte)
        f.pc = GU_ACCESSED
        if pmd_huge(w, f.j):
            # follow_trans_huge_pmd: touched by its pmd alone. Through patch 01 it is marked if it is singly mapped
            # (anonymous), has no ptes anywhere, and its page lock can be had
            f.k = pmd_huge(w, f.j)
            huge_pmd_flags(w, f.j, PTE_YOUNG | (PTE_DIRTY if f.d & FOLL_WRITE else 0), 0)
            f.pc = GU_HUGE_NEXT
            if f.d & FOLL_MLOCK and v.flags & VM_LOCKED and not test(w, f.k, PG_double_map | PG_reserved) \
                    and w.pages[f.k].mapping \
                    and not (test(w, f.k, PG_anon) and w.pages[f.k].compound_mapcount != 1) \
                    and trylock_page(w, f.k):
                return call(w, t, f, GU_HUGE_MLOCKED, F_MLOCK_PAGE, f.k)
        elif f.d & FOLL_TOUCH and not f.k:
            w.pages[w.zero_page].flags ^= PG_referenced     # marked like any other; on no list, the mark goes again
        elif f.d & FOLL_TOUCH:
            if f.d & FOLL_WRITE and not pte & PTE_DIRTY and not test(w, compound_head(w, f.k), PG_dirty):
                folio_mark_dirty(w, compound_head(w, f.k))
            if mark_page_accessed(w, t.cpu, f.k):
                return call(w, t, f, GU_ACCESSED, F_PVEC, t.cpu, PVEC_ACTIVATE)
    if f.pc == GU_HUGE_MLOCKED:
        return ask(t, f, GU_HUGE_NEXT, REQ_UNLOCK_PAGE, LK_PAGE, f.k)
    if f.pc == GU_HUGE_NEXT:
        f.i += <int32_t>(min(f.c, (vpn | 511) + 1) - vpn)
        return ask(t, f, GU_LOOK, REQ_SPIN_UNLOCK, LK_PTL, f.j)
    if f.pc == GU_ACCESSED:
        f.pc = GU_NEXT
        if f.d & FOLL_MLOCK and v.flags & VM_LOCKED and f.k and not page_compound(w, f.k):
            if w.pages[f.k].mapping and trylock_page(w, f.k):
                return call(w, t, f, GU_DRAINED, F_DRAIN, t.cpu)
    if f.pc == GU_DRAINED:
        return call(w, t, f, GU_MLOCKED, F_MLOCK_PAGE, f.k)
    if f.pc == GU_MLOCKED:
        return ask(t, f, GU_NEXT, REQ_UNLOCK_PAGE, LK_PAGE, f.k)
    if f.pc == GU_NEXT:
        f.i += 1
        return ask(t, f, GU_LOOK, REQ_SPIN_UNLOCK, LK_PTL, f.j)
    # a missing page: faulted in, unless only what is there is to be marked
    if f.d & FOLL_MLOCK and not f.d & FOLL_POPULATE:
        f.i += 1
        f.pc = GU_LOOK
        return REQ_NONE
    return call(w, t, f, GU_FAULTED, F_FAULT, f.a, vpn,
                (FAULT_WRITE if f.d & FOLL_WRITE else 0) | (FAULT_RETRYABLE if f.d & FOLL_UNLOCKABLE else 0))


cdef enum:
    PO_LOCKED = 1
    PO_DONE = 2
    PO_DRAINED = 3
    PO_UNLOCKED = 4


cdef int mm_populate(World *w, Task *t, Frame *f) noexcept nogil:
    """__mm_populate over [a, b): vma by vma, gaps passed over; c = errors are ignored. i = vma, d = answer,
    j = pages the last step passed, k = end of the current vma's part was reached."""
    cdef Vma *v
    cdef int64_t start, end, flags
    if f.pc == 0:
        if f.a >= f.b:
            return ret(t, 0)
        return ask(t, f, PO_LOCKED, REQ_DOWN_READ, LK_MMAP, t.mm)
    if f.pc == PO_DONE:
        f.d = t.res
        if w.tr.drain_on_populate:
            return call(w, t, f, PO_DRAINED, F_DRAIN, t.cpu)
        f.pc = PO_DRAINED
    if f.pc == PO_DRAINED:
        if f.d < 0:
            if not f.c:
                return ask(t, f, PO_UNLOCKED, REQ_UP_READ, LK_MMAP, t.mm)
            f.a = w.vmas[f.i].end
        else:
            f.a += f.d
        f.d = 0
        f.pc = PO_LOCKED
    if f.pc == PO_LOCKED:
        while f.a < f.b:
            f.i = find_vma(w, t.mm, f.a)
            if not f.i or w.vmas[f.i].start >= f.b:
                break
            v = &w.vmas[f.i]
            start = max(f.a, v.start)
            end = min(f.b, v.end)
            f.a = start
            if v.flags & (VM_IO | VM_PFNMAP) or w.tr.p02 and v.flags & VM_LOCKONFAULT:
                f.a = end
                continue
            if not v.flags & (VM_READ | VM_WRITE | VM_EXEC):
                t.res = f.d = -EFAULT
                f.pc = PO_DRAINED if w.tr.populate_checks_first else PO_DONE
                return REQ_NONE
            flags = FOLL_TOUCH | FOLL_POPULATE | FOLL_UNLOCKABLE
            if v.flags & VM_LOCKONFAULT:
                flags &= ~<int64_t>FOLL_POPULATE
            if not w.tr.p02:
                flags |= FOLL_MLOCK
            if (v.flags & (VM_WRITE | VM_SHARED)) == VM_WRITE:
                flags |= FOLL_WRITE
            return call(w, t, f, PO_DONE, F_GUP, f.i, start, end, flags)
        return ask(t, f, PO_UNLOCKED, REQ_UP_READ, LK_MMAP, t.mm)
    return ret(t, f.d)


cdef int madvise_populate(World *w, Task *t, Frame *f) noexcept nogil:
    """MADV_POPULATE_READ and _WRITE (c) of [a, b): neither forced nor held back by VM_LOCKONFAULT. res = 0 or -errno.
    i = vma, d = answer."""
    if f.pc == 1:
        f.d = t.res
        f.pc = 2
        if w.tr.drain_on_populate:
            return call(w, t, f, 2, F_DRAIN, t.cpu)
    if f.pc == 2:
        if f.d < 0:
            return ret(t, f.d)
        f.a += f.d
        f.d = 0
    if f.pc == 3 or f.a >= f.b:
        return ret(t, f.d)
    f.i = find_vma(w, t.mm, f.a)
    if not f.i or w.vmas[f.i].start > f.a:
        f.d = -ENOMEM
    elif (w.vmas[f.i].flags & (VM_IO | VM_PFNMAP) or vma_is_secretmem(w, &w.vmas[f.i])
          or not w.vmas[f.i].flags & (VM_WRITE if f.c else VM_READ)):
        f.d = -EINVAL
    if f.d:
        if not w.tr.populate_walks_holes:
            return call(w, t, f, 3, F_DRAIN, t.cpu)
        return ret(t, f.d)
    return call(w, t, f, 1, F_GUP, f.i, f.a, min(f.b, w.vmas[f.i].end),
                FOLL_TOUCH | FOLL_POPULATE | FOLL_UNLOCKABLE | (FOLL_WRITE if f.c else 0) | (0 if w.tr.p02 else FOLL_MLOCK))


cdef void register(flow_fn *table) noexcept:
    table[<int>F_GUP] = get_user_pages
    table[<int>F_POPULATE] = mm_populate
    table[<int>F_MADV_POPULATE] = madvise_populate
