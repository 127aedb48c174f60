# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Waking those who queue for a rwsem: rwsem_mark_wake() and wake_up_q()."""
from libc.stdint cimport int64_t
from fastmlock.machine.core cimport account
from fastmlock.machine.rwsem cimport (FLAG_HANDOFF, FLAG_WAITERS, NONSPINNABLE, READER_BIAS, READER_NONSPINNABLE,
                                      READER_OWNED, WRITER_LOCKED, rwsem_kick, set_reader_owned, spin_state)
from fastmlock.machine.sched cimport wake_up
from fastmlock.machine.types cimport ACC_SWITCH, Mach, RwSem, TaskRec
from fastmlock.machine.waitlist cimport wait_del


cdef int mark_wake(Mach *m, RwSem *sem, int kind, int64_t *t_ns) noexcept nogil:
    """rwsem_mark_wake(), under the wait_lock: grants readers; returns the first task to be woken (+ 1),
    the others linked by wake_next. `t_ns` advances by what it costs."""
    cdef int task, nxt, first = 0, last = 0, woken = 0
    cdef int64_t count, adjustment = 0
    cdef TaskRec *w = &m.tasks[sem.head - 1]
    if w.wait_write:
        if kind != WAKE_ANY:
            return 0
        w.wake_next = 0
        return sem.head
    if sem.count < 0:
        return 0
    if kind != WAKE_READ_OWNED:
        # grant the first one before the others are counted: a writer may have stolen the lock
        adjustment = READER_BIAS
        count = sem.count
        t_ns[0] += m.costs.atomic_ns
        if count & WRITER_LOCKED:
            if m.traits.rwsem_handoff and t_ns[0] > w.deadline_ns:
                sem.count |= FLAG_HANDOFF
                w.handoff_set = 1
            t_ns[0] += m.costs.atomic_ns
            return 0
        sem.count += adjustment
        set_reader_owned(m, sem, sem.head - 1, t_ns[0])
    task = sem.head - 1
    while task >= 0 and woken < m.traits.rwsem_wake_readers:
        w = &m.tasks[task]
        nxt = w.wait_next - 1
        if w.wait_write:
            if not m.traits.rwsem_wake_skip:
                break
            t_ns[0] += m.costs.rwsem_scan_ns
        else:
            woken += 1
            wait_del(m, &sem.head, &sem.tail, task)
            w.wake_next = 0
            if last:
                m.tasks[last - 1].wake_next = task + 1
            else:
                first = task + 1
            last = task + 1
            t_ns[0] += m.costs.rwsem_grant_ns
            w.granted = 1
            w.ready_ns = t_ns[0]
        task = nxt
    adjustment = woken * READER_BIAS - adjustment
    if not sem.head:
        adjustment -= FLAG_WAITERS
    if (not sem.head or woken) and sem.count & FLAG_HANDOFF:
        adjustment -= FLAG_HANDOFF
        rwsem_kick(m, sem, t_ns[0])
    sem.count += adjustment
    t_ns[0] += m.costs.atomic_ns
    return first


cdef int64_t wake_up_q(Mach *m, int first, int cpu, int64_t t_ns) noexcept nogil:
    """wake_up_q(): wakes the marked tasks one after another; returns when the waker goes on."""
    cdef int nxt
    if first:
        account(m, cpu, t_ns, spin_state(&m.tasks[m.cpus[cpu].curr - 1]))
    while first:
        nxt = m.tasks[first - 1].wake_next
        t_ns = wake_up(m, first - 1, t_ns)
        first = nxt
    account(m, cpu, t_ns, ACC_SWITCH)
    return t_ns
