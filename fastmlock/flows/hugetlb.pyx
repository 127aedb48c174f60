# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Mappings of huge pages from the pool. mlock leaves their VMAs alone and populates them; their pages are on no LRU
list and never marked. (mm/hugetlb.c; the specification, sections 1.2, 1.5 and 2.3, and the recordings own-hugetlb-*)

Simplified: a copy that takes pages away from children when the pool is empty (`unmap_ref_private`) does so with the
page-table lock of its own pmd alone.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.hugetlb cimport *
from fastmlock.mm.interval_tree cimport tree_next
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport anon_vma_prepare, linear_page_index
from fastmlock.mm.thp cimport huge_start


# ---- maps of a page
cdef void add_new_anon_rmap(World *w, uint32_t head, Vma *v, int64_t vpn) noexcept nogil:
    cdef int64_t index = linear_page_index(v, huge_start(vpn))
    cdef int i
    for i in range(THP_PAGES):
        w.pages[head + i].flags |= PG_anon
        w.pages[head + i].mapping = v.anon_vma
        w.pages[head + i].index = index + i
    w.pages[head].flags |= PG_anon_exclusive
    w.pages[head].compound_mapcount = 1
    touch(w, head, 1)


cdef void remove_rmap(World *w, uint32_t leaf) noexcept nogil:
    """The pmd goes. The map's reference is the caller's."""
    cdef uint32_t head = pmd_huge(w, leaf)
    clear_huge_pmd(w, leaf)
    w.pages[head].compound_mapcount -= 1
    touch(w, head, 2)


cdef uint32_t unmap_pmd(World *w, Vma *v, uint32_t leaf) noexcept nogil:
    """The same, where a mapping ends: what the hardware noted is the page's now. -> the page"""
    cdef uint32_t head = pmd_huge(w, leaf)
    if pte_get(w, leaf, 0) & PTE_DIRTY:
        w.pages[head].flags |= PG_dirty
    restore_reserve(w, v, huge_index(v, w.leaves[leaf].vpn), head)
    remove_rmap(w, leaf)
    return head


cdef inline int fresh(Vma *v) noexcept nogil:
    """Flags of a new entry: shared writable ones are born dirty and writable, private ones wait for their write."""
    if v.flags & VM_SHARED and v.flags & VM_WRITE:
        return PTE_PRESENT | PTE_YOUNG | PTE_WRITE | PTE_DIRTY
    return PTE_PRESENT | PTE_YOUNG


# ---- the fault
cdef uint32_t hugetlb_no_page(World *w, uint32_t vma, int64_t vpn) noexcept nogil:
    """The page for an entry that is none, mapped already in the page's own account: the file's, or a new one, which is
    the file's if the mapping is shared. 0: SIGBUS."""
    cdef Vma *v = &w.vmas[vma]
    cdef Mapping *m = &w.mappings[v.mapping]
    cdef int64_t index = huge_index(v, vpn)
    cdef uint32_t head = hugetlb_cached(w, v.mapping, index)
    if v.swap_ra & <uint32_t>RESV_UNMAPPED:
        return 0
    if not head:
        if index >= m.size >> PTE_SHIFT:
            return 0
        head = alloc_huge_page(w, v, index, False)
        if not head:
            return 0
        work(w, WK_ALLOC, THP_PAGES)
        if not v.flags & VM_SHARED:
            add_new_anon_rmap(w, head, v, vpn)
            return head
        w.pages[head].mapping = v.mapping
        w.pages[head].index = index
        w.pages[head].flags |= PG_dirty
        w.cache[m.base + index] = head
        m.nrpages += 1
    get_page(w, head)
    w.pages[head].compound_mapcount += 1
    return head


cdef void unmap_ref_private(World *w, uint32_t vma, uint32_t head, int64_t vpn) noexcept nogil:
    """The owner of a reservation takes its page back from whoever else maps it privately, for good."""
    cdef Vma *v = &w.vmas[vma]
    cdef Vma *other
    cdef int64_t visits = 0, pgoff = huge_start(vpn) - v.start + v.pgoff
    cdef uint32_t node = tree_next(w, w.mappings[v.mapping].root, 0, pgoff, False, &visits), leaf
    while node:
        other = &w.vmas[w.nodes[node].vma]
        if w.nodes[node].vma != vma and not other.flags & VM_SHARED and not resv_owner(other):
            leaf = find_leaf(w, other.mm, pgoff - other.pgoff + other.start)
            if leaf and pmd_huge(w, leaf) == head:
                unmap_pmd(w, other, leaf)
                w.pages[head].refcount -= 1
                other.swap_ra = <uint32_t>RESV_UNMAPPED
        node = tree_next(w, w.mappings[v.mapping].root, node, pgoff, False, &visits)
    work(w, WK_RMAP_VMA, visits)


cdef uint32_t hugetlb_wp(World *w, uint32_t vma, uint32_t leaf, int64_t vpn) noexcept nogil:
    """A write to an entry that does not allow it: the page is kept if it is this mapping's alone, else copied. The
    owner of a reservation does not use it for a copy, but finds pages that its children share with it its own if none
    is free. The page that is mapped then, 0: SIGBUS. What was mapped before keeps the entry's reference."""
    cdef Vma *v = &w.vmas[vma]
    cdef uint32_t old = pmd_huge(w, leaf), new
    cdef int64_t index = huge_index(v, vpn)
    cdef bint outside = resv_owner(v) and old != hugetlb_cached(w, v.mapping, index)
    if v.flags & VM_SHARED:
        return old
    if w.pages[old].compound_mapcount > 1 or not test(w, old, PG_anon):
        new = alloc_huge_page(w, v, index, outside)
        if new:
            work(w, WK_COPY, THP_PAGES)
            add_new_anon_rmap(w, new, v, vpn)
            return new
        if outside:
            unmap_ref_private(w, vma, old, vpn)
        if not outside or w.pages[old].compound_mapcount > 1:
            return 0
    w.pages[old].flags |= PG_anon_exclusive
    return old


cdef enum:
    HT_PTL = 1
    HT_PUT = 2
    HT_DONE = 3


cdef int hugetlb_fault(World *w, Task *t, Frame *f) noexcept nogil:
    """As handle_mm_fault. i = leaf, j = a page that a copy has replaced, k = page, d = answer."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef bint write = (f.c & FAULT_WRITE) != 0
    if f.pc == 0:
        if not v.flags & VM_SHARED and not anon_vma_prepare(w, <uint32_t>f.a):
            return REQ_ERROR
        f.i = alloc_leaf(w, v.mm, f.b)
        if not f.i:
            return REQ_ERROR
        w.leaves[f.i].none = not pmd_huge(w, f.i)
        return ask(t, f, HT_PTL, REQ_SPIN_LOCK, LK_PTL, f.i)
    if f.pc == HT_PTL:
        f.pc = HT_DONE
        if not pmd_huge(w, f.i):
            f.k = hugetlb_no_page(w, <uint32_t>f.a, f.b)
            if f.k and not set_huge_pmd(w, f.i, f.k, fresh(v)):
                return REQ_ERROR
            if not f.k:
                f.d = -SIGBUS
        if not f.d and write and not pte_get(w, f.i, 0) & PTE_WRITE:
            f.k = hugetlb_wp(w, <uint32_t>f.a, f.i, f.b)
            if not f.k:
                f.d = -SIGBUS
            elif <uint32_t>f.k != pmd_huge(w, f.i):
                f.j = pmd_huge(w, f.i)
                remove_rmap(w, f.i)
                if not set_huge_pmd(w, f.i, f.k, 0):
                    return REQ_ERROR
                f.pc = HT_PUT
        if not f.d:
            huge_pmd_flags(w, f.i, PTE_PRESENT | PTE_YOUNG | (PTE_DIRTY | PTE_WRITE if write else 0), 0)
        return ask(t, f, f.pc, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == HT_PUT:
        if put_page_testzero(w, f.j):
            free_huge_page(w, f.j)
    return ret(t, f.d)


# ---- unmapping
cdef enum:
    HU_NEXT = 1
    HU_PTL = 2
    HU_UNLOCKED = 3
    HU_DONE = 4


cdef int unmap_hugepage_range(World *w, Task *t, Frame *f) noexcept nogil:
    """The pmds of [b, c) in vma a go, under the file's i_mmap_rwsem for write. i = leaf."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    if f.pc == 0:
        return ask(t, f, HU_NEXT, REQ_DOWN_WRITE, LK_I_MMAP, v.mapping)
    if f.pc == HU_UNLOCKED:
        f.pc = HU_NEXT
        if t.gather == GATHER_MAX:
            return call(w, t, f, HU_NEXT, F_FLUSH, 0)
    if f.pc == HU_NEXT:
        f.b = next_mapped(w, v.mm, f.b, f.c)
        if f.b >= f.c:
            return ask(t, f, HU_DONE, REQ_UP_WRITE, LK_I_MMAP, v.mapping)
        f.i = find_leaf(w, v.mm, f.b)
        f.b = huge_start(f.b) + THP_PAGES
        return ask(t, f, HU_PTL, REQ_SPIN_LOCK, LK_PTL, f.i)
    if f.pc == HU_PTL:
        if pmd_huge(w, f.i):
            w.gathers[<int64_t>task_index(w, t) * GATHER_MAX + t.gather] = unmap_pmd(w, v, f.i)
            t.gather += 1
        return ask(t, f, HU_UNLOCKED, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    return ret(t, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_HUGETLB_FAULT] = hugetlb_fault
    table[<int>F_HUGETLB_UNMAP] = unmap_hugepage_range
