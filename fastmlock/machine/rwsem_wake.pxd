from libc.stdint cimport int64_t
from fastmlock.machine.types cimport Mach, RwSem

cdef enum WakeType:
    WAKE_ANY = 0
    WAKE_READERS = 1
    WAKE_READ_OWNED = 2

cdef int mark_wake(Mach *m, RwSem *sem, int kind, int64_t *t_ns) noexcept nogil
cdef int64_t wake_up_q(Mach *m, int first, int cpu, int64_t t_ns) noexcept nogil
