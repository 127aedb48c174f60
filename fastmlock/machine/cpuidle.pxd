from libc.stdint cimport INT64_MAX, int64_t
from fastmlock.machine.types cimport Mach

cdef enum:
    FAR_NS = 50000000       # idle times are not told apart beyond this (MAX_INTERESTING)

cdef inline int64_t next_tick(Mach *m, int64_t t_ns) noexcept nogil:
    """The first tick after `t_ns`; those of all cpus come together."""
    return (t_ns / m.costs.tick_ns + 1) * m.costs.tick_ns if m.costs.tick_ns else INT64_MAX


cdef void idle_enter(Mach *m, int cpu, int64_t t_ns) noexcept nogil
cdef int64_t idle_exit(Mach *m, int cpu, int64_t t_ns) noexcept nogil
