from libc.stdint cimport int64_t
from fastmlock.machine.types cimport Mach

cdef int64_t whatif_request(Mach *m, int cpu, int task, int req, int64_t t_ns) noexcept nogil
cdef int64_t whatif_event(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil
