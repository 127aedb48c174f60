# KSM: pages of equal content that several places share, and who has them. (mm/ksm.c)
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from fastmlock.state.types cimport *


# A place shares the KSM page from now on: it comes first in the page's list. False and w.error when a pool is empty.
cdef bint stable_tree_append(World *w, uint32_t page, uint32_t anon_vma, uint32_t mm, int64_t vpn) noexcept nogil
# forgets every place that no longer maps its KSM page
cdef void ksm_prune(World *w) noexcept nogil
# Next place that maps a KSM page, as rmap_next has it: first the places that were merged, each in its own mm, then the
# forks that have them too. (node, vpn) is the place seen last; node 0 begins. visits[0] grows by the VMAs looked at.
cdef bint rmap_next_ksm(World *w, uint32_t page, uint64_t kind, uint32_t pfn, int32_t *node, int64_t *vpn,
                        int32_t *leaf, int64_t *visits) noexcept nogil
