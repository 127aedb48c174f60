from fastmlock.machine.types cimport Mach
from fastmlock.state.world cimport WorldHandle

cdef class Machine:
    """Virtual time for one world; `m` is what compiled code works on."""
    cdef Mach m
    cdef readonly WorldHandle world
    cdef readonly object topology
    cdef readonly object costs
    cdef readonly dict arrays
    cdef readonly dict traits
    cdef readonly object seed
    cdef int repoint(self) except -1
    cdef int fit(self) except -1
