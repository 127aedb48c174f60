# The event core: the next event of each cpu, cache lines, and the charging of time.
# All of it is inline, so that each lock's file compiles it in.
from libc.stdint cimport INT64_MAX, int16_t, int32_t, int64_t, uint32_t, uint64_t
from fastmlock.machine.queue cimport queue_key, queue_remove, queue_set
from fastmlock.machine.types cimport (ACC_WORK, CPU_BITS, CPU_MASK, NODE_LEVEL, NR_ACCOUNTS, Cpu, Line,
                                      LockStat, Mach, TaskRec)

cdef extern from *:
    int __builtin_clzll(unsigned long long x) nogil


# ---- the next event of each cpu --------------------------------------------------------------------
cdef inline void cpu_at(Mach *m, int cpu, int64_t t_ns) noexcept nogil:
    """The next event of `cpu` is at `t_ns`. Of two at the same time the lower cpu comes first."""
    queue_set(&m.queue, (t_ns << CPU_BITS) | cpu)


cdef inline void cpu_park(Mach *m, int cpu) noexcept nogil:
    """The cpu has no event of its own until somebody gives it one."""
    queue_remove(&m.queue, cpu)


cdef inline bint cpu_parked(Mach *m, int cpu) noexcept nogil:
    return m.queue.slot[cpu] < 0


cdef inline int64_t cpu_next(Mach *m, int cpu) noexcept nogil:
    """When its next event is, ns; far away if it has none."""
    return queue_key(&m.queue, cpu) >> CPU_BITS


cdef inline void cpu_before(Mach *m, int cpu, int64_t t_ns) noexcept nogil:
    """The next event of `cpu` is at `t_ns` or when it was before, whichever is earlier."""
    cdef int64_t key = (t_ns << CPU_BITS) | cpu
    if key < queue_key(&m.queue, cpu):
        queue_set(&m.queue, key)


# ---- distances and lines ---------------------------------------------------------------------------
cdef inline int64_t latency(Mach *m, int a, int b) noexcept nogil:
    """One-way transfer of a line from cpu a to cpu b, ns; 0 if they are the same."""
    return m.level_ns[63 - __builtin_clzll(2 * <uint64_t> (m.pos[a] ^ m.pos[b]) + 1)]


cdef inline int line_owner(Line line) noexcept nogil:
    return <int> (line & CPU_MASK) - 1


cdef inline bint line_in_memory(Mach *m, Line line) noexcept nogil:
    """No cpu has it: nobody has used it yet, or its owner has brought in a cacheful of others since."""
    return (line >> CPU_BITS) < m.evicted_ns[line & CPU_MASK]


cdef inline int fill(Mach *m, Cpu *p, int cpu, int fills, int64_t t_ns) noexcept nogil:
    """A line has come into the cpu's cache, which has brought in `fills` since its epoch began: how many now. The
    oldest sixteenth of its lines goes at a time."""
    fills += 1
    if fills >= m.epoch_lines:
        fills = 0
        p.epoch = (p.epoch + 1) & 15
        m.evicted_ns[cpu + 1] = p.epochs[p.epoch]
        p.epochs[p.epoch] = t_ns
    return fills


cdef inline void line_fill(Mach *m, int cpu, int64_t t_ns) noexcept nogil:
    """Counts a line that came into the cpu's cache."""
    cdef Cpu *p = &m.cpus[cpu]
    m.clock.transfers += 1
    p.fills = fill(m, p, cpu, p.fills, t_ns)


cdef inline int64_t line_move(Mach *m, int owner, int cpu, int64_t waits_ns) noexcept nogil:
    """What a line takes from its owner to another cpu that has waited for it for `waits_ns` (not if negative).

    A node's own requests are served before it gives a line away. So of those who queue for a line not all come from
    afar even if their order here is mixed: it crosses as often as there are nodes, not as often as it moves.
    """
    cdef int64_t far_ns = latency(m, owner, cpu)
    cdef int64_t near_ns = m.level_ns[NODE_LEVEL]
    if waits_ns > 0 and far_ns > near_ns:
        far_ns = near_ns + (far_ns - near_ns) * m.nr_nodes * near_ns / (m.nr_nodes * near_ns + waits_ns)
    return far_ns


cdef inline int64_t line_rmw(Mach *m, Line *line, int cpu, int64_t t_ns, int64_t atomics,
                             int node) noexcept nogil:
    """`atomics` read-modify-writes by `cpu` from `t_ns` on; returns when the last is over.

    The line serves one cpu after another: wait until it is free, bring it here from its owner (or from
    memory of `node`, or of this cpu's own node if negative), then work on it.
    """
    cdef int64_t busy_ns = line[0] >> CPU_BITS
    cdef int64_t waits_ns = busy_ns - t_ns
    cdef bint absent = line_in_memory(m, line[0])
    if waits_ns > 0:
        t_ns = busy_ns
    if absent or line_owner(line[0]) != cpu:
        if not absent:
            t_ns += line_move(m, line_owner(line[0]), cpu, waits_ns)
        else:
            if node < 0:
                node = m.cpu_node[cpu]
            t_ns += m.memory_ns[m.cpu_node[cpu] * m.nr_nodes + node]
        line_fill(m, cpu, t_ns)
    t_ns += atomics * m.costs.atomic_ns
    line[0] = (t_ns << CPU_BITS) | (cpu + 1)
    return t_ns


# ---- where time goes -------------------------------------------------------------------------------
cdef inline void charge(Cpu *p, int64_t *acct, int64_t t_ns, int state) noexcept nogil:
    """account(), with the cpu and its row of accounts in hand."""
    if t_ns > p.acct_ns:
        acct[state] += t_ns - p.acct_ns
        p.acct_ns = t_ns


cdef inline void account(Mach *m, int cpu, int64_t t_ns, int state) noexcept nogil:
    """Charges the time from where this cpu was charged last up to `t_ns`."""
    charge(&m.cpus[cpu], &m.acct[cpu * NR_ACCOUNTS], t_ns, state)


cdef inline void stat_acquired(Mach *m, int lock_class, int write, bint bounced, bint contended,
                               int64_t wait_ns) noexcept nogil:
    """lock_acquired(): counts one acquisition and, if it had to wait, how long."""
    cdef LockStat *s = &m.stats[2 * lock_class + write]
    s.acquisitions += 1
    s.acq_bounces += bounced
    if contended:
        if s.contentions == 0 or wait_ns < s.waittime_min:
            s.waittime_min = wait_ns
        if wait_ns > s.waittime_max:
            s.waittime_max = wait_ns
        s.contentions += 1
        s.con_bounces += bounced
        s.waittime_total += wait_ns


cdef inline void stat_released(Mach *m, int lock_class, int write, int64_t hold_ns) noexcept nogil:
    """lock_release(): how long it was held."""
    cdef LockStat *s = &m.stats[2 * lock_class + write]
    if s.holdtime_max == 0 or hold_ns < s.holdtime_min:
        s.holdtime_min = hold_ns
    if hold_ns > s.holdtime_max:
        s.holdtime_max = hold_ns
    s.holdtime_total += hold_ns
