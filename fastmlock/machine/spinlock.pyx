# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The queued spinlock (specification 6.2): locked byte, pending bit, MCS queue; strictly FIFO. And others to
compare it with (spinlock_kinds), by the trait spin_kind.

The first comer takes the word with one compare-exchange. The second sets the pending bit and spins on the
word. Everybody after queues on a node of his own cpu and spins there; only the head of that queue spins on
the word. A cpu waits for one spinlock at a time here (nothing nests in interrupts), so it has one node.

What a hand-over costs follows from the lines: the releasing store must first take the word away from the
spinner that reads it, and the spinner then fetches it back. A new head of the queue hears of it through its
node and then fetches the word; if the lock is released before that, the hand-over waits for it.
"""
from libc.stdint cimport int64_t
from fastmlock.machine.core cimport cpu_at, cpu_park, latency, line_rmw
from fastmlock.machine.spinlock_kinds cimport cna_successor, unordered_lock, unordered_unlock
from fastmlock.machine.types cimport CPU_BITS, SPIN_CNA, SPIN_QUEUED, WAIT, Line, Mach, SpinLock


cdef int64_t queued_spin_lock(Mach *m, SpinLock *lock, Line *line, int cpu, int64_t t_ns) noexcept nogil:
    """queued_spin_lock(): returns when `cpu` holds it, or WAIT.

    After WAIT the cpu is parked; its next event comes when it holds the lock. `line` is the line the word
    lies on: the lock's own, or that of the structure around it.
    """
    cdef int prev
    t_ns = line_rmw(m, line, cpu, t_ns, 1, -1)
    if not (lock.locked or lock.pending or lock.tail):
        lock.locked = <short> (cpu + 1)
        return t_ns
    if m.traits.spin_kind != SPIN_QUEUED and m.traits.spin_kind != SPIN_CNA:
        return unordered_lock(m, lock, cpu, t_ns)
    t_ns = line_rmw(m, line, cpu, t_ns, 1, -1)
    if not (lock.pending or lock.tail):
        lock.pending = <short> (cpu + 1)
        m.cpus[cpu].ready_ns = t_ns
    else:
        prev = lock.tail
        lock.tail = <short> (cpu + 1)
        m.cpus[cpu].mcs_next = 0
        if prev:
            m.cpus[prev - 1].mcs_next = <short> (cpu + 1)
        else:
            lock.head = <short> (cpu + 1)
            m.cpus[cpu].ready_ns = t_ns
    cpu_park(m, cpu)
    return WAIT


cdef int64_t queued_spin_unlock(Mach *m, SpinLock *lock, Line *line, int cpu, int64_t t_ns) noexcept nogil:
    """queued_spin_unlock(): hands the lock to the next in order; returns when the caller goes on.

    Releasing is a plain store: the caller does not wait for the line, the next holder does.
    """
    cdef int nxt, after
    cdef int64_t seen_ns = t_ns
    cdef int64_t busy_ns = line[0] >> CPU_BITS
    nxt = (lock.pending if lock.pending else lock.head) - 1
    if nxt < 0:
        lock.locked = 0
        line_rmw(m, line, cpu, t_ns, 0, -1)
        return t_ns + m.costs.store_ns
    if m.traits.spin_kind != SPIN_QUEUED and m.traits.spin_kind != SPIN_CNA:
        return unordered_unlock(m, lock, line, cpu, t_ns)
    if busy_ns > seen_ns:
        seen_ns = busy_ns
    seen_ns += 2 * latency(m, nxt, cpu)
    if m.cpus[nxt].ready_ns > seen_ns:
        seen_ns = m.cpus[nxt].ready_ns
    seen_ns += m.costs.atomic_ns
    m.clock.transfers += 2
    lock.locked = <short> (nxt + 1)
    if lock.pending:
        lock.pending = 0
    else:
        after = m.cpus[nxt].mcs_next
        if after and m.traits.spin_kind == SPIN_CNA:
            after = cna_successor(m, lock, nxt, after, seen_ns)
        lock.head = <short> after
        if after:
            m.cpus[after - 1].ready_ns = seen_ns + 2 * latency(m, nxt, after - 1)
        else:
            lock.tail = 0
    line[0] = (seen_ns << CPU_BITS) | (nxt + 1)
    m.cpus[nxt].granted_by = cpu
    cpu_at(m, nxt, seen_ns)
    return t_ns + m.costs.store_ns
