# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""fork: dup_mmap and the copying of page tables. (kernel/fork.c, mm/memory.c; the specification, section 1.2)"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.page cimport compound_head, get_page, test, work
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport anon_vma_fork, linear_page_index, page_dup_rmap
from fastmlock.mm.vma cimport *

cdef enum:
    FK_LOCKED = 1
    FK_ANON = 2
    FK_ANON_DONE = 3
    FK_FILE = 4
    FK_FILE_DONE = 5
    FK_COPY = 6
    FK_PTL = 7
    FK_UNLOCKED = 8
    FK_END = 9


cdef bint copy_ptes(World *w, Vma *src, Vma *dst, uint32_t leaf, int first, int end) noexcept nogil:
    """copy_pte_range: private writable entries become read-only on both sides, the child's are old."""
    cdef int i = next_pte(w, leaf, first, end)
    cdef int64_t vpn
    cdef uint64_t pte
    cdef uint32_t page, to
    # an empty table is copied too: there no huge page can come, and fault-around finds one
    if asks_pmd_none(w) and not w.leaves[leaf].none and not alloc_leaf(w, dst.mm, w.leaves[leaf].vpn):
        return False
    while i < end:
        pte = pte_get(w, leaf, i)
        vpn = w.leaves[leaf].vpn + i
        to = alloc_leaf(w, dst.mm, vpn)
        if not to:
            return False
        if pte & PTE_PRESENT and not pte & PTE_SPECIAL:
            page = pte_pfn(pte)
            get_page(w, compound_head(w, page))
            page_dup_rmap(w, page)
            w.mms[dst.mm].rss += 1
            if not src.flags & VM_SHARED and pte & PTE_WRITE:
                pte_flags(w, leaf, i, 0, PTE_WRITE)
                pte &= ~<uint64_t>PTE_WRITE
            w.pages[page].flags &= ~<uint32_t>PG_anon_exclusive
            pte &= ~<uint64_t>(PTE_YOUNG | (PTE_DIRTY if src.flags & VM_SHARED else 0))
            if w.pages[page].flags & PG_anon:
                pte_set(w, to, i, pte, 0, 0)
            else:
                pte_set(w, to, i, pte, src.mapping, linear_page_index(src, vpn))
        else:
            if pte & PTE_SWAP:
                w.swap[pte_pfn(pte)].count += 1
                pte &= ~<uint64_t>PTE_SWP_EXCLUSIVE
                pte_set(w, leaf, i, pte, 0, 0)
            pte_set(w, to, i, pte, 0, 0)
        i = next_pte(w, leaf, i + 1, end)
    return w.error == ERR_NONE


cdef int sys_fork(World *w, Task *t, Frame *f) noexcept nogil:
    """a = the child's mm, made empty. Its VMAs are unlocked, its locked_vm is 0. i = parent vma, j = child vma,
    b = position, k = leaf."""
    cdef uint32_t child = <uint32_t>f.a
    cdef Vma *v = &w.vmas[f.i]
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        w.mms[child].start_brk = w.mms[t.mm].start_brk
        w.mms[child].brk = w.mms[t.mm].brk
        return ask(t, f, FK_LOCKED, REQ_DOWN_WRITE, LK_MMAP, t.mm)
    while True:
        if f.pc == FK_LOCKED:
            f.i = w.vmas[f.i].next if f.i else w.mms[t.mm].vma
            while f.i and w.vmas[f.i].flags & VM_DONTCOPY:
                f.i = w.vmas[f.i].next
            if not f.i:
                return ask(t, f, FK_END, REQ_UP_WRITE, LK_MMAP, t.mm)
            v = &w.vmas[f.i]
            w.mms[child].total_vm += v.end - v.start
            f.j = vm_area_dup(w, f.i, child, v.start, v.end, v.flags & ~<uint64_t>VM_LOCKED_MASK, v.pgoff)
            if not f.j:
                return REQ_ERROR
            w.vmas[f.j].anon_vma = 0
            if v.flags & VM_HUGETLB:
                w.vmas[f.j].swap_ra = 0         # a child has reserved nothing
            f.pc = FK_FILE
            if v.anon_vma and not v.flags & VM_WIPEONFORK:
                return ask(t, f, FK_ANON, REQ_DOWN_WRITE, LK_ANON_VMA, w.anon_vmas[v.anon_vma].root)
        if f.pc == FK_ANON:
            if not anon_vma_fork(w, f.j, f.i):
                return REQ_ERROR
            return ask(t, f, FK_FILE, REQ_UP_WRITE, LK_ANON_VMA, w.anon_vmas[v.anon_vma].root)
        if f.pc == FK_FILE:
            if v.mapping:
                return ask(t, f, FK_FILE_DONE, REQ_DOWN_WRITE, LK_I_MMAP, v.mapping)
            f.pc = FK_COPY
        if f.pc == FK_FILE_DONE:
            if not vma_link_file(w, f.j, f.i):
                return REQ_ERROR
            return ask(t, f, FK_COPY, REQ_UP_WRITE, LK_I_MMAP, v.mapping)
        if f.pc == FK_COPY:
            vma_list_insert(w, f.j)
            f.b = v.start
            # a vma without anonymous pages is not copied: the child faults its file pages in again
            if not (v.anon_vma or v.flags & (VM_PFNMAP | VM_MIXEDMAP)
                    or v.flags & VM_HUGETLB and not w.tr.hugetlb_lazy_fork) or v.flags & VM_WIPEONFORK:
                f.b = v.end
            f.pc = FK_UNLOCKED
        if f.pc == FK_PTL:
            if not copy_ptes(w, v, &w.vmas[f.j], f.k, <int>(f.b - w.leaves[f.k].vpn),
                             <int>min(v.end - w.leaves[f.k].vpn, 512)):
                return REQ_ERROR
            f.b = w.leaves[f.k].vpn + 512
            return ask(t, f, FK_UNLOCKED, REQ_SPIN_UNLOCK, LK_PTL, f.k)
        if f.pc == FK_UNLOCKED:
            f.b = next_mapped(w, t.mm, f.b, v.end)
            if f.b < v.end:
                f.k = find_leaf(w, t.mm, f.b)
                if pmd_huge(w, f.k):
                    f.b = w.leaves[f.k].vpn + 512
                    return call(w, t, f, FK_UNLOCKED, F_COPY_HUGE_PMD, f.i, f.j, f.b - 512)
                return ask(t, f, FK_PTL, REQ_SPIN_LOCK, LK_PTL, f.k)
            f.pc = FK_LOCKED
        if f.pc == FK_END:
            return sysret(t, 0, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_SYS_FORK] = sys_fork
