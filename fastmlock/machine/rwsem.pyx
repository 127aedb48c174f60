# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The rw_semaphore of 5.17 (specification 6.1) as a program of events.

The functions named after the kernel's take the time of the call and return the time at which the caller
goes on, or WAIT: then the task's phase says what its cpu's next event means, and rwsem_event() carries on.
What is done under the wait_lock is one "section", run at the moment the lock is granted; the lock itself is
a queued spinlock whose word lies on the semaphore's line, as everything else of it does.

Spinning is not stepped through loop by loop. The head of the spinners' queue is parked and looks again
whenever something it would notice changes (rwsem_kick), when its time to spin on readers is over, or when
it should give up its cpu. Its looking keeps the line shared, so others pay for taking it away (sem_rmw).

Variants are the LockTraits rwsem_*. With rwsem_reader_spin this is the lock of 5.2 to 5.10: a reader that
fails takes its bias back and spins in the same queue as the writers, never limited in time; writers that give
up on readers stop both kinds from spinning.
"""
from libc.stdint cimport INT64_MAX, int16_t, int64_t
from fastmlock.machine.core cimport (account, cpu_at, cpu_park, latency, line_owner, line_rmw,
                                     stat_acquired, stat_released)
from fastmlock.machine.rwsem_wake cimport WAKE_ANY, WAKE_READ_OWNED, WAKE_READERS, mark_wake, wake_up_q
from fastmlock.machine.sched cimport need_resched, resched_at, sched_sleep
from fastmlock.machine.spinlock cimport queued_spin_lock, queued_spin_unlock
from fastmlock.machine.types cimport (ACC_I_MMAP_READ_SPIN, ACC_LOCK_LINE, ACC_RWSEM_READ_SPIN, ACC_SWITCH,
                                      PH_RW_BLOCK, PH_RW_HANDOFF, PH_RW_OSQ, PH_RW_SECTION, PH_RW_SPIN,
                                      PH_RW_UNDO, TASK_RUNNING, WAIT, WRITE_HELD, Cpu, Mach, RwSem, SpinLock, TaskRec)
from fastmlock.machine.waitlist cimport wait_add, wait_del
from fastmlock.state.types cimport (LK_I_MMAP, REQ_DOWN_READ, REQ_DOWN_READ_TRYLOCK, REQ_DOWN_WRITE, REQ_UP_READ,
                                    REQ_UP_WRITE)

cdef enum:
    LOCK_MASK = ~0xff | WRITER_LOCKED       # readers or a writer
    READ_FAILED = WRITER_LOCKED | FLAG_WAITERS | FLAG_HANDOFF

# what is done under the wait_lock
cdef enum Section:
    S_READ_QUEUE = 0
    S_READ_STOLE = 1
    S_WRITE_QUEUE = 2
    S_WRITE_TRY = 3
    S_WAKE = 4
    S_DOWNGRADE = 5

# what a spinner sees
cdef enum OwnerState:
    OWNER_NULL = 0
    OWNER_WRITER = 1
    OWNER_READER = 2
    OWNER_NONSPINNABLE = 3


# ---- small things ----------------------------------------------------------------------------------
cdef inline RwSem *sem_of(Mach *m, TaskRec *r) noexcept nogil:
    return &m.rwsems[r.wait_class][r.wait_obj]


cdef inline int64_t sem_rmw(Mach *m, RwSem *sem, int cpu, int64_t t_ns) noexcept nogil:
    """One read-modify-write of the semaphore's line, which a spinner keeps pulling over to itself."""
    cdef int spinner = sem.spinner - 1
    if spinner >= 0 and spinner != cpu and line_owner(sem.line) == cpu:
        t_ns = t_ns + latency(m, spinner, cpu)
        m.clock.transfers += 1
    return line_rmw(m, &sem.line, cpu, t_ns, 1, -1)


cdef inline void clear_nonspinnable(RwSem *sem) noexcept nogil:
    if sem.owner_flags & NONSPINNABLE:
        sem.owner_flags &= ~NONSPINNABLE


cdef int64_t acquired(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    """The task holds the semaphore from `t_ns` on."""
    cdef TaskRec *r = &m.tasks[task]
    stat_acquired(m, r.wait_class, r.wait_write, line_owner(sem.line) != cpu, r.contended,
                  t_ns - r.wait_ns)
    r.held_ns[r.wait_class] = t_ns
    r.waiting = 0
    return t_ns


cdef int64_t write_acquired(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    cdef TaskRec *r = &m.tasks[task]
    sem.owner = task + 1
    sem.owner_flags = 0
    if r.nr_write_held < WRITE_HELD:
        r.write_held[r.nr_write_held] = (<int64_t> r.wait_class << 32) | r.wait_obj
        r.nr_write_held += 1
    rwsem_kick(m, sem, t_ns)
    return acquired(m, sem, cpu, task, t_ns)


cdef void write_dropped(Mach *m, TaskRec *r) noexcept nogil:
    cdef int64_t key = (<int64_t> r.wait_class << 32) | r.wait_obj
    cdef int i
    for i in range(r.nr_write_held):
        if r.write_held[i] == key:
            r.nr_write_held -= 1
            r.write_held[i] = r.write_held[r.nr_write_held]
            return


# ---- sections under the wait_lock ------------------------------------------------------------------
cdef int64_t section_begin(Mach *m, RwSem *sem, int cpu, int task, int section, int64_t t_ns) noexcept nogil:
    """Takes the wait_lock; the section runs at the moment at which it has it, others having gone on until then."""
    cdef TaskRec *r = &m.tasks[task]
    r.section = section
    r.phase = PH_RW_SECTION
    t_ns = queued_spin_lock(m, &sem.wait_lock, &sem.line, cpu, t_ns)
    if t_ns != WAIT:
        cpu_at(m, cpu, t_ns)
    return WAIT


cdef inline int64_t section_end(Mach *m, RwSem *sem, int cpu, int64_t t_ns) noexcept nogil:
    return queued_spin_unlock(m, &sem.wait_lock, &sem.line, cpu, t_ns)


cdef int64_t section_run(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    cdef TaskRec *r = &m.tasks[task]
    cdef int first = 0
    account(m, cpu, t_ns, spin_state(r))
    if r.section == S_READ_QUEUE:
        return read_queue(m, sem, cpu, task, t_ns)
    if r.section == S_WRITE_QUEUE:
        return write_queue(m, sem, cpu, task, t_ns)
    if r.section == S_WRITE_TRY:
        return write_try(m, sem, cpu, task, t_ns)
    if sem.head:
        first = mark_wake(m, sem, WAKE_ANY if r.section == S_WAKE else WAKE_READ_OWNED, &t_ns)
    t_ns = wake_up_q(m, first, cpu, section_end(m, sem, cpu, t_ns))
    if r.section == S_READ_STOLE:
        return acquired(m, sem, cpu, task, t_ns)
    return t_ns


cdef int64_t read_queue(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    cdef TaskRec *r = &m.tasks[task]
    cdef bint wake = False, alone = not sem.head
    cdef int first = 0
    if alone and r.biased and not sem.count & (WRITER_LOCKED | FLAG_HANDOFF):
        set_reader_owned(m, sem, task, t_ns)
        return acquired(m, sem, cpu, task, section_end(m, sem, cpu, t_ns))
    wait_add(m, &sem.head, &sem.tail, task)
    r.deadline_ns = t_ns + m.costs.rwsem_timeout_ns
    r.granted = 0
    r.handoff_set = 0
    if r.biased:
        sem.count -= READER_BIAS
    if alone:
        sem.count |= FLAG_WAITERS
    t_ns += m.costs.rwsem_queue_ns + m.costs.atomic_ns
    if not sem.count & LOCK_MASK:
        clear_nonspinnable(sem)
        rwsem_kick(m, sem, t_ns)
        wake = True
    if wake or (alone and not sem.count & WRITER_LOCKED):
        first = mark_wake(m, sem, WAKE_ANY, &t_ns)
    t_ns = wake_up_q(m, first, cpu, section_end(m, sem, cpu, t_ns))
    account(m, cpu, t_ns, spin_state(r))
    r.phase = PH_RW_BLOCK
    cpu_at(m, cpu, t_ns)
    return WAIT


cdef bint try_write_lock(Mach *m, RwSem *sem, int task, int64_t t_ns) noexcept nogil:
    """rwsem_try_write_lock() by a queued writer, under the wait_lock."""
    cdef TaskRec *r = &m.tasks[task]
    cdef bint first = sem.head == task + 1
    cdef bint handoff = sem.count & FLAG_HANDOFF
    if handoff:
        if not first:
            if not m.traits.rwsem_handoff_setter or m.tasks[sem.head - 1].handoff_set:
                return False
        else:
            r.handoff_set = 1
    if sem.count & LOCK_MASK:
        if m.traits.rwsem_handoff and not handoff and t_ns > r.deadline_ns:
            sem.count |= FLAG_HANDOFF
            r.handoff_set = 1
        return False
    sem.count = (sem.count | WRITER_LOCKED) & ~<int64_t> FLAG_HANDOFF
    wait_del(m, &sem.head, &sem.tail, task)
    if not sem.head:
        sem.count &= ~<int64_t> FLAG_WAITERS
    return True


cdef int64_t write_try(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    cdef TaskRec *r = &m.tasks[task]
    r.woken = 0
    t_ns += m.costs.atomic_ns
    if try_write_lock(m, sem, task, t_ns):
        write_acquired(m, sem, cpu, task, t_ns)
        return section_end(m, sem, cpu, t_ns)
    t_ns = section_end(m, sem, cpu, t_ns)
    account(m, cpu, t_ns, spin_state(r))
    if r.handoff_set:
        r.spin_owner = sem.owner
        return handoff_spin(m, sem, cpu, task, t_ns)
    r.phase = PH_RW_BLOCK
    cpu_at(m, cpu, t_ns)
    return WAIT


cdef int64_t write_queue(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    cdef TaskRec *r = &m.tasks[task]
    cdef int first
    r.deadline_ns = t_ns + m.costs.rwsem_timeout_ns
    r.handoff_set = 0
    r.granted = 0
    wait_add(m, &sem.head, &sem.tail, task)
    t_ns += m.costs.rwsem_queue_ns
    if sem.head == task + 1:
        sem.count |= FLAG_WAITERS
        t_ns += m.costs.atomic_ns
    elif not sem.count & WRITER_LOCKED and (sem.count & LOCK_MASK or not m.traits.rwsem_xadd):
        first = mark_wake(m, sem, WAKE_READERS if sem.count & LOCK_MASK else WAKE_ANY, &t_ns)
        if first:
            t_ns = wake_up_q(m, first, cpu, section_end(m, sem, cpu, t_ns))
            return section_begin(m, sem, cpu, task, S_WRITE_TRY, t_ns)
    return write_try(m, sem, cpu, task, t_ns)


# ---- spinning --------------------------------------------------------------------------------------
cdef inline int nonspinnable(TaskRec *r) noexcept nogil:
    """The bit that keeps this task from spinning."""
    return NONSPINNABLE if r.wait_write else READER_NONSPINNABLE


cdef inline int owner_state(RwSem *sem, int forbids) noexcept nogil:
    if sem.owner_flags & forbids:
        return OWNER_NONSPINNABLE
    if sem.owner_flags & READER_OWNED:
        return OWNER_READER
    return OWNER_WRITER if sem.owner else OWNER_NULL


cdef inline bint owner_on_cpu(Mach *m, RwSem *sem) noexcept nogil:
    return m.tasks[sem.owner - 1].state == TASK_RUNNING


cdef inline void park_spinner(Mach *m, int cpu, int64_t until_ns) noexcept nogil:
    """Parked until kicked, until it should reschedule, or until `until_ns`."""
    cdef int64_t resched_ns = resched_at(m, cpu)
    if resched_ns < until_ns:
        until_ns = resched_ns
    if until_ns == INT64_MAX:
        cpu_park(m, cpu)
    else:
        cpu_at(m, cpu, until_ns)


cdef int64_t handoff_spin(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    """The first waiter, having asked for handoff, stays awake while the owner it saw runs."""
    cdef TaskRec *r = &m.tasks[task]
    cdef int state = owner_state(sem, NONSPINNABLE)
    if state == OWNER_WRITER and sem.owner == r.spin_owner and owner_on_cpu(m, sem) \
            and not need_resched(m, cpu, t_ns):
        sem.handoff_spinner = <int16_t> (cpu + 1)
        m.cpus[cpu].ready_ns = t_ns
        r.phase = PH_RW_HANDOFF
        park_spinner(m, cpu, INT64_MAX)
        return WAIT
    sem.handoff_spinner = 0
    account(m, cpu, t_ns, spin_state(r))
    if state == OWNER_NULL:
        return section_begin(m, sem, cpu, task, S_WRITE_TRY, t_ns)
    r.phase = PH_RW_BLOCK
    cpu_at(m, cpu, t_ns)
    return WAIT


cdef bint can_spin_on_owner(Mach *m, RwSem *sem, int cpu, int forbids, int64_t t_ns) noexcept nogil:
    if not m.traits.rwsem_spin or need_resched(m, cpu, t_ns) or sem.owner_flags & forbids:
        return False
    if sem.owner_flags & READER_OWNED:
        return m.traits.rwsem_spin_readers
    return not sem.owner or owner_on_cpu(m, sem)


cdef int64_t osq_lock(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    """Joins the spinners' queue; its head spins on the semaphore, the others on their own nodes."""
    cdef Cpu *p = &m.cpus[cpu]
    p.osq_next = 0
    p.osq_prev = sem.osq_tail
    p.spin_prev = OWNER_NULL
    t_ns = sem_rmw(m, sem, cpu, t_ns)
    p.ready_ns = t_ns
    sem.osq_tail = <int16_t> (cpu + 1)
    if not p.osq_prev:
        sem.spinner = <int16_t> (cpu + 1)
        return spin(m, sem, cpu, task, t_ns)
    m.cpus[p.osq_prev - 1].osq_next = <int16_t> (cpu + 1)
    m.tasks[task].phase = PH_RW_OSQ
    park_spinner(m, cpu, INT64_MAX)
    return WAIT


cdef void osq_unlock(Mach *m, RwSem *sem, int cpu, int64_t t_ns) noexcept nogil:
    cdef int nxt = m.cpus[cpu].osq_next - 1
    sem.spinner = <int16_t> (nxt + 1)
    if nxt < 0:
        sem.osq_tail = 0
        return
    t_ns += latency(m, cpu, nxt)
    m.cpus[nxt].osq_prev = 0
    m.cpus[nxt].ready_ns = t_ns
    m.tasks[m.cpus[nxt].curr - 1].phase = PH_RW_SPIN
    cpu_at(m, nxt, t_ns)


cdef int64_t osq_leave(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    """A queued spinner should reschedule: it leaves the middle of the queue and queues as a sleeper."""
    cdef Cpu *p = &m.cpus[cpu]
    if not need_resched(m, cpu, t_ns):
        park_spinner(m, cpu, INT64_MAX)
        return WAIT
    m.cpus[p.osq_prev - 1].osq_next = p.osq_next
    if p.osq_next:
        m.cpus[p.osq_next - 1].osq_prev = p.osq_prev
    else:
        sem.osq_tail = p.osq_prev
    account(m, cpu, t_ns, spin_state(&m.tasks[task]))
    return section_begin(m, sem, cpu, task, S_WRITE_QUEUE if m.tasks[task].wait_write else S_READ_QUEUE, t_ns)


cdef int64_t reader_spin_ns(Mach *m, RwSem *sem) noexcept nogil:
    """How long a writer spins on readers, looked at every 16 loops: (20 + min(readers, 30)) / 2 us."""
    cdef int64_t readers = sem.count >> READER_SHIFT
    cdef int64_t look_ns = 16 * m.costs.spin_loop_ns
    cdef int64_t ns = m.costs.rwsem_spin_base_ns + (30 if readers > 30 else readers) \
        * m.costs.rwsem_spin_reader_ns
    return ns if look_ns <= 0 else (ns / look_ns + 1) * look_ns


cdef bint spin_try(Mach *m, RwSem *sem, int task) noexcept nogil:
    """rwsem_try_write_lock_unqueued() and its like for readers: past the queue, unless handoff is asked for."""
    if m.tasks[task].wait_write:
        if sem.count & (LOCK_MASK | FLAG_HANDOFF):
            return False
        sem.count |= WRITER_LOCKED
    else:
        if sem.count & (WRITER_LOCKED | FLAG_HANDOFF):
            return False
        sem.count += READER_BIAS
    return True


cdef int64_t spin_won(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    """The lock was taken by spin_try() at `t_ns`."""
    cdef TaskRec *r = &m.tasks[task]
    if r.wait_write:
        t_ns = write_acquired(m, sem, cpu, task, t_ns)
        sem.owner_flags |= r.saw_nonspinnable
        return t_ns
    set_reader_owned(m, sem, task, t_ns)
    if sem.count & FLAG_WAITERS:
        return section_begin(m, sem, cpu, task, S_READ_STOLE, t_ns)
    return acquired(m, sem, cpu, task, t_ns)


cdef int64_t spin(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    """rwsem_optimistic_spin(): one look by the head of the spinners' queue."""
    cdef TaskRec *r = &m.tasks[task]
    cdef Cpu *p = &m.cpus[cpu]
    cdef int state = owner_state(sem, nonspinnable(r))
    cdef bint stop = state == OWNER_NONSPINNABLE
    cdef bint timed = state == OWNER_READER and r.wait_write
    account(m, cpu, t_ns, spin_state(r))
    if timed and not m.traits.rwsem_spin_readers:
        stop = True
    elif state == OWNER_WRITER:
        stop = need_resched(m, cpu, t_ns) or not owner_on_cpu(m, sem)
    elif not stop:
        if spin_try(m, sem, task):
            t_ns = line_rmw(m, &sem.line, cpu, t_ns, 1, -1)
            osq_unlock(m, sem, cpu, t_ns)
            return spin_won(m, sem, cpu, task, t_ns)
        if timed:
            if p.spin_prev != OWNER_READER:
                p.spin_end_ns = t_ns + reader_spin_ns(m, sem)
            elif t_ns >= p.spin_end_ns:
                sem.owner_flags |= NONSPINNABLE | (READER_NONSPINNABLE if m.traits.rwsem_reader_spin else 0)
                stop = True
        stop = stop or need_resched(m, cpu, t_ns)
    if stop:
        osq_unlock(m, sem, cpu, t_ns)
        if r.wait_write:
            return section_begin(m, sem, cpu, task, S_WRITE_QUEUE, t_ns)
        # other readers have come in meanwhile: join them
        if sem.owner_flags & READER_OWNED and sem.owner != r.spin_owner and spin_try(m, sem, task):
            return spin_won(m, sem, cpu, task, line_rmw(m, &sem.line, cpu, t_ns, 1, -1))
        return section_begin(m, sem, cpu, task, S_READ_QUEUE, t_ns)
    p.spin_prev = <int16_t> state
    p.ready_ns = t_ns
    r.phase = PH_RW_SPIN
    park_spinner(m, cpu, p.spin_end_ns if timed else INT64_MAX)
    return WAIT


# ---- the interface ---------------------------------------------------------------------------------
cdef int64_t down_read(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """down_read(): returns when the task holds it for reading, or WAIT."""
    cdef TaskRec *r = &m.tasks[task]
    cdef RwSem *sem = sem_of(m, r)
    cdef int64_t count
    t_ns = sem_rmw(m, sem, cpu, t_ns)
    sem.count += READER_BIAS
    count = sem.count
    if count > 0 and not count & READ_FAILED:
        set_reader_owned(m, sem, task, t_ns)
        return acquired(m, sem, cpu, task, t_ns)
    r.contended = 1
    r.biased = 1
    account(m, cpu, t_ns, ACC_LOCK_LINE)
    t_ns += m.costs.rwsem_slow_ns
    if m.traits.rwsem_reader_spin:
        r.spin_owner = sem.owner if sem.owner_flags & READER_OWNED else 0
        if can_spin_on_owner(m, sem, cpu, READER_NONSPINNABLE, t_ns):
            sem.count -= READER_BIAS
            r.biased = 0
            return osq_lock(m, sem, cpu, task, sem_rmw(m, sem, cpu, t_ns))
        return section_begin(m, sem, cpu, task, S_READ_QUEUE, t_ns)
    if not (sem.owner_flags & READER_OWNED and count >> READER_SHIFT > 1 and not count & WRITER_LOCKED) \
            and m.traits.rwsem_steal and not count & (WRITER_LOCKED | FLAG_HANDOFF):
        set_reader_owned(m, sem, task, t_ns)
        if count >> READER_SHIFT == 1 and count & FLAG_WAITERS:
            return section_begin(m, sem, cpu, task, S_READ_STOLE, t_ns)
        return acquired(m, sem, cpu, task, t_ns)
    return section_begin(m, sem, cpu, task, S_READ_QUEUE, t_ns)


cdef int64_t down_read_trylock(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """down_read_trylock(): the answer is in the task's `res`."""
    cdef RwSem *sem = sem_of(m, &m.tasks[task])
    t_ns = sem_rmw(m, sem, cpu, t_ns)
    m.w.tasks[task].res = 0
    m.tasks[task].waiting = 0
    if sem.count >= 0 and not sem.count & READ_FAILED:
        sem.count += READER_BIAS
        set_reader_owned(m, sem, task, t_ns)
        acquired(m, sem, cpu, task, t_ns)
        m.w.tasks[task].res = 1
    return t_ns


cdef int64_t wake(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    """rwsem_wake(). Before 5.2 it leaves that to the spinners, if there are any, rather than wait for the wait_lock."""
    cdef SpinLock *lock = &sem.wait_lock
    account(m, cpu, t_ns, ACC_LOCK_LINE)
    if m.traits.rwsem_xadd and sem.osq_tail and (lock.locked or lock.pending or lock.tail):
        return t_ns
    return section_begin(m, sem, cpu, task, S_WAKE, t_ns)


cdef int64_t up_read(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """up_read(): the last reader out wakes the front of the queue."""
    cdef TaskRec *r = &m.tasks[task]
    cdef RwSem *sem = sem_of(m, r)
    stat_released(m, r.wait_class, 0, t_ns - r.held_ns[r.wait_class])
    t_ns = sem_rmw(m, sem, cpu, t_ns)
    sem.count -= READER_BIAS
    if not sem.count & LOCK_MASK:
        if sem.count & FLAG_WAITERS:
            clear_nonspinnable(sem)
            rwsem_kick(m, sem, t_ns)
            return wake(m, sem, cpu, task, t_ns)
        rwsem_kick(m, sem, t_ns)
    return t_ns


cdef int64_t down_write(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """down_write(): returns when the task holds it for writing, or WAIT."""
    cdef TaskRec *r = &m.tasks[task]
    cdef RwSem *sem = sem_of(m, r)
    t_ns = sem_rmw(m, sem, cpu, t_ns)
    if not sem.count & (LOCK_MASK if m.traits.rwsem_xadd else ~<int64_t> 0):
        sem.count |= WRITER_LOCKED
        return write_acquired(m, sem, cpu, task, t_ns)
    r.contended = 1
    account(m, cpu, t_ns, ACC_LOCK_LINE)
    t_ns += m.costs.rwsem_slow_ns
    if m.traits.rwsem_xadd:
        sem.count += READER_BIAS                # active to all others until it has undone that
        r.phase = PH_RW_UNDO
        cpu_at(m, cpu, t_ns)
        return WAIT
    return down_write_slow(m, sem, cpu, task, t_ns)


cdef int64_t down_write_slow(Mach *m, RwSem *sem, int cpu, int task, int64_t t_ns) noexcept nogil:
    """rwsem_down_write_slowpath()"""
    cdef TaskRec *r = &m.tasks[task]
    if can_spin_on_owner(m, sem, cpu, NONSPINNABLE, t_ns):
        r.saw_nonspinnable = sem.owner_flags & READER_NONSPINNABLE
        return osq_lock(m, sem, cpu, task, t_ns)
    return section_begin(m, sem, cpu, task, S_WRITE_QUEUE, t_ns)


cdef int64_t up_write(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """up_write(): wakes the front of the queue, even if a spinner steals the lock meanwhile."""
    cdef TaskRec *r = &m.tasks[task]
    cdef RwSem *sem = sem_of(m, r)
    stat_released(m, r.wait_class, 1, t_ns - r.held_ns[r.wait_class])
    write_dropped(m, r)
    t_ns = sem_rmw(m, sem, cpu, t_ns)
    sem.owner = 0
    sem.owner_flags = 0
    sem.count -= WRITER_LOCKED
    rwsem_kick(m, sem, t_ns)
    if sem.count & FLAG_WAITERS and not (m.traits.rwsem_xadd and sem.count & LOCK_MASK):
        return wake(m, sem, cpu, task, t_ns)
    return t_ns


cdef int64_t downgrade_write(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """downgrade_write(): the writer becomes a reader and lets queued readers in with it."""
    cdef TaskRec *r = &m.tasks[task]
    cdef RwSem *sem = sem_of(m, r)
    stat_released(m, r.wait_class, 1, t_ns - r.held_ns[r.wait_class])
    write_dropped(m, r)
    t_ns = sem_rmw(m, sem, cpu, t_ns)
    sem.count += READER_BIAS - WRITER_LOCKED
    set_reader_owned(m, sem, task, t_ns)
    r.held_ns[r.wait_class] = t_ns
    if sem.count & FLAG_WAITERS:
        account(m, cpu, t_ns, ACC_LOCK_LINE)
        return section_begin(m, sem, cpu, task, S_DOWNGRADE, t_ns)
    return t_ns


cdef int64_t rwsem_request(Mach *m, int cpu, int task, int req, int64_t t_ns) noexcept nogil:
    if req == REQ_DOWN_READ:
        return down_read(m, cpu, task, t_ns)
    if req == REQ_UP_READ:
        return up_read(m, cpu, task, t_ns)
    if req == REQ_DOWN_WRITE:
        return down_write(m, cpu, task, t_ns)
    if req == REQ_UP_WRITE:
        return up_write(m, cpu, task, t_ns)
    if req == REQ_DOWN_READ_TRYLOCK:
        return down_read_trylock(m, cpu, task, t_ns)
    return downgrade_write(m, cpu, task, t_ns)


cdef int64_t rwsem_event(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """Carries on a task in one of the PH_RW phases; returns as the function it is in would have."""
    cdef TaskRec *r = &m.tasks[task]
    cdef RwSem *sem = sem_of(m, r)
    if r.phase == PH_RW_SECTION:
        return section_run(m, sem, cpu, task, t_ns)
    if r.phase == PH_RW_SPIN:
        return spin(m, sem, cpu, task, t_ns)
    if r.phase == PH_RW_OSQ:
        account(m, cpu, t_ns, spin_state(r))
        return osq_leave(m, sem, cpu, task, t_ns)
    if r.phase == PH_RW_HANDOFF:
        return handoff_spin(m, sem, cpu, task, t_ns)
    if r.phase == PH_RW_UNDO:
        t_ns = sem_rmw(m, sem, cpu, t_ns)
        sem.count -= READER_BIAS
        rwsem_kick(m, sem, t_ns)
        return down_write_slow(m, sem, cpu, task, t_ns)
    # PH_RW_BLOCK
    if r.granted:
        t_ns = max(t_ns, r.ready_ns)
        account(m, cpu, t_ns, spin_state(r))
        return acquired(m, sem, cpu, task, t_ns)
    if r.woken and r.wait_write:
        if not (m.traits.rwsem_xadd and sem.count & LOCK_MASK):
            return section_begin(m, sem, cpu, task, S_WRITE_TRY, t_ns)
        r.woken = 0                             # looks before it takes the wait_lock, and sleeps on
    sched_sleep(m, cpu, t_ns, spin_state(r) + 1)
    return WAIT
