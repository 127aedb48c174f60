from libc.stdint cimport int64_t
from fastmlock.machine.types cimport Mach

cdef void watchdog(Mach *m, int64_t t_ns) noexcept nogil
