# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""What if i_mmap_rwsem were another lock: wrappers around the semaphore of `rwsem`, by two traits.

rwsem_bias: readers of i_mmap_rwsem (and of the test rwsem) that find it biased towards them take no count; they
write a line of their own. A writer, once it has the semaphore, takes the bias away, looks for such readers and
spins until they have left. BIAS_BRAVO (Dice and Kogan 2018): the look is a scan of a table of 4,096 slots, and
bias stays off for 9 times what all of it took; BIAS_PERCPU (percpu_rw_semaphore): a grace period, and again as
long before readers are fast again. lock_stat counts a writer's wait for them as holding.

i_mmap_split: one semaphore per node. A writer takes that of its own node, a reader all of them, one by one.
"""
from libc.stdint cimport INT64_MAX, int64_t
from fastmlock.machine.core cimport account, cpu_at, cpu_before, cpu_park, stat_acquired, stat_released
from fastmlock.machine.rwsem cimport rwsem_event, rwsem_request
from fastmlock.machine.sched cimport need_resched, resched_at, sched_yield
from fastmlock.machine.types cimport (ACC_I_MMAP_WRITE_SPIN, ACC_RWSEM_WRITE_SPIN, BIAS_BRAVO, PH_REQ,
                                      PH_RW_REVOKE, WAIT, Mach, RwSem, TaskRec)
from fastmlock.state.types cimport (LK_I_MMAP, LK_TEST_RWSEM, REQ_DOWN_READ, REQ_DOWN_READ_TRYLOCK, REQ_DOWN_WRITE,
                                    REQ_UP_READ)


cdef inline bint has_bias(Mach *m, TaskRec *r) noexcept nogil:
    return m.traits.rwsem_bias and (r.wait_class == LK_I_MMAP or r.wait_class == LK_TEST_RWSEM)


cdef inline bint is_split(Mach *m, TaskRec *r) noexcept nogil:
    return m.traits.i_mmap_split and r.wait_class == LK_I_MMAP


cdef int64_t fast_read(Mach *m, RwSem *sem, TaskRec *r, int64_t t_ns) noexcept nogil:
    t_ns += m.costs.atomic_ns if m.traits.rwsem_bias == BIAS_BRAVO else 2 * m.costs.store_ns
    sem.fast += 1
    r.fast_held |= 1 << r.wait_class
    r.held_ns[r.wait_class] = t_ns
    r.waiting = 0
    stat_acquired(m, r.wait_class, 0, False, False, 0)
    return t_ns


cdef int64_t fast_leave(Mach *m, RwSem *sem, TaskRec *r, int64_t t_ns) noexcept nogil:
    cdef int cpu
    stat_released(m, r.wait_class, 0, t_ns - r.held_ns[r.wait_class])
    t_ns += m.costs.store_ns
    r.fast_held &= ~(1 << r.wait_class)
    sem.fast -= 1
    if sem.revoker and not sem.fast:
        cpu = m.tasks[sem.revoker - 1].cpu
        if m.cpus[cpu].curr == sem.revoker:
            cpu_before(m, cpu, t_ns if t_ns > m.tasks[sem.revoker - 1].ready_ns else m.tasks[sem.revoker - 1].ready_ns)
    return t_ns


cdef int64_t revoke_wait(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    """The writer holds the semaphore and readers without a count may be inside."""
    cdef TaskRec *r = &m.tasks[task]
    cdef int64_t until_ns
    account(m, cpu, t_ns, ACC_I_MMAP_WRITE_SPIN if r.wait_class == LK_I_MMAP else ACC_RWSEM_WRITE_SPIN)
    r.phase = PH_RW_REVOKE
    if t_ns < r.ready_ns:                       # the look is not over
        cpu_at(m, cpu, r.ready_ns)
        return WAIT
    if sem.fast:
        if need_resched(m, cpu, t_ns):
            sched_yield(m, cpu, t_ns)
            return WAIT
        until_ns = resched_at(m, cpu)
        if until_ns == INT64_MAX:
            cpu_park(m, cpu)
        else:
            cpu_at(m, cpu, until_ns)
        return WAIT
    sem.revoker = 0
    sem.inhibit_ns = t_ns + (m.costs.bias_inhibit_factor_ns * (t_ns - r.deadline_ns)
                             if m.traits.rwsem_bias == BIAS_BRAVO else m.costs.percpu_sync_ns)
    return t_ns


cdef int64_t after(Mach *m, int cpu, int task, int req, int64_t t_ns) noexcept nogil:
    """One semaphore has been taken or given back at `t_ns`: what else belongs to the request?"""
    cdef TaskRec *r = &m.tasks[task]
    cdef RwSem *sem
    if is_split(m, r) and (req == REQ_DOWN_READ or req == REQ_UP_READ):
        r.split += 1
        if r.split < m.nr_nodes:
            r.phase = PH_REQ
            cpu_at(m, cpu, t_ns)
            return WAIT
        r.split = 0
    if has_bias(m, r):
        sem = &m.rwsems[r.wait_class][r.wait_obj]
        if req == REQ_DOWN_READ and sem.unbiased and t_ns >= sem.inhibit_ns:
            sem.unbiased = 0
        elif req == REQ_DOWN_WRITE and not sem.unbiased:
            sem.unbiased = 1
            sem.revoker = task + 1
            r.deadline_ns = t_ns
            r.ready_ns = t_ns + (m.costs.bias_scan_ns if m.traits.rwsem_bias == BIAS_BRAVO else m.costs.percpu_sync_ns)
            return revoke_wait(m, sem, cpu, task, t_ns)
    return t_ns


cdef int64_t whatif_request(Mach *m, int cpu, int task, int req, int64_t t_ns) noexcept nogil:
    """rwsem_request() and what belongs to the request besides."""
    cdef TaskRec *r = &m.tasks[task]
    cdef RwSem *sem
    cdef bint read = req == REQ_DOWN_READ or req == REQ_UP_READ
    cdef int64_t end_ns
    if is_split(m, r):
        if req == REQ_DOWN_READ_TRYLOCK:
            m.clock.error = 1
            return WAIT
        r.wait_obj = r.wait_obj * m.nr_nodes + (r.split if read else m.cpu_node[r.cpu])
    if has_bias(m, r) and read:
        sem = &m.rwsems[r.wait_class][r.wait_obj]
        if req == REQ_UP_READ and r.fast_held >> r.wait_class & 1:
            return fast_leave(m, sem, r, t_ns)
        if req == REQ_DOWN_READ and not sem.unbiased:
            return fast_read(m, sem, r, t_ns)
    end_ns = rwsem_request(m, cpu, task, req, t_ns)
    return end_ns if end_ns == WAIT else after(m, cpu, task, req, end_ns)


cdef int64_t whatif_event(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """rwsem_event() and what belongs to the request besides."""
    cdef TaskRec *r = &m.tasks[task]
    if r.phase == PH_RW_REVOKE:
        return revoke_wait(m, &m.rwsems[r.wait_class][r.wait_obj], cpu, task, t_ns)
    t_ns = rwsem_event(m, cpu, task, t_ns)
    return t_ns if t_ns == WAIT else after(m, cpu, task, m.w.tasks[task].req, t_ns)
