# Reverse map: what adding and removing one page-table entry does to the page; anon_vma families. (mm/rmap.c)
from libc.stdint cimport int64_t, uint32_t
from fastmlock.state.types cimport *
from fastmlock.mm.page cimport *
from fastmlock.mm.thp cimport thp_pte_gone
from fastmlock.mm.vmstat cimport *


cdef inline int64_t linear_page_index(Vma *vma, int64_t vpn) noexcept nogil:
    return vpn - vma.start + vma.pgoff


cdef inline void page_add_new_anon_rmap(World *w, int cpu, uint32_t page, Vma *vma, int64_t vpn) noexcept nogil:
    cdef Page *p = &w.pages[page]
    p.flags |= PG_swapbacked | PG_anon
    p.mapping = vma.anon_vma
    p.index = linear_page_index(vma, vpn)
    p.mapcount = 1
    touch(w, page, 1)
    mod_state(w, cpu, ST_ANON_MAPPED, 1)


cdef inline void page_add_swapped_rmap(World *w, int cpu, uint32_t page, Vma *vma, int64_t vpn, bint own) noexcept nogil:
    """A page that was swapped in is mapped. The first mapping makes it anonymous: of the vma's own anon_vma, or of the
    root, where all who may share it are found."""
    cdef Page *p = &w.pages[page]
    p.mapcount += 1
    touch(w, page, 1)
    if p.mapcount == 1:
        mod_state(w, cpu, ST_ANON_MAPPED, 1)
    if not p.flags & PG_anon:
        p.flags |= PG_anon
        p.mapping = vma.anon_vma if own else w.anon_vmas[vma.anon_vma].root
        p.index = linear_page_index(vma, vpn)


cdef inline void page_dup_rmap(World *w, uint32_t page) noexcept nogil:
    w.pages[page].mapcount += 1
    touch(w, page, 1)


cdef inline void page_add_file_rmap(World *w, int cpu, uint32_t page) noexcept nogil:
    w.pages[page].mapcount += 1
    touch(w, page, 1)
    if w.pages[page].mapcount == 1 and page_mapcount(w, page) == 1:
        mod_state(w, cpu, ST_FILE_MAPPED, 1)


cdef inline bint page_remove_rmap(World *w, int cpu, uint32_t page) noexcept nogil:
    """One mapping less; true if it was the last."""
    cdef Page *p = &w.pages[page]
    vm_bug_on(w, p.mapcount <= 0, BUG_MAPCOUNT)
    p.mapcount -= 1
    touch(w, page, 1)
    if p.mapcount:
        return False
    if p.flags & (PG_head | PG_tail):
        return thp_pte_gone(w, cpu, page)
    mod_state(w, cpu, ST_ANON_MAPPED if p.flags & PG_anon else ST_FILE_MAPPED, -1)
    return True


cdef inline uint32_t rmap_tree(World *w, uint32_t page) noexcept nogil:
    """Root node of the interval tree that lists the page's VMAs."""
    cdef Page *p = &w.pages[page]
    if p.flags & PG_anon:
        return w.anon_vmas[p.mapping].tree
    return w.mappings[p.mapping].root


cdef inline int64_t rmap_lock_class(World *w, uint32_t page) noexcept nogil:
    return LK_ANON_VMA if w.pages[page].flags & PG_anon else LK_I_MMAP


cdef inline int64_t rmap_lock(World *w, uint32_t page) noexcept nogil:
    """The object of its lock; of a KSM page the kernel takes one anon_vma after another, here it is the first."""
    cdef Page *p = &w.pages[page]
    if p.flags & PG_ksm:
        return w.anon_vmas[w.ksm_items[p.mapping].anon_vma].root
    return w.anon_vmas[p.mapping].root if p.flags & PG_anon else p.mapping


cdef inline int64_t rmap_address(World *w, uint32_t node, uint32_t page) noexcept nogil:
    cdef Vma *v = &w.vmas[w.nodes[node].vma]
    return v.start + (w.pages[page].index - v.pgoff)


# anon_vma families; each false with w.error set when a pool is empty
cdef bint anon_vma_prepare(World *w, uint32_t vma) noexcept nogil
cdef bint anon_vma_clone(World *w, uint32_t dst, uint32_t src) noexcept nogil
cdef bint anon_vma_fork(World *w, uint32_t child, uint32_t parent) noexcept nogil
cdef void unlink_anon_vmas(World *w, uint32_t vma) noexcept nogil
# a reference to an anon_vma is dropped; it goes with the last
cdef void anon_vma_put(World *w, uint32_t av) noexcept nogil
# every anon_vma tree that lists the vma, before and behind a change of its range
cdef void anon_vma_trees_remove(World *w, uint32_t vma) noexcept nogil
cdef void anon_vma_trees_insert(World *w, uint32_t vma) noexcept nogil
