from libc.stdint cimport int64_t
from fastmlock.machine.types cimport Mach

cdef int64_t engine_run(Mach *m, int64_t until_ns, int64_t max_events) noexcept nogil
