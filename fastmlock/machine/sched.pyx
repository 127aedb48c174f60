# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The scheduler: one FIFO run queue per cpu, slices, sleeping and waking. Tasks stay on their cpu.

A task gives up its cpu when it sleeps, ends, or reaches a reschedule point with its slice over and another
task ready. A woken task shortens the running one's slice to the wake-up granularity. A cpu with nothing to
run has no event; a wake-up gives it one after the wake-up latency (interrupt, leaving idle, switching).
"""
from libc.stdint cimport INT64_MAX, int64_t, uint32_t
from fastmlock.machine.core cimport account, cpu_at, cpu_before, cpu_next, cpu_park, cpu_parked
from fastmlock.machine.cpuidle cimport idle_enter, idle_exit, next_tick
from fastmlock.machine.rwsem cimport rwsem_kick, spin_state
from fastmlock.machine.types cimport (ACC_IDLE, ACC_SWITCH, ACC_WORK, PH_DELAY, PH_RW_BLOCK, PH_RW_HANDOFF, PH_RW_OSQ, PH_RW_SPIN,
                                      TASK_RUNNABLE, TASK_RUNNING, TASK_UNINTERRUPTIBLE, Cpu, Mach,
                                      TaskRec)


cdef void enqueue(Mach *m, int task) noexcept nogil:
    cdef TaskRec *r = &m.tasks[task]
    cdef Cpu *p = &m.cpus[r.cpu]
    r.rq_next = 0
    if p.rq_tail:
        m.tasks[p.rq_tail - 1].rq_next = task + 1
    else:
        p.rq_head = task + 1
    p.rq_tail = task + 1
    p.nr_queued += 1


cdef int dequeue_ready(Mach *m, int cpu, int64_t t_ns) noexcept nogil:
    """Takes the first task that is ready at `t_ns` off the queue; -1 if there is none."""
    cdef Cpu *p = &m.cpus[cpu]
    cdef int task = p.rq_head - 1
    cdef int prev = -1
    while task >= 0 and m.tasks[task].ready_ns > t_ns:
        prev = task
        task = m.tasks[task].rq_next - 1
    if task < 0:
        return -1
    if prev < 0:
        p.rq_head = m.tasks[task].rq_next
    else:
        m.tasks[prev].rq_next = m.tasks[task].rq_next
    if p.rq_tail == task + 1:
        p.rq_tail = prev + 1
    p.nr_queued -= 1
    return task


cdef int64_t first_ready(Mach *m, int cpu) noexcept nogil:
    """The earliest time at which a queued task is ready; INT64_MAX if none is queued."""
    cdef int task = m.cpus[cpu].rq_head - 1
    cdef int64_t best_ns = INT64_MAX
    cdef int64_t now_ns = m.clock.now_ns
    while task >= 0:
        if m.tasks[task].ready_ns < best_ns:
            best_ns = m.tasks[task].ready_ns
            if best_ns <= now_ns:
                break
        task = m.tasks[task].rq_next - 1
    return best_ns


cdef void sched_start(Mach *m, int task, int64_t at_ns) noexcept nogil:
    """Puts a task that has a flow on its cpu's queue, ready at `at_ns`."""
    cdef TaskRec *r = &m.tasks[task]
    r.cpu = m.w.tasks[task].cpu
    r.start_ns = at_ns
    r.ready_ns = at_ns
    r.exit_ns = -1
    r.phase = 0
    r.state = TASK_RUNNABLE
    enqueue(m, task)
    m.clock.live += 1
    if m.cpus[r.cpu].curr == 0:
        cpu_before(m, r.cpu, at_ns)
    elif m.tasks[m.cpus[r.cpu].curr - 1].phase == PH_DELAY:
        cpu_before(m, r.cpu, max(m.cpus[r.cpu].slice_end_ns, at_ns))


cdef void sched_pick(Mach *m, int cpu, int64_t t_ns) noexcept nogil:
    """A cpu without a task looks at its queue."""
    cdef Cpu *p = &m.cpus[cpu]
    cdef int64_t ready_ns
    cdef int task
    account(m, cpu, t_ns, p.park_state)
    p.touch_ns = t_ns
    task = dequeue_ready(m, cpu, t_ns)
    if task < 0:
        p.park_state = p.idle_state
        if not p.asleep:
            idle_enter(m, cpu, t_ns)
        ready_ns = first_ready(m, cpu)
        if ready_ns == INT64_MAX:
            cpu_park(m, cpu)
        else:
            cpu_at(m, cpu, ready_ns)
        return
    if p.asleep:
        idle_exit(m, cpu, t_ns)
    p.tick_ns = next_tick(m, t_ns)
    p.curr = task + 1
    p.picked_ns = t_ns
    p.slice_end_ns = t_ns + m.costs.slice_ns
    m.tasks[task].state = TASK_RUNNING
    if m.tasks[task].phase == PH_DELAY:
        m.tasks[task].delay_end_ns += t_ns


cdef int64_t sched_tick(Mach *m, int cpu, int64_t t_ns) noexcept nogil:
    """The timer interrupts of a stretch of plain work, or one for all that came due in a kernel path or with interrupts
    off; returns when the task goes on."""
    cdef TaskRec *r = &m.tasks[m.cpus[cpu].curr - 1]
    cdef int64_t work_ns = m.costs.tick_work_ns
    if r.phase == PH_DELAY:
        account(m, cpu, t_ns, ACC_WORK)
        work_ns *= (t_ns - m.cpus[cpu].tick_ns) / m.costs.tick_ns + 1
        r.delay_end_ns += work_ns
    m.cpus[cpu].tick_ns = next_tick(m, t_ns)
    t_ns += work_ns
    account(m, cpu, t_ns, ACC_SWITCH)
    return t_ns


cdef void sched_out(Mach *m, int cpu, int64_t t_ns, int idle_state) noexcept nogil:
    """The current task leaves; the cpu looks at its queue after a context switch.

    Whoever spins on a rwsem because this task owns it and runs must learn that it no longer does.
    """
    cdef Cpu *p = &m.cpus[cpu]
    cdef TaskRec *r = &m.tasks[p.curr - 1]
    cdef int i
    for i in range(r.nr_write_held):
        rwsem_kick(m, &m.rwsems[r.write_held[i] >> 32][<uint32_t> r.write_held[i]], t_ns)
    r.switches += 1
    p.curr = 0
    p.park_state = ACC_SWITCH
    p.idle_state = idle_state
    cpu_at(m, cpu, t_ns + m.costs.switch_ns)


cdef void sched_sleep(Mach *m, int cpu, int64_t t_ns, int idle_state) noexcept nogil:
    """schedule() in uninterruptible sleep; the task's phase says what it does when woken."""
    cdef TaskRec *r = &m.tasks[m.cpus[cpu].curr - 1]
    r.state = TASK_UNINTERRUPTIBLE
    r.sleep_ns = t_ns
    sched_out(m, cpu, t_ns, idle_state)


cdef void sched_yield(Mach *m, int cpu, int64_t t_ns) noexcept nogil:
    """The current task goes to the end of the queue. Its phase says where it goes on."""
    cdef int task = m.cpus[cpu].curr - 1
    cdef TaskRec *r = &m.tasks[task]
    r.state = TASK_RUNNABLE
    r.ready_ns = t_ns
    if r.phase == PH_DELAY:
        r.delay_end_ns -= t_ns
    enqueue(m, task)
    sched_out(m, cpu, t_ns, ACC_IDLE)


cdef int64_t wake_up(Mach *m, int task, int64_t t_ns) noexcept nogil:
    """try_to_wake_up() by a cpu at `t_ns`; returns when the waker goes on.

    A task that is not asleep by then only learns that it must not go to sleep.
    """
    cdef TaskRec *r = &m.tasks[task]
    cdef Cpu *p = &m.cpus[r.cpu]
    cdef int phase
    cdef int64_t latency_ns
    if r.phase == PH_RW_BLOCK and r.state == TASK_RUNNING and cpu_next(m, r.cpu) < t_ns:
        sched_sleep(m, r.cpu, cpu_next(m, r.cpu), spin_state(r) + 1)
    r.woken = 1
    if r.state != TASK_UNINTERRUPTIBLE:
        return t_ns
    if m.traits.wake_off_cpu and p.curr == 0 and cpu_next(m, r.cpu) == r.sleep_ns + m.costs.switch_ns:
        t_ns = max(t_ns, cpu_next(m, r.cpu))
    r.state = TASK_RUNNABLE
    r.ready_ns = t_ns
    r.slept_ns += t_ns - r.sleep_ns
    enqueue(m, task)
    if p.curr == 0:
        if p.park_state != ACC_SWITCH:          # idle, or idle until somebody is ready
            latency_ns = m.costs.wake_latency_ns
            if cpu_parked(m, r.cpu):
                account(m, r.cpu, t_ns, p.park_state)
                p.park_state = ACC_SWITCH
            if p.asleep:
                latency_ns += idle_exit(m, r.cpu, t_ns)
            cpu_before(m, r.cpu, t_ns + latency_ns)
        elif cpu_next(m, r.cpu) <= t_ns:        # idle by then
            idle_enter(m, r.cpu, cpu_next(m, r.cpu))
            r.ready_ns = t_ns + m.costs.wake_latency_ns + idle_exit(m, r.cpu, t_ns)
    else:
        if p.picked_ns + m.costs.wake_granularity_ns < p.slice_end_ns:
            p.slice_end_ns = p.picked_ns + m.costs.wake_granularity_ns
        phase = m.tasks[p.curr - 1].phase
        if phase == PH_DELAY or phase == PH_RW_OSQ or phase == PH_RW_SPIN or phase == PH_RW_HANDOFF:
            cpu_before(m, r.cpu, t_ns if t_ns > p.slice_end_ns else p.slice_end_ns)
    return t_ns + m.costs.wake_ns
