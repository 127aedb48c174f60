# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The stable node of a KSM page: the places that were merged into it, and the walk over all who map it.

page->mapping of a KSM page names no anon_vma but the first of its places. A place holds the anon_vma that its vma had,
in whose tree the vma, its splits and its forks are found again.
"""
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport anon_vma_put
from fastmlock.state.pool cimport pool_next


cdef bint stable_tree_append(World *w, uint32_t page, uint32_t anon_vma, uint32_t mm, int64_t vpn) noexcept nogil:
    cdef uint32_t item = w.ksm_items_free
    if item:
        w.ksm_items_free = w.ksm_items[item].next
    else:
        item = pool_next(w, &w.ksm_items_used, w.ksm_items_cap, ERR_NO_AVCS)
        if not item:
            return False
    w.ksm_items[item].page = page
    w.ksm_items[item].anon_vma = anon_vma
    w.ksm_items[item].mm = mm
    w.ksm_items[item].vpn = vpn
    w.ksm_items[item].next = w.pages[page].mapping
    w.anon_vmas[anon_vma].refs += 1
    w.pages[page].mapping = item
    return True


cdef inline bint still_there(World *w, KsmItem *item) noexcept nogil:
    """Whether the place still maps its KSM page."""
    cdef uint32_t at
    cdef uint64_t pte
    if w.pages[item.page].flags & PG_ksm and w.mms[item.mm].users:
        at = find_leaf(w, item.mm, item.vpn)
        pte = pte_get(w, at, <int>(item.vpn & 511)) if at else 0
        return pte & PTE_PRESENT and pte_pfn(pte) == item.page
    return False


cdef void ksm_prune(World *w) noexcept nogil:
    cdef uint32_t i
    cdef uint32_t *link
    cdef uint32_t item
    for i in range(1, w.ksm_items_used):
        if not w.ksm_items[i].page or still_there(w, &w.ksm_items[i]):
            continue
        if w.pages[w.ksm_items[i].page].flags & PG_ksm:
            link = &w.pages[w.ksm_items[i].page].mapping
            while link[0] and link[0] != i:
                link = &w.ksm_items[link[0]].next
            if link[0]:
                link[0] = w.ksm_items[i].next
        anon_vma_put(w, w.ksm_items[i].anon_vma)
        w.ksm_items[i].page = 0
        w.ksm_items[i].next = w.ksm_items_free
        w.ksm_items_free = i


cdef inline uint32_t next_node(World *w, uint32_t root, uint32_t after) noexcept nogil:
    """The whole tree in order."""
    cdef uint32_t node = w.nodes[after].right if after else root
    if node:
        while w.nodes[node].left:
            node = w.nodes[node].left
        return node
    while after:
        node = w.nodes[after].parent
        if node and w.nodes[node].left == after:
            return node
        after = node
    return 0


cdef bint rmap_next_ksm(World *w, uint32_t page, uint64_t kind, uint32_t pfn, int32_t *node, int64_t *vpn,
                        int32_t *leaf, int64_t *visits) noexcept nogil:
    cdef bint behind = node[0] == 0
    cdef int32_t last = node[0], n
    cdef int64_t at = vpn[0]
    cdef bint forks
    cdef uint32_t item
    cdef Vma *v
    cdef uint64_t pte
    for forks in range(2):
        item = w.pages[page].mapping
        while item:
            n = 0
            while True:
                n = next_node(w, w.anon_vmas[w.ksm_items[item].anon_vma].tree, n)
                if not n:
                    break
                v = &w.vmas[w.nodes[n].vma]
                if not v.start <= w.ksm_items[item].vpn < v.end or (v.mm != w.ksm_items[item].mm) != forks:
                    continue
                if not behind:
                    behind = n == last and w.ksm_items[item].vpn == at
                    continue
                visits[0] += 1
                leaf[0] = find_leaf(w, v.mm, w.ksm_items[item].vpn)
                if not leaf[0]:
                    continue
                pte = pte_get(w, leaf[0], <int>(w.ksm_items[item].vpn & 511))
                if (pte & (PTE_PRESENT | PTE_SPECIAL | PTE_MIGRATION)) == kind and pte_pfn(pte) == pfn:
                    node[0] = n
                    vpn[0] = w.ksm_items[item].vpn
                    return True
            item = w.ksm_items[item].next
    node[0] = 0
    return False
