# The pool of huge pages and who has reserved them. (mm/hugetlb.c)
#
# A page of the pool is 512 page records with PG_hugetlb on its head, on no LRU list, in no batch, and mapped by pmds
# alone. What a mapping has reserved stands in a record of `mappings` of its own (MAPPING_RESV), one cache slot a huge
# page: of a shared mapping the file's, next to the file's record, where a slot is set for each that is reserved; of a
# private one its own, for as long as it lives, where a slot is set for each that has been used up.
from libc.stdint cimport int64_t, uint32_t
from fastmlock.state.types cimport *
from fastmlock.mm.page cimport *
from fastmlock.mm.thp cimport free_thp

cdef enum:
    RESV_UNMAPPED = 1 << 31     # in place of a vma's reservations: pages were taken from it, and no fault brings any back


cdef inline int64_t huge_index(Vma *v, int64_t vpn) noexcept nogil:
    """vma_hugecache_offset(): which huge page of the file it is."""
    return (vpn - v.start + v.pgoff) >> 9


cdef inline bint resv_owner(Vma *v) noexcept nogil:
    """A private mapping that has reservations of its own: not a child's."""
    return not v.flags & VM_SHARED and v.swap_ra != 0 and not v.swap_ra & <uint32_t>RESV_UNMAPPED


cdef inline uint32_t hugetlb_cached(World *w, uint32_t mapping, int64_t index) noexcept nogil:
    """The huge page in the file's page cache, 0 if there is none."""
    return w.cache[w.mappings[mapping].base + index] if index < w.mappings[mapping].capacity else 0


cdef inline void free_compound_page(World *w, uint32_t head) noexcept nogil:
    """The last reference of a compound page went: it goes where it came from."""
    if w.pages[head].flags & PG_hugetlb:
        free_huge_page(w, head)
    else:
        free_thp(w, head)


cdef void free_huge_page(World *w, uint32_t head) noexcept nogil
# a page of v is unmapped, which is its last map: its reservation stands as if it had not been used
cdef void restore_reserve(World *w, Vma *v, int64_t index, uint32_t head) noexcept nogil
# a page for index of v's file, with one reference, reservations seen to; 0 if there is none to be had. `avoid_reserve`:
# a copy that the reservations were not made for
cdef uint32_t alloc_huge_page(World *w, Vma *v, int64_t index, bint avoid_reserve) noexcept nogil
# /proc/sys/vm/nr_hugepages: pages in use above the number are given up when they are freed
cdef void set_max_huge_pages(World *w, int64_t count) noexcept nogil
# a new mapping of n pages from index on: false if the pool has not that many left. `resv`: an empty record for a
# private one
cdef bint hugetlb_reserve_pages(World *w, Vma *v, int64_t index, int64_t n, uint32_t resv) noexcept nogil
# the vma goes, and with it what it has reserved and not used
cdef void hugetlb_vm_op_close(World *w, Vma *v) noexcept nogil
# the file goes, that nobody maps any more
cdef void hugetlbfs_evict_inode(World *w, uint32_t mapping) noexcept nogil
