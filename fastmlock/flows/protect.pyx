# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""mprotect and madvise. (mm/mprotect.c, mm/madvise.c; the specification, section 2.3)"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.lru cimport *
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.readahead cimport RA_PAGES
from fastmlock.mm.thp cimport thp_total_mapcount
from fastmlock.mm.swapfile cimport free_swap_and_cache, try_to_free_swap
from fastmlock.mm.vma cimport *

cdef enum:
    EACCES = 13


# ---- mprotect
cdef enum:
    MF_PTES = 1
    MF_PTL = 2
    MF_POPULATE = 3
    MF_POPULATED = 4


cdef void change_protection(World *w, Vma *v, uint32_t leaf, int first, int end) noexcept nogil:
    """Present entries get the write bit that the vma's protection gives: shared mappings of tmpfs, and entries of
    tracked shared files that are dirty already."""
    cdef int i = next_pte(w, leaf, first, end)
    cdef uint64_t pte
    cdef bint write
    if pmd_huge(w, leaf):
        write = (v.flags & (VM_WRITE | VM_SHARED)) == (VM_WRITE | VM_SHARED)
        huge_pmd_flags(w, leaf, PTE_WRITE if write else 0, 0 if write else PTE_WRITE)
        return
    while i < end:
        pte = pte_get(w, leaf, i)
        if pte & PTE_PRESENT:
            write = (v.flags & (VM_WRITE | VM_SHARED)) == (VM_WRITE | VM_SHARED) \
                and (not v.mapping or w.mappings[v.mapping].shmem or pte & PTE_DIRTY)
            pte_flags(w, leaf, i, PTE_WRITE if write else 0, 0 if write else PTE_WRITE)
        i = next_pte(w, leaf, i + 1, end)


cdef int mprotect_fixup(World *w, Task *t, Frame *f) noexcept nogil:
    """[b, c) of vma a gets the access bits of d. A locked private vma that becomes writable breaks COW now. res = the
    vma or -errno. i = vma, j = old flags were locked and not writable, k = leaf, a = position from MF_PTES on."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    if f.pc == 0:
        if <uint64_t>f.d == v.flags:
            return ret(t, f.a)
        if f.d & VM_WRITE and not v.flags & (VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE):
            f.d |= VM_ACCOUNT
        elif w.tr.mprotect_uncharges and not f.d & VM_WRITE and not v.mapping and not v.anon_vma:
            f.d &= ~<int64_t>VM_ACCOUNT
        f.j = (v.flags & (VM_WRITE | VM_SHARED | VM_LOCKED)) == VM_LOCKED and f.d & VM_WRITE
        return call(w, t, f, MF_PTES, F_VMA_FLAGS, f.a, f.b, f.c, f.d)
    if f.pc == MF_PTES:
        if t.res < 0:
            return ret(t, t.res)
        f.i = <int32_t>t.res
        set_vm_flags(w, f.i, <uint64_t>f.d)
        f.a = f.b
        f.pc = MF_POPULATE
    v = &w.vmas[f.i]
    if f.pc == MF_PTL:
        change_protection(w, v, f.k, <int>(f.a - w.leaves[f.k].vpn), <int>min(f.c - w.leaves[f.k].vpn, 512))
        f.a = w.leaves[f.k].vpn + 512
        return ask(t, f, MF_POPULATE, REQ_SPIN_UNLOCK, LK_PTL, f.k)
    if f.pc == MF_POPULATE:
        f.a = next_mapped(w, v.mm, f.a, f.c)
        if f.a < f.c:
            f.k = find_leaf(w, v.mm, f.a)
            return ask(t, f, MF_PTL, REQ_SPIN_LOCK, LK_PTL, f.k)
        if f.j and not (w.tr.p02 and v.flags & VM_LOCKONFAULT):
            return call(w, t, f, MF_POPULATED, F_GUP, f.i, f.b, f.c,
                        FOLL_TOUCH | FOLL_WRITE | (0 if v.flags & VM_LOCKONFAULT else FOLL_POPULATE)
                        | (0 if w.tr.p02 else FOLL_MLOCK))
    elif f.pc == MF_POPULATED:
        if w.tr.drain_on_populate:
            return call(w, t, f, MF_POPULATED + 1, F_DRAIN, t.cpu)
    return ret(t, f.i)


cdef int sys_mprotect(World *w, Task *t, Frame *f) noexcept nogil:
    """[a, b) in pages, c = prot; vma by vma up to the first hole. i = vma, d = error."""
    cdef Vma *v
    cdef int64_t end
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        return ask(t, f, 1, REQ_DOWN_WRITE, LK_MMAP, t.mm)
    if f.pc == 1:
        f.i = find_vma(w, t.mm, f.a)
        f.pc = 2
    elif f.pc == 2:
        f.i = 0
        if t.res < 0:
            f.d = -t.res
        elif f.a < f.b:
            f.a = max(f.a, w.vmas[<uint32_t>t.res].end)
            f.i = find_vma(w, t.mm, f.a)
    else:
        return sysret(t, 0, <int>f.d)
    if f.d or f.a >= f.b:
        return ask(t, f, 3, REQ_UP_WRITE, LK_MMAP, t.mm)
    if not f.i or w.vmas[f.i].start > f.a:
        f.d = ENOMEM
        return ask(t, f, 3, REQ_UP_WRITE, LK_MMAP, t.mm)
    v = &w.vmas[f.i]
    end = min(v.end, f.b)
    f.k = <int32_t>(f.a - v.start)
    f.a = end
    return call(w, t, f, 2, F_MPROTECT_FIXUP, f.i, v.start + f.k, end,
                (v.flags & ~<uint64_t>VM_ACCESS_FLAGS) | <uint64_t>f.c)


# ---- madvise
cdef enum:
    MADV_NORMAL = 0
    MADV_RANDOM = 1
    MADV_SEQUENTIAL = 2
    MADV_WILLNEED = 3
    MADV_DONTNEED = 4
    MADV_FREE = 8
    MADV_REMOVE = 9
    MADV_DONTFORK = 10
    MADV_DOFORK = 11
    MADV_MERGEABLE = 12
    MADV_UNMERGEABLE = 13
    MADV_HUGEPAGE = 14
    MADV_NOHUGEPAGE = 15
    MADV_WIPEONFORK = 18
    MADV_KEEPONFORK = 19
    MADV_COLD = 20
    MADV_PAGEOUT = 21
    MADV_POPULATE_READ = 22
    MADV_POPULATE_WRITE = 23
    MADV_DONTNEED_LOCKED = 24
    MADV_COLLAPSE = 25


cdef bint behaviour(int advice, uint64_t *on, uint64_t *off) noexcept nogil:
    """Advice that is nothing but a vma flag: what it sets and clears."""
    on[0] = off[0] = 0
    if advice == MADV_NORMAL: off[0] = VM_RAND_READ | VM_SEQ_READ
    elif advice == MADV_SEQUENTIAL: on[0] = VM_SEQ_READ; off[0] = VM_RAND_READ
    elif advice == MADV_RANDOM: on[0] = VM_RAND_READ; off[0] = VM_SEQ_READ
    elif advice == MADV_DONTFORK: on[0] = VM_DONTCOPY
    elif advice == MADV_DOFORK: off[0] = VM_DONTCOPY
    elif advice == MADV_WIPEONFORK: on[0] = VM_WIPEONFORK
    elif advice == MADV_KEEPONFORK: off[0] = VM_WIPEONFORK
    elif advice == MADV_MERGEABLE: on[0] = VM_MERGEABLE
    elif advice == MADV_UNMERGEABLE: off[0] = VM_MERGEABLE
    elif advice == MADV_HUGEPAGE: on[0] = VM_HUGEPAGE; off[0] = VM_NOHUGEPAGE
    elif advice == MADV_NOHUGEPAGE: on[0] = VM_NOHUGEPAGE; off[0] = VM_HUGEPAGE
    else: return False
    return True


cdef enum:
    MV_FLAGS = 1
    MV_DRAINED = 2
    MV_DONE = 3
    MV_ZAPPED = 4
    MV_PTL = 5
    MV_NEXT = 6
    MV_COLLAPSED = 7
    MV_SPLIT = 8
    MV_SPLIT_DONE = 9
    MV_SPLIT_PUT = 10
    MV_UNMERGED = 11


cdef int madvise_vma(World *w, Task *t, Frame *f) noexcept nogil:
    """Advice d on [b, c) of vma a. res = the vma or -errno. i = a THP to be split, k = leaf, j = entry."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef uint64_t on, off
    cdef int advice = <int>f.d
    cdef uint64_t pte
    cdef uint32_t page
    cdef int end
    if f.pc == 0:
        if behaviour(advice, &on, &off):
            if advice == MADV_DOFORK and v.flags & VM_IO:
                return ret(t, -EINVAL)
            if advice == MADV_WIPEONFORK and (v.mapping or v.flags & VM_SHARED):
                return ret(t, -EINVAL)
            if advice == MADV_MERGEABLE and v.flags & (VM_SHARED | VM_SPECIAL | VM_HUGETLB):
                return ret(t, f.a)
            if advice == MADV_UNMERGEABLE and v.flags & VM_MERGEABLE and v.anon_vma:
                return call(w, t, f, MV_UNMERGED, F_KSM_UNMERGE, f.a, f.b, f.c)
            if ((v.flags & ~off) | on) == v.flags:
                return ret(t, f.a)
            f.d = <int64_t>((v.flags & ~off) | on)
            return call(w, t, f, MV_FLAGS, F_VMA_FLAGS, f.a, f.b, f.c, f.d)
        if advice == MADV_WILLNEED and v.mapping and w.mappings[v.mapping].kind:
            return ret(t, f.a)
        if advice == MADV_WILLNEED:
            if v.mapping and not w.mappings[v.mapping].shmem:
                return call(w, t, f, MV_DONE, F_READAHEAD, v.mapping, f.b - v.start + v.pgoff,
                            min(f.c - f.b, RA_PAGES))
            return call(w, t, f, MV_DONE, F_SWAP_WILLNEED, f.a, f.b, f.c)
        if is_populate(advice):
            return call(w, t, f, MV_DONE, F_MADV_POPULATE, f.b, f.c, advice == MADV_POPULATE_WRITE)
        if advice == MADV_COLLAPSE:
            return call(w, t, f, MV_COLLAPSED, F_MADV_COLLAPSE, f.a, f.b, f.c)
        if advice == MADV_REMOVE and not v.flags & VM_LOCKED and v.mapping and w.mappings[v.mapping].kind:
            if not v.flags & VM_SHARED or not v.flags & VM_WRITE and not w.tr.remove_maywrite:
                return ret(t, -EACCES)
            return unsupported(w, f.fn)
        if v.flags & VM_HUGETLB and hugetlb_dontneed(w, f):
            if f.b >= f.c:
                return ret(t, f.a)
        elif v.flags & (VM_HUGETLB | VM_PFNMAP) or v.flags & VM_LOCKED and advice != MADV_DONTNEED_LOCKED:
            return ret(t, -EINVAL)
        if advice == MADV_FREE or advice == MADV_REMOVE:
            if advice == MADV_FREE and v.mapping or advice == MADV_REMOVE and not v.mapping:
                return ret(t, -EINVAL)
        if advice == MADV_REMOVE:
            if not v.flags & VM_SHARED or not v.flags & VM_WRITE and not w.tr.remove_maywrite:
                return ret(t, -EACCES)
            return call(w, t, f, MV_DONE, F_TRUNCATE, v.mapping, f.b - v.start + v.pgoff, f.c - v.start + v.pgoff, -1)
        if advice == MADV_COLD or advice == MADV_PAGEOUT:
            return call(w, t, f, MV_DONE, F_COLD, f.a, f.b, f.c, advice == MADV_PAGEOUT)
        f.pc = MV_DRAINED
        if w.tr.munmap_drains or advice == MADV_FREE:
            return call(w, t, f, MV_DRAINED, F_DRAIN, t.cpu)
    if f.pc == MV_UNMERGED:
        f.d = <int64_t>(v.flags & ~<uint64_t>VM_MERGEABLE)
        return call(w, t, f, MV_FLAGS, F_VMA_FLAGS, f.a, f.b, f.c, f.d)
    if f.pc == MV_COLLAPSED:
        return ret(t, t.res if t.res < 0 else f.a)
    if f.pc == MV_DONE:
        return ret(t, t.res if t.res < 0 and is_populate(advice) else f.a)
    if f.pc == MV_FLAGS:
        if t.res >= 0:
            set_vm_flags(w, <uint32_t>t.res, <uint64_t>f.d)
        return ret(t, -EAGAIN if t.res == -ENOMEM and w.tr.madvise_eagain else t.res)
    if f.pc == MV_DRAINED:
        if advice != MADV_FREE:
            return call(w, t, f, MV_ZAPPED, F_ZAP, f.a, f.b, f.c, ZAP_RECLAIM_PT)
        f.pc = MV_NEXT
    if f.pc == MV_ZAPPED:
        return call(w, t, f, MV_DONE, F_FLUSH, 0)

    # MADV_FREE: clean the entries, queue the pages as lazily freeable
    if f.pc == MV_SPLIT_PUT:
        # split or not, on with the same pte; a THP that could not be split ends its table
        f.pc = MV_NEXT
        if put_page_testzero(w, f.i):
            return call(w, t, f, MV_NEXT, F_FREE_PAGE, f.i)
    if f.pc == MV_SPLIT:
        return call(w, t, f, MV_SPLIT_DONE, F_SPLIT_PAGE, f.i)
    if f.pc == MV_SPLIT_DONE:
        if not t.res:
            f.b = (f.b | 511) + 1
        return ask(t, f, MV_SPLIT_PUT, REQ_UNLOCK_PAGE, LK_PAGE, f.i)
    if f.pc == MV_PTL:
        end = <int>min(f.c - w.leaves[f.k].vpn, 512)
        page = pmd_huge(w, f.k)
        if page and f.j == 0 and end == 512:
            f.j = 512
            if page != w.huge_zero and thp_total_mapcount(w, page) == 1 and not test(w, page, PG_locked):
                w.pages[page].flags &= ~<uint32_t>PG_dirty
                huge_pmd_flags(w, f.k, 0, PTE_YOUNG | PTE_DIRTY)
                if lazyfree(w, t, page):
                    return call(w, t, f, MV_PTL, F_PVEC, t.cpu, PVEC_LAZYFREE)
        elif page == w.huge_zero and page:
            f.j = 512
        f.j = next_pte(w, f.k, f.j, end)
        while f.j < end:
            pte = pte_get(w, f.k, f.j)
            page = pte_pfn(pte)
            if (pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT and page_compound(w, page):
                f.i = compound_head(w, page)
                f.b = w.leaves[f.k].vpn + f.j
                if page_mapcount(w, page) != 1 or not trylock_page(w, f.i):
                    break
                get_page(w, f.i)
                return ask(t, f, MV_SPLIT, REQ_SPIN_UNLOCK, LK_PTL, f.k)
            f.j += 1
            if pte & PTE_SWAP:
                pte_clear(w, f.k, f.j - 1)
                page = free_swap_and_cache(w, pte_pfn(pte))
                if page:
                    return call(w, t, f, MV_PTL, F_FREE_PAGE, page)
            elif (pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT and madvise_free_page(w, t, pte_pfn(pte)):
                pte_flags(w, f.k, f.j - 1, 0, PTE_YOUNG | PTE_DIRTY)
                if lazyfree(w, t, pte_pfn(pte)):
                    return call(w, t, f, MV_PTL, F_PVEC, t.cpu, PVEC_LAZYFREE)
            f.j = next_pte(w, f.k, f.j, end)
        f.b = w.leaves[f.k].vpn + 512
        return ask(t, f, MV_NEXT, REQ_SPIN_UNLOCK, LK_PTL, f.k)
    if f.pc == MV_NEXT:
        f.b = next_mapped(w, v.mm, f.b, f.c)
        if f.b < f.c:
            f.k = find_leaf(w, v.mm, f.b)
            f.j = <int32_t>(f.b - w.leaves[f.k].vpn)
            return ask(t, f, MV_PTL, REQ_SPIN_LOCK, LK_PTL, f.k)
    return ret(t, f.a)


cdef inline bint madvise_free_page(World *w, Task *t, uint32_t page) noexcept nogil:
    if w.pages[page].flags & (PG_dirty | PG_swapcache):
        if w.pages[page].mapcount != 1 or w.pages[page].flags & PG_swapcache and not try_to_free_swap(w, page):
            return False
        w.pages[page].flags &= ~<uint32_t>PG_dirty
    return True


cdef inline bint lazyfree(World *w, Task *t, uint32_t page) noexcept nogil:
    """mark_page_lazyfree; true if the batch must be processed now."""
    cdef uint32_t flags = w.pages[page].flags
    if not (flags & PG_lru and flags & PG_anon and flags & PG_swapbacked) or flags & (PG_unevictable | PG_swapcache):
        return False
    return pvec_add(w, t.cpu, PVEC_LAZYFREE, page, 0)


cdef inline bint hugetlb_dontneed(World *w, Frame *f) noexcept nogil:
    """Huge pages may be given up, from the beginning of one on; where the range ends inside another, kernels differ."""
    if f.d != MADV_DONTNEED and f.d != MADV_DONTNEED_LOCKED or not w.tr.hugetlb_dontneed or f.b & 511:
        return False
    f.c = (f.c + (511 if w.tr.hugetlb_dontneed == 1 else 0)) & ~<int64_t>511
    return True


cdef inline bint is_populate(int64_t advice) noexcept nogil:
    return advice == MADV_POPULATE_READ or advice == MADV_POPULATE_WRITE


cdef int sys_madvise(World *w, Task *t, Frame *f) noexcept nogil:
    """[a, b) in pages, c = advice. The first error ends it; holes are passed over and reported at the end. i = vma,
    j = ENOMEM once a hole was met, d = error."""
    cdef Vma *v
    cdef int64_t start, end
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        return ask(t, f, 1, REQ_DOWN_WRITE if f.c <= MADV_SEQUENTIAL else REQ_DOWN_READ, LK_MMAP, t.mm)
    if f.pc == 2:
        if t.res < 0:
            f.d = -t.res
            f.a = f.b
        elif f.a < f.b:
            f.a = max(f.a, w.vmas[<uint32_t>t.res].end)
        f.pc = 1
        if f.a >= f.b:
            return ask(t, f, 3, REQ_UP_WRITE if f.c <= MADV_SEQUENTIAL else REQ_UP_READ, LK_MMAP, t.mm)
    if f.pc == 1:
        if is_populate(f.c) and not w.tr.populate_walks_holes:
            start = f.a
            f.a = f.b
            f.i = w.mms[t.mm].vma
            return call(w, t, f, 4, F_MADV_POPULATE, start, f.b, f.c == MADV_POPULATE_WRITE)
        f.i = find_vma(w, t.mm, f.a)
        if not f.i or w.vmas[f.i].start >= f.b:
            f.j = ENOMEM
            return ask(t, f, 3, REQ_UP_WRITE if f.c <= MADV_SEQUENTIAL else REQ_UP_READ, LK_MMAP, t.mm)
        v = &w.vmas[f.i]
        if f.a < v.start:
            f.j = ENOMEM
            f.a = v.start
        start = f.a
        end = min(v.end, f.b)
        f.a = end
        return call(w, t, f, 2, F_MADVISE_VMA, f.i, start, end, f.c)
    if f.pc == 4:
        f.d = -t.res
        return ask(t, f, 3, REQ_UP_READ, LK_MMAP, t.mm)
    return sysret(t, 0, <int>(f.d if f.d else f.j))


cdef void register(flow_fn *table) noexcept:
    table[<int>F_MPROTECT_FIXUP] = mprotect_fixup
    table[<int>F_SYS_MPROTECT] = sys_mprotect
    table[<int>F_MADVISE_VMA] = madvise_vma
    table[<int>F_SYS_MADVISE] = sys_madvise
