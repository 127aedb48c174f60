# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""VMAs: allocation, the address-ordered list, splitting and merging.

Callers hold mmap_lock for write, and for file VMAs i_mmap_rwsem for write around everything that changes a range.
"""
from fastmlock.mm.hugetlb cimport hugetlb_vm_op_close
from fastmlock.mm.interval_tree cimport (node_alloc, node_free, tree_insert, tree_insert_after, tree_relock,
                                         tree_remove)
from fastmlock.mm.page cimport work
from fastmlock.mm.rmap cimport (anon_vma_clone, anon_vma_trees_insert, anon_vma_trees_remove, unlink_anon_vmas)
from fastmlock.state.pool cimport pool_next


cdef uint32_t mm_alloc(World *w) noexcept nogil:
    cdef uint32_t mm = w.mms_free
    cdef Mm *m
    if mm:
        w.mms_free = w.mms[mm].vma
    else:
        mm = pool_next(w, &w.mms_used, w.mms_cap, ERR_NO_MMS)
        if not mm:
            return 0
    m = &w.mms[mm]
    m.locked_vm = m.total_vm = m.rss = 0
    m.def_flags = 0
    m.vma = m.pgd = m.vmacache = 0
    m.map_count = 0
    m.users = 1
    m.exiting = 0
    m.start_brk = m.brk = <int64_t>1 << HEAP_SHIFT
    return mm


cdef void mm_free(World *w, uint32_t mm) noexcept nogil:
    w.mms[mm].users = 0
    w.mms[mm].vma = w.mms_free
    w.mms_free = mm


cdef uint32_t vma_alloc(World *w, uint32_t mm, int64_t start, int64_t end, uint64_t flags, int64_t pgoff,
                        uint32_t mapping) noexcept nogil:
    cdef uint32_t vma = w.vmas_free
    cdef Vma *v
    if vma:
        w.vmas_free = w.vmas[vma].next
    else:
        vma = pool_next(w, &w.vmas_used, w.vmas_cap, ERR_NO_VMAS)
        if not vma:
            return 0
    v = &w.vmas[vma]
    v.start = start
    v.end = end
    v.pgoff = pgoff
    v.flags = flags
    v.mm = mm
    v.mapping = mapping
    v.anon_vma = v.i_mmap_node = v.avc = v.next = v.prev = v.swap_ra = v.file = 0
    work(w, WK_VMA, 1)
    return vma


cdef uint32_t vm_area_dup(World *w, uint32_t vma, uint32_t mm, int64_t start, int64_t end, uint64_t flags,
                          int64_t pgoff) noexcept nogil:
    cdef Vma *v = &w.vmas[vma]
    cdef uint32_t new = vma_alloc(w, mm, start, end, flags, pgoff, v.mapping)
    if not new:
        return 0
    w.vmas[new].anon_vma = v.anon_vma
    w.vmas[new].swap_ra = v.swap_ra
    w.vmas[new].file = get_file(w, v.file)
    return new


cdef void vma_free(World *w, uint32_t vma) noexcept nogil:
    if w.vmas[vma].flags & VM_HUGETLB:
        hugetlb_vm_op_close(w, &w.vmas[vma])
    fput(w, w.vmas[vma].file)
    w.vmas[vma].mm = 0
    w.vmas[vma].flags = 0
    w.vmas[vma].next = w.vmas_free
    w.vmas_free = vma
    work(w, WK_VMA, 1)


cdef bint open_file(World *w, uint32_t vma) noexcept nogil:
    """There are as many records as vmas."""
    cdef uint32_t file = w.files_free
    if file:
        w.files_free = w.files[file].next
    else:
        file = pool_next(w, &w.files_used, w.vmas_cap, ERR_NO_VMAS)
        if not file:
            return False
    w.files[file].f_ra.start = w.files[file].f_ra.size = w.files[file].f_ra.async_size = 0
    w.files[file].f_count = 1
    w.files[file].next = 0
    w.vmas[vma].file = file
    return True


cdef uint32_t get_file(World *w, uint32_t file) noexcept nogil:
    if file:
        w.files[file].f_count += 1
    return file


cdef void fput(World *w, uint32_t file) noexcept nogil:
    if not file:
        return
    w.files[file].f_count -= 1
    if not w.files[file].f_count:
        w.files[file].next = w.files_free
        w.files_free = file


cdef uint32_t find_vma(World *w, uint32_t mm, int64_t vpn) noexcept nogil:
    cdef uint32_t vma = w.mms[mm].vmacache
    if vma and w.vmas[vma].mm == mm and w.vmas[vma].start <= vpn < w.vmas[vma].end:
        return vma
    vma = w.mms[mm].vma
    while vma and w.vmas[vma].end <= vpn:
        vma = w.vmas[vma].next
    if vma and w.vmas[vma].start <= vpn:
        w.mms[mm].vmacache = vma
    return vma


cdef uint32_t find_vma_before(World *w, uint32_t mm, int64_t vpn) noexcept nogil:
    cdef uint32_t vma = w.mms[mm].vma, before = 0
    while vma and w.vmas[vma].end <= vpn:
        before = vma
        vma = w.vmas[vma].next
    return before


cdef void vma_list_insert(World *w, uint32_t vma) noexcept nogil:
    cdef Vma *v = &w.vmas[vma]
    cdef Mm *m = &w.mms[v.mm]
    v.prev = find_vma_before(w, v.mm, v.start)
    v.next = w.vmas[v.prev].next if v.prev else m.vma
    if v.prev:
        w.vmas[v.prev].next = vma
    else:
        m.vma = vma
    if v.next:
        w.vmas[v.next].prev = vma
    m.map_count += 1


cdef void vma_list_remove(World *w, uint32_t vma) noexcept nogil:
    cdef Vma *v = &w.vmas[vma]
    cdef Mm *m = &w.mms[v.mm]
    if v.prev:
        w.vmas[v.prev].next = v.next
    else:
        m.vma = v.next
    if v.next:
        w.vmas[v.next].prev = v.prev
    if m.vmacache == vma:
        m.vmacache = 0
    m.map_count -= 1


cdef bint vma_link_file(World *w, uint32_t vma, uint32_t after) noexcept nogil:
    cdef Vma *v = &w.vmas[vma]
    cdef Mapping *mapping = &w.mappings[v.mapping]
    v.i_mmap_node = node_alloc(w, vma, v.pgoff, v.pgoff + vma_pages(v) - 1)
    if not v.i_mmap_node:
        return False
    if after:
        tree_insert_after(w, &mapping.root, w.vmas[after].i_mmap_node, v.i_mmap_node)
    else:
        tree_insert(w, &mapping.root, v.i_mmap_node)
    mapping.nr_vmas += 1
    return True


cdef void vma_unlink_file(World *w, uint32_t vma) noexcept nogil:
    cdef Vma *v = &w.vmas[vma]
    if v.i_mmap_node:
        tree_remove(w, &w.mappings[v.mapping].root, v.i_mmap_node)
        node_free(w, v.i_mmap_node)
        v.i_mmap_node = 0
        w.mappings[v.mapping].nr_vmas -= 1


cdef void set_vm_flags(World *w, uint32_t vma, uint64_t flags) noexcept nogil:
    cdef Vma *v = &w.vmas[vma]
    cdef uint64_t changed = v.flags ^ flags
    cdef uint32_t avc
    v.flags = flags
    if changed & VM_LOCKED:
        if v.i_mmap_node:
            tree_relock(w, v.i_mmap_node)
        avc = v.avc
        while avc:
            tree_relock(w, w.avcs[avc].node)
            avc = w.avcs[avc].next


cdef void vma_set_range(World *w, uint32_t vma, int64_t start, int64_t end, int64_t pgoff) noexcept nogil:
    cdef Vma *v = &w.vmas[vma]
    cdef TreeNode *n
    if v.i_mmap_node:
        tree_remove(w, &w.mappings[v.mapping].root, v.i_mmap_node)
    anon_vma_trees_remove(w, vma)
    v.start = start
    v.end = end
    v.pgoff = pgoff
    if v.i_mmap_node:
        n = &w.nodes[v.i_mmap_node]
        n.first = pgoff
        n.last = pgoff + (end - start) - 1
        tree_insert(w, &w.mappings[v.mapping].root, v.i_mmap_node)
    anon_vma_trees_insert(w, vma)
    work(w, WK_VMA, 1)


cdef uint32_t vma_split(World *w, uint32_t vma, int64_t vpn, bint new_below) noexcept nogil:
    cdef Vma *v = &w.vmas[vma]
    cdef int64_t start = v.start, end = v.end, pgoff = v.pgoff
    cdef uint32_t new
    if new_below:
        new = vm_area_dup(w, vma, v.mm, start, vpn, v.flags, pgoff)
    else:
        new = vm_area_dup(w, vma, v.mm, vpn, end, v.flags, pgoff + (vpn - start))
    if not new:
        return 0
    if v.mapping and not vma_link_file(w, new, 0):
        return 0
    if not anon_vma_clone(w, new, vma):
        return 0
    if new_below:
        vma_set_range(w, vma, vpn, end, pgoff + (vpn - start))
    else:
        vma_set_range(w, vma, start, vpn, pgoff)
    vma_list_insert(w, new)
    return new


# ---- merging
cdef inline bint is_singular(World *w, uint32_t vma) noexcept nogil:
    """Linked to one anon_vma only: no child of a fork."""
    return w.vmas[vma].avc != 0 and w.avcs[w.vmas[vma].avc].next == 0


cdef inline bint is_mergeable_anon_vma(World *w, uint32_t anon_vma, uint32_t source, uint32_t vma) noexcept nogil:
    """May `vma` take over memory (of the vma `source`, if it is one) that has this anon_vma? Of two with only one
    anon_vma between them, the one that has it must have no other. Through 6.15 the one that takes over was asked in
    either case, and the empty list of an unfaulted vma failed the test."""
    if anon_vma == w.vmas[vma].anon_vma:
        return True
    if not anon_vma:
        return is_singular(w, vma)
    if not w.vmas[vma].anon_vma:
        return w.tr.merge_unfaulted and (not source or is_singular(w, source))
    return False


cdef inline bint attributes_equal(World *w, uint32_t vma, uint64_t flags, uint32_t file) noexcept nogil:
    return w.vmas[vma].flags == flags and w.vmas[vma].file == file


cdef int vma_can_merge(World *w, uint32_t mm, uint32_t prev, int64_t start, int64_t end, uint64_t flags,
                       uint32_t anon_vma, uint32_t file, int64_t pgoff, uint32_t source) noexcept nogil:
    cdef uint32_t next = w.vmas[prev].next if prev else w.mms[mm].vma
    cdef bint with_prev, with_next
    cdef Vma *v
    if flags & VM_SPECIAL:
        return MERGE_NONE
    if next and w.vmas[next].end == end:
        next = w.vmas[next].next
    with_prev = False
    if prev and w.vmas[prev].end == start:
        v = &w.vmas[prev]
        with_prev = (attributes_equal(w, prev, flags, file) and v.pgoff + vma_pages(v) == pgoff
                     and is_mergeable_anon_vma(w, anon_vma, source, prev))
    with_next = False
    if next and w.vmas[next].start == end:
        v = &w.vmas[next]
        with_next = (attributes_equal(w, next, flags, file) and pgoff + (end - start) == v.pgoff
                     and is_mergeable_anon_vma(w, anon_vma, source, next))
    if with_prev:
        if with_next and (not w.vmas[prev].anon_vma or not w.vmas[next].anon_vma
                          or w.vmas[prev].anon_vma == w.vmas[next].anon_vma):
            return MERGE_BOTH
        return MERGE_PREV
    if with_next:
        return MERGE_NEXT_SHRINK if prev and start < w.vmas[prev].end else MERGE_NEXT
    return MERGE_NONE


cdef void vma_absorb(World *w, uint32_t into, uint32_t gone) noexcept nogil:
    """`gone` leaves list and trees; `into` inherits its anon_vma if it has none."""
    import_anon_vma(w, into, gone)
    if w.vmas[gone].i_mmap_node:
        vma_unlink_file(w, gone)
    unlink_anon_vmas(w, gone)
    vma_list_remove(w, gone)
    vma_free(w, gone)


cdef inline void import_anon_vma(World *w, uint32_t into, uint32_t source) noexcept nogil:
    if w.vmas[source].anon_vma and not w.vmas[into].anon_vma:
        w.vmas[into].anon_vma = w.vmas[source].anon_vma
        anon_vma_clone(w, into, source)


cdef uint32_t vma_merge(World *w, uint32_t mm, uint32_t prev, int64_t start, int64_t end, uint64_t flags,
                        uint32_t anon_vma, uint32_t file, int64_t pgoff, uint32_t source) noexcept nogil:
    cdef int which = vma_can_merge(w, mm, prev, start, end, flags, anon_vma, file, pgoff, source)
    cdef uint32_t area = w.vmas[prev].next if prev else w.mms[mm].vma
    cdef uint32_t next = area
    cdef Vma *v
    if area and w.vmas[area].end == end:
        next = w.vmas[area].next
    elif area and w.vmas[area].start >= end:
        area = 0                        # nothing lies in the range yet
    if which == MERGE_NONE:
        return 0
    if which == MERGE_BOTH or which == MERGE_PREV:
        v = &w.vmas[prev]
        if area and area != next:
            vma_absorb(w, prev, area)
            area = 0
        if which == MERGE_BOTH:
            end = w.vmas[next].end
            vma_absorb(w, prev, next)
        elif area and w.vmas[area].start < end:         # the range is the front of a longer vma
            import_anon_vma(w, prev, area)
            vma_set_range(w, area, end, w.vmas[area].end, w.vmas[area].pgoff + (end - w.vmas[area].start))
        vma_set_range(w, prev, v.start, end, v.pgoff)
        return prev
    if which == MERGE_NEXT_SHRINK:
        import_anon_vma(w, next, prev)
        vma_set_range(w, prev, w.vmas[prev].start, start, w.vmas[prev].pgoff)
        vma_set_range(w, next, start, w.vmas[next].end, pgoff)
        return next
    if area and area != next:           # the range's own vma grows over its follower
        end = w.vmas[next].end
        vma_absorb(w, area, next)
        vma_set_range(w, area, start, end, pgoff)
        return area
    vma_set_range(w, next, start, w.vmas[next].end, pgoff)
    return next
