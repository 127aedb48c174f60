from libc.stdint cimport int64_t
from fastmlock.machine.core cimport cpu_before
from fastmlock.machine.types cimport (ACC_I_MMAP_READ_SPIN, ACC_RWSEM_READ_SPIN, Mach, RwSem, TaskRec)
from fastmlock.state.types cimport LK_I_MMAP

# the count word
cdef enum:
    WRITER_LOCKED = 1
    FLAG_WAITERS = 2
    FLAG_HANDOFF = 4
    READER_BIAS = 0x100
    READER_SHIFT = 8

# owner_flags
cdef enum:
    READER_OWNED = 1
    NONSPINNABLE = 2            # to writers
    READER_NONSPINNABLE = 4     # to readers, where readers spin

# a request for the rwsem that wait_class and wait_obj name: when the task goes on, or WAIT
cdef int64_t rwsem_request(Mach *m, int cpu, int task, int req, int64_t t_ns) noexcept nogil
cdef int64_t rwsem_event(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil


cdef inline void kick_cpu(Mach *m, int cpu, int64_t t_ns) noexcept nogil:
    if m.cpus[cpu].ready_ns > t_ns:
        t_ns = m.cpus[cpu].ready_ns
    cpu_before(m, cpu, t_ns)


cdef inline void rwsem_kick(Mach *m, RwSem *sem, int64_t t_ns) noexcept nogil:
    """What the spinners look at has changed: they look again at `t_ns`, or as soon as they can."""
    if sem.spinner:
        kick_cpu(m, sem.spinner - 1, t_ns)
    if sem.handoff_spinner:
        kick_cpu(m, sem.handoff_spinner - 1, t_ns)


cdef inline int spin_state(TaskRec *r) noexcept nogil:
    return (ACC_I_MMAP_READ_SPIN if r.wait_class == LK_I_MMAP else ACC_RWSEM_READ_SPIN) + 2 * r.wait_write


cdef inline void set_reader_owned(Mach *m, RwSem *sem, int task, int64_t t_ns) noexcept nogil:
    cdef bint was_reader = sem.owner_flags & READER_OWNED
    sem.owner = task + 1
    sem.owner_flags = READER_OWNED | (sem.owner_flags & (NONSPINNABLE | READER_NONSPINNABLE))
    if not was_reader:
        rwsem_kick(m, sem, t_ns)
