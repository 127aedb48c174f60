from libc.stdint cimport INT64_MAX, int64_t
from fastmlock.machine.types cimport Cpu, Mach, TaskRec

cdef void sched_start(Mach *m, int task, int64_t at_ns) noexcept nogil
cdef void sched_pick(Mach *m, int cpu, int64_t t_ns) noexcept nogil
cdef int64_t sched_tick(Mach *m, int cpu, int64_t t_ns) noexcept nogil
cdef void sched_out(Mach *m, int cpu, int64_t t_ns, int idle_state) noexcept nogil
cdef void sched_sleep(Mach *m, int cpu, int64_t t_ns, int idle_state) noexcept nogil
cdef void sched_yield(Mach *m, int cpu, int64_t t_ns) noexcept nogil
cdef int64_t wake_up(Mach *m, int task, int64_t t_ns) noexcept nogil
cdef int64_t first_ready(Mach *m, int cpu) noexcept nogil


cdef inline int64_t resched_at(Mach *m, int cpu) noexcept nogil:
    """From when need_resched() holds on `cpu` if nothing changes; INT64_MAX if nobody else is queued."""
    cdef Cpu *p = &m.cpus[cpu]
    cdef int64_t ready_ns
    if not p.nr_queued:
        return INT64_MAX
    ready_ns = first_ready(m, cpu)
    return ready_ns if ready_ns > p.slice_end_ns else p.slice_end_ns


cdef inline bint need_resched(Mach *m, int cpu, int64_t t_ns) noexcept nogil:
    """need_resched(): the slice is over and another task is ready to run here."""
    return m.cpus[cpu].nr_queued and t_ns >= resched_at(m, cpu)
