# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Spinlocks to compare the queued one with: ticket, test-and-set, and the NUMA-aware queue (CNA).

In a ticket or test-and-set lock all waiters spin on the word itself, so each release sets all of them in
motion, and the line serves one after another (Boyd-Wickizer et al. 2012). Which place the one that matters
has among those requests is drawn, uniformly, from a hash of the time and of the transfers so far: a ticket's
next owner sees it after 1 to W transfers of W waiters; a test-and-set's releasing store waits behind 0 to
W - 1 of the waiters' exchanges, and any of them may win.

CNA is the queued spinlock whose new owner passes the head of the queue on to the first waiter of its own
node, as long as the lock has not stayed on this node for longer than cna_threshold. Waiters passed over keep
their order in front, which is what its second queue comes to when it is put back.
"""
from libc.stdint cimport int64_t, uint64_t
from fastmlock.machine.core cimport cpu_at, cpu_park, latency, line_rmw
from fastmlock.machine.types cimport CPU_BITS, SPIN_TAS, WAIT, Line, Mach, SpinLock


cdef inline int draw(Mach *m, int64_t t_ns, int n) noexcept nogil:
    """0 to n - 1, by splitmix64."""
    cdef uint64_t z = <uint64_t> t_ns * 0x9E3779B97F4A7C15ULL + <uint64_t> m.clock.transfers * 0xD1342543DE82EF95ULL
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL
    return <int> ((z ^ (z >> 31)) % <uint64_t> n)


cdef int64_t unordered_lock(Mach *m, SpinLock *lock, int cpu, int64_t t_ns) noexcept nogil:
    """The word is taken: joins those who spin on it, in order of arrival."""
    m.cpus[cpu].mcs_next = 0
    m.cpus[cpu].ready_ns = t_ns
    if lock.tail:
        m.cpus[lock.tail - 1].mcs_next = <short> (cpu + 1)
    else:
        lock.head = <short> (cpu + 1)
    lock.tail = <short> (cpu + 1)
    cpu_park(m, cpu)
    return WAIT


cdef void take_out(Mach *m, SpinLock *lock, int prev, int cpu) noexcept nogil:
    """Unlinks `cpu`, which follows `prev` (cpu + 1, or 0 if it is the head)."""
    if prev:
        m.cpus[prev - 1].mcs_next = m.cpus[cpu].mcs_next
    else:
        lock.head = m.cpus[cpu].mcs_next
    if lock.tail == cpu + 1:
        lock.tail = <short> prev


cdef int64_t unordered_unlock(Mach *m, SpinLock *lock, Line *line, int cpu, int64_t t_ns) noexcept nogil:
    """Somebody waits: the store reaches the one that will own the lock when the line has served those before."""
    cdef int waiters = 0, prev = 0, nxt = lock.head, first, at, w = lock.head
    cdef int64_t seen_ns = t_ns
    cdef int64_t busy_ns = line[0] >> CPU_BITS
    while w:
        waiters += 1
        w = m.cpus[w - 1].mcs_next
    first = waiters - draw(m, t_ns, waiters)        # from this one on the requests come before the owner's
    at = 0
    if m.traits.spin_kind == SPIN_TAS:
        at = draw(m, ~t_ns, waiters)
    if busy_ns > seen_ns:
        seen_ns = busy_ns
    w = lock.head
    while w:
        if at > 0:
            prev = w
            nxt = m.cpus[w - 1].mcs_next
            at -= 1
        first -= 1
        if first < 0:
            seen_ns += latency(m, cpu, w - 1)
            m.clock.transfers += 1
        w = m.cpus[w - 1].mcs_next
    take_out(m, lock, prev, nxt - 1)
    nxt -= 1
    seen_ns += 2 * latency(m, nxt, cpu)
    if m.cpus[nxt].ready_ns > seen_ns:
        seen_ns = m.cpus[nxt].ready_ns
    seen_ns += m.costs.atomic_ns
    m.clock.transfers += 2
    lock.locked = <short> (nxt + 1)
    line[0] = (seen_ns << CPU_BITS) | (nxt + 1)
    m.cpus[nxt].granted_by = cpu
    cpu_at(m, nxt, seen_ns)
    return t_ns + m.costs.store_ns


cdef int cna_successor(Mach *m, SpinLock *lock, int holder, int head, int64_t t_ns) noexcept nogil:
    """Who is head of the queue after `holder`: the first of its node, moved to the front, or who stands there."""
    cdef int node = m.cpu_node[holder]
    cdef int64_t since_ns = m.cpus[holder].local_ns
    cdef int prev = 0, w = head
    if since_ns == 0:
        since_ns = t_ns
    if t_ns - since_ns <= m.costs.cna_threshold_ns:
        while w and m.cpu_node[w - 1] != node:
            prev = w
            w = m.cpus[w - 1].mcs_next
    elif m.cpu_node[w - 1] == node:
        since_ns = 0
    if not w:
        w = head
        prev = 0
    m.cpus[w - 1].local_ns = since_ns if m.cpu_node[w - 1] == node else 0
    if prev:
        m.cpus[prev - 1].mcs_next = m.cpus[w - 1].mcs_next
        if lock.tail == w:
            lock.tail = <short> prev
        m.cpus[w - 1].mcs_next = <short> head
    return w
