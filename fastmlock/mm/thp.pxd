# Transparent huge pages: 512 page records that stand for one page, and what mapping it by a pmd does to them.
# (mm/huge_memory.c, mm/rmap.c)
#
# References, LRU membership and PG_mlocked are the head's; every page of it has its own mapcount, of ptes, and its own
# PG_anon, mapping, index and PG_anon_exclusive, so that the reverse map works on any of them.
from libc.stdint cimport int64_t, uint32_t, uint64_t
from fastmlock.state.types cimport *
from fastmlock.mm.page cimport *
from fastmlock.mm.vmstat cimport *


cdef inline int64_t huge_start(int64_t vpn) noexcept nogil:
    return vpn & ~<int64_t>(THP_PAGES - 1)


cdef inline bint covers_pmd(Vma *v, int64_t vpn) noexcept nogil:
    """The whole pmd around vpn lies in the vma."""
    return huge_start(vpn) >= v.start and huge_start(vpn) + THP_PAGES <= v.end


cdef inline bint thp_allowed(World *w, Vma *v) noexcept nogil:
    """May this vma have huge pages at all, by its advice and the system's setting?"""
    if v.flags & (VM_NOHUGEPAGE | VM_SPECIAL | VM_HUGETLB):
        return False
    return w.thp_enabled == THP_ALWAYS or w.thp_enabled == THP_MADVISE and v.flags & VM_HUGEPAGE


# a free THP with one reference, for a task on `cpu`; 0 and w.error when there is none
cdef uint32_t alloc_thp(World *w, int cpu, int memcg) noexcept nogil
# back to the free THPs: nobody's, off the LRU
cdef void free_thp(World *w, uint32_t head) noexcept nogil
# pmd maps of a THP: the first of a new anonymous one, another of any, one less (true if it was the last)
cdef void thp_add_new_anon_rmap(World *w, int cpu, uint32_t head, uint32_t anon_vma, int64_t index) noexcept nogil
cdef void thp_add_rmap(World *w, int cpu, uint32_t head) noexcept nogil
cdef bint thp_remove_rmap(World *w, int cpu, uint32_t head) noexcept nogil
# the pmd map becomes 512 pte maps
cdef void thp_map_by_ptes(World *w, int cpu, uint32_t head) noexcept nogil
# a page of a THP lost its last pte; true if no pmd maps it either
cdef bint thp_pte_gone(World *w, int cpu, uint32_t page) noexcept nogil
# maps of all its pages together, a pmd counting once for the THP
cdef int thp_total_mapcount(World *w, uint32_t head) noexcept nogil
# the most that any page of it is mapped
cdef int thp_max_mapcount(World *w, uint32_t head) noexcept nogil
# 512 base pages take its place: flags as the head's, PG_locked on all, on the head's list if it is on one. The caller
# has it frozen (unmapped, with only its own reference) and holds the lruvec lock.
cdef void thp_break_up(World *w, int cpu, uint32_t head) noexcept nogil
