# VMAs of an mm: records, the list by address, flags, ranges. (mm/mmap.c)
from libc.stdint cimport int64_t, uint32_t, uint64_t
from fastmlock.state.types cimport *


cdef inline int64_t vma_pages(Vma *vma) noexcept nogil:
    return vma.end - vma.start



cdef inline bint vma_is_secretmem(World *w, Vma *vma) noexcept nogil:
    return vma.mapping != 0 and w.mappings[vma.mapping].kind == MAPPING_SECRETMEM


# the heap of a new address space begins at byte 1 << HEAP_SHIFT (fastmlock.scenario.system.HEAP)
cdef enum:
    HEAP_SHIFT = 43


cdef inline int64_t vm_start_gap(Vma *vma) noexcept nogil:
    """Where the place ends that others may take below a vma."""
    return vma.start - STACK_GUARD_GAP if vma.flags & VM_GROWSDOWN else vma.start


cdef uint32_t mm_alloc(World *w) noexcept nogil
cdef void mm_free(World *w, uint32_t mm) noexcept nogil
cdef uint32_t vma_alloc(World *w, uint32_t mm, int64_t start, int64_t end, uint64_t flags, int64_t pgoff,
                        uint32_t mapping) noexcept nogil
# another vma of the same memory, in no tree or list yet
cdef uint32_t vm_area_dup(World *w, uint32_t vma, uint32_t mm, int64_t start, int64_t end, uint64_t flags,
                          int64_t pgoff) noexcept nogil
cdef void vma_free(World *w, uint32_t vma) noexcept nogil
# gives the vma a file newly opened; takes one reference more, or gives one back, of 0 none
cdef bint open_file(World *w, uint32_t vma) noexcept nogil
cdef uint32_t get_file(World *w, uint32_t file) noexcept nogil
cdef void fput(World *w, uint32_t file) noexcept nogil
# first vma whose end lies above vpn, 0 if none
cdef uint32_t find_vma(World *w, uint32_t mm, int64_t vpn) noexcept nogil
# the last vma that ends at or below vpn, 0 if none
cdef uint32_t find_vma_before(World *w, uint32_t mm, int64_t vpn) noexcept nogil
cdef void vma_list_insert(World *w, uint32_t vma) noexcept nogil
cdef void vma_list_remove(World *w, uint32_t vma) noexcept nogil
# i_mmap: the caller holds i_mmap_rwsem for write
cdef bint vma_link_file(World *w, uint32_t vma, uint32_t after) noexcept nogil
cdef void vma_unlink_file(World *w, uint32_t vma) noexcept nogil
# one write of vm_flags; the trees' sums of locked VMAs follow
cdef void set_vm_flags(World *w, uint32_t vma, uint64_t flags) noexcept nogil
# a new range: out of all trees and in again, which moves it behind its equals
cdef void vma_set_range(World *w, uint32_t vma, int64_t start, int64_t end, int64_t pgoff) noexcept nogil
# splits at vpn; the new vma is the upper part (or the lower, if new_below); 0 and w.error when none is left
cdef uint32_t vma_split(World *w, uint32_t vma, int64_t vpn, bint new_below) noexcept nogil
# The merge that [start, end) with these attributes allows behind `prev`: 0 = none, else a MergeCase. vma_merge
# carries it out and answers the vma that now covers the range. `source` = the vma whose memory it is, 0 if it is new.
cdef enum MergeCase:
    MERGE_NONE = 0
    MERGE_BOTH = 1              # prev grows over the range and its follower
    MERGE_PREV = 2              # prev grows over the range
    MERGE_NEXT_SHRINK = 3       # the follower grows down, prev shrinks
    MERGE_NEXT = 4              # the follower (or the range's own vma) grows

cdef int vma_can_merge(World *w, uint32_t mm, uint32_t prev, int64_t start, int64_t end, uint64_t flags,
                       uint32_t anon_vma, uint32_t file, int64_t pgoff, uint32_t source) noexcept nogil
cdef uint32_t vma_merge(World *w, uint32_t mm, uint32_t prev, int64_t start, int64_t end, uint64_t flags,
                        uint32_t anon_vma, uint32_t file, int64_t pgoff, uint32_t source) noexcept nogil
