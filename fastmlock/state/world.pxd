from fastmlock.state.types cimport World

cdef class WorldHandle:
    """Owns the arrays of one simulated machine; `w` is what compiled code works on."""
    cdef World *w
    cdef readonly dict arrays
    cdef readonly object traits
    cdef readonly int nr_cpus
    cdef readonly int nr_nodes
    cdef int repoint(self) except -1
