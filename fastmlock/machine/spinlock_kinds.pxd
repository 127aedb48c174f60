from libc.stdint cimport int64_t
from fastmlock.machine.types cimport Line, Mach, SpinLock

cdef int64_t unordered_lock(Mach *m, SpinLock *lock, int cpu, int64_t t_ns) noexcept nogil
cdef int64_t unordered_unlock(Mach *m, SpinLock *lock, Line *line, int cpu, int64_t t_ns) noexcept nogil
cdef int cna_successor(Mach *m, SpinLock *lock, int holder, int head, int64_t t_ns) noexcept nogil
