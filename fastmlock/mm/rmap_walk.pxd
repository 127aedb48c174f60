# One step of a reverse-map walk: the next page-table entry that maps a page. (rmap_walk, page_vma_mapped_walk)
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from fastmlock.mm.interval_tree cimport tree_next
from fastmlock.mm.ksm cimport rmap_next_ksm
from fastmlock.mm.page cimport work
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport rmap_address, rmap_tree
from fastmlock.state.types cimport *


cdef inline bint page_vma_mapped(World *w, uint64_t pte, uint64_t kind, uint32_t pfn) noexcept nogil:
    """The entry is of that kind, PTE_PRESENT or PTE_MIGRATION, and for that frame."""
    return (pte & (PTE_PRESENT | PTE_SPECIAL | PTE_MIGRATION)) == kind and pte_pfn(pte) == pfn


cdef inline bint rmap_next(World *w, uint32_t page, uint64_t kind, uint32_t pfn, int32_t *node, int64_t *vpn,
                           int32_t *leaf) noexcept nogil:
    """Next vma of the page in tree order, behind `node` and `vpn` (0: from the start), whose entry for it is of `kind`
    and for frame `pfn`; false at the end. The rmap lock is held, the page-table lock is not: who takes it looks at the
    entry again."""
    cdef int64_t visits = 0
    cdef bint found
    if w.pages[page].flags & PG_ksm:
        found = rmap_next_ksm(w, page, kind, pfn, node, vpn, leaf, &visits)
        work(w, WK_RMAP_VMA, visits)
        return found
    while True:
        visits = 0
        node[0] = tree_next(w, rmap_tree(w, page), node[0], w.pages[page].index, False, &visits)
        work(w, WK_RMAP_VMA, visits)
        if not node[0]:
            return False
        vpn[0] = rmap_address(w, node[0], page)
        leaf[0] = find_leaf(w, w.vmas[w.nodes[node[0]].vma].mm, vpn[0])
        if leaf[0] and page_vma_mapped(w, pte_get(w, leaf[0], <int>(vpn[0] & 511)), kind, pfn):
            return True
