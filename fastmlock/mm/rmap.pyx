# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""anon_vma: which VMAs may map an anonymous page. A family (a vma, its forks) shares the root's rwsem."""
from fastmlock.mm.interval_tree cimport node_alloc, node_free, tree_insert, tree_remove
from fastmlock.state.pool cimport pool_next


cdef uint32_t anon_vma_alloc(World *w) noexcept nogil:
    cdef uint32_t av = w.anon_vmas_free
    if av:
        w.anon_vmas_free = w.anon_vmas[av].parent
    else:
        av = pool_next(w, &w.anon_vmas_used, w.anon_vmas_cap, ERR_NO_ANON_VMAS)
        if not av:
            return 0
    w.anon_vmas[av].root = av
    w.anon_vmas[av].parent = 0
    w.anon_vmas[av].tree = 0
    w.anon_vmas[av].refs = 0
    return av


cdef void anon_vma_put(World *w, uint32_t av) noexcept nogil:
    """One link or child less; freed with the last, which may free its root in turn."""
    cdef uint32_t root
    w.anon_vmas[av].refs -= 1
    if w.anon_vmas[av].refs == 0:
        root = w.anon_vmas[av].root
        w.anon_vmas[av].parent = w.anon_vmas_free
        w.anon_vmas_free = av
        if root != av:
            anon_vma_put(w, root)


cdef bint anon_vma_chain_link(World *w, uint32_t vma, uint32_t av) noexcept nogil:
    cdef Vma *v = &w.vmas[vma]
    cdef uint32_t avc = w.avcs_free
    if avc:
        w.avcs_free = w.avcs[avc].next
    else:
        avc = pool_next(w, &w.avcs_used, w.avcs_cap, ERR_NO_AVCS)
        if not avc:
            return False
    w.avcs[avc].vma = vma
    w.avcs[avc].anon_vma = av
    w.avcs[avc].next = v.avc
    w.avcs[avc].node = node_alloc(w, vma, v.pgoff, v.pgoff + v.end - v.start - 1)
    if not w.avcs[avc].node:
        return False
    v.avc = avc
    w.anon_vmas[av].refs += 1
    tree_insert(w, &w.anon_vmas[av].tree, w.avcs[avc].node)
    return True


cdef inline bint anon_vma_compatible(Vma *a, Vma *b) noexcept nogil:
    """Neighbours that differ at most in access rights may share an anon_vma."""
    return (a.end == b.start and a.file == b.file
            and not (a.flags ^ b.flags) & ~<uint64_t>(VM_READ | VM_WRITE | VM_EXEC)
            and b.pgoff == a.pgoff + (a.end - a.start))


cdef inline uint32_t reusable_anon_vma(World *w, Vma *old, Vma *a, Vma *b) noexcept nogil:
    if anon_vma_compatible(a, b) and old.anon_vma and old.avc and not w.avcs[old.avc].next:
        return old.anon_vma
    return 0


cdef bint anon_vma_prepare(World *w, uint32_t vma) noexcept nogil:
    """Before a vma's first anonymous page: its own anon_vma, or a neighbour's that fits."""
    cdef Vma *v = &w.vmas[vma]
    cdef uint32_t av = 0
    if v.anon_vma:
        return True
    if v.next:
        av = reusable_anon_vma(w, &w.vmas[v.next], v, &w.vmas[v.next])
    if not av and v.prev:
        av = reusable_anon_vma(w, &w.vmas[v.prev], &w.vmas[v.prev], v)
    if not av:
        av = anon_vma_alloc(w)
        if not av:
            return False
    v.anon_vma = av
    return anon_vma_chain_link(w, vma, av)


cdef bint anon_vma_clone(World *w, uint32_t dst, uint32_t src) noexcept nogil:
    cdef uint32_t avc = w.vmas[src].avc
    while avc:
        if not anon_vma_chain_link(w, dst, w.avcs[avc].anon_vma):
            return False
        avc = w.avcs[avc].next
    return True


cdef bint anon_vma_fork(World *w, uint32_t child, uint32_t parent) noexcept nogil:
    """The child's vma is listed wherever the parent's pages may be found, and has an anon_vma of its own."""
    cdef uint32_t av, root
    w.vmas[child].anon_vma = 0
    if not w.vmas[parent].anon_vma:
        return True
    if not anon_vma_clone(w, child, parent):
        return False
    av = anon_vma_alloc(w)
    if not av:
        return False
    root = w.anon_vmas[w.vmas[parent].anon_vma].root
    w.anon_vmas[av].root = root
    w.anon_vmas[av].parent = w.vmas[parent].anon_vma
    w.anon_vmas[root].refs += 1
    w.vmas[child].anon_vma = av
    return anon_vma_chain_link(w, child, av)


cdef void unlink_anon_vmas(World *w, uint32_t vma) noexcept nogil:
    cdef uint32_t avc = w.vmas[vma].avc, next
    while avc:
        next = w.avcs[avc].next
        tree_remove(w, &w.anon_vmas[w.avcs[avc].anon_vma].tree, w.avcs[avc].node)
        node_free(w, w.avcs[avc].node)
        anon_vma_put(w, w.avcs[avc].anon_vma)
        w.avcs[avc].next = w.avcs_free
        w.avcs_free = avc
        avc = next
    w.vmas[vma].avc = 0
    w.vmas[vma].anon_vma = 0


cdef void anon_vma_trees_remove(World *w, uint32_t vma) noexcept nogil:
    cdef uint32_t avc = w.vmas[vma].avc
    while avc:
        tree_remove(w, &w.anon_vmas[w.avcs[avc].anon_vma].tree, w.avcs[avc].node)
        avc = w.avcs[avc].next


cdef void anon_vma_trees_insert(World *w, uint32_t vma) noexcept nogil:
    cdef Vma *v = &w.vmas[vma]
    cdef uint32_t avc = v.avc
    cdef TreeNode *n
    while avc:
        n = &w.nodes[w.avcs[avc].node]
        n.first = v.pgoff
        n.last = v.pgoff + v.end - v.start - 1
        tree_insert(w, &w.anon_vmas[w.avcs[avc].anon_vma].tree, w.avcs[avc].node)
        avc = w.avcs[avc].next
