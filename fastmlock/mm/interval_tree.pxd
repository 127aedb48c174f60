# Interval trees of VMAs: address_space->i_mmap and the anon_vma trees. (mm/interval_tree.c)
from libc.stdint cimport int64_t, uint32_t
from fastmlock.state.types cimport *

# a node for `vma` over file pages [first, last]; 0 and w.error when there is none left
cdef uint32_t node_alloc(World *w, uint32_t vma, int64_t first, int64_t last) noexcept nogil
cdef void node_free(World *w, uint32_t node) noexcept nogil
# behind every node of an equal start
cdef void tree_insert(World *w, uint32_t *root, uint32_t node) noexcept nogil
# immediately behind `prev` (fork: the child's vma follows its parent's)
cdef void tree_insert_after(World *w, uint32_t *root, uint32_t prev, uint32_t node) noexcept nogil
cdef void tree_remove(World *w, uint32_t *root, uint32_t node) noexcept nogil
# the vma's VM_LOCKED changed
cdef void tree_relock(World *w, uint32_t node) noexcept nogil
# Next node in tree order behind `after` (0 = from the start) that contains `index`; with `locked`, the next whose
# vma is VM_LOCKED. visits[0] grows by the nodes that contain `index` and were passed, the answer included.
cdef uint32_t tree_next(World *w, uint32_t root, uint32_t after, int64_t index, bint locked,
                        int64_t *visits) noexcept nogil
# the next that overlaps [first, last]: the plain in-order walk
cdef uint32_t tree_next_overlap(World *w, uint32_t root, uint32_t after, int64_t first, int64_t last) noexcept nogil
