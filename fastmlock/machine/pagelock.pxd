from libc.stdint cimport int64_t
from fastmlock.machine.types cimport Mach

cdef int64_t lock_page(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil
cdef int64_t unlock_page(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil
cdef int64_t pagelock_event(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil
