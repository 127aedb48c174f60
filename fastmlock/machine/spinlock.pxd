from libc.stdint cimport int64_t
from fastmlock.machine.types cimport Line, Mach, SpinLock

cdef int64_t queued_spin_lock(Mach *m, SpinLock *lock, Line *line, int cpu, int64_t t_ns) noexcept nogil
cdef int64_t queued_spin_unlock(Mach *m, SpinLock *lock, Line *line, int cpu, int64_t t_ns) noexcept nogil
