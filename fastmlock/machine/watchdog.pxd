from libc.stdint cimport int32_t, int64_t
from fastmlock.machine.types cimport Mach

cdef void callstack(Mach *m, int task, int32_t *row) noexcept nogil
cdef void watchdog(Mach *m, int64_t t_ns) noexcept nogil
