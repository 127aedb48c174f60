# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The loop of a timed run: takes the earliest event of all cpus and carries its task on.

A task's life is: call the flow; let the work it counted and the page lines it touched pass as time; perform
its request at the time then reached; call the flow again once it is granted. flow_step() does its work at
the start of a segment and the segment's time passes after it, so a lock is held exactly for the work done
between taking it and giving it back.
"""
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from fastmlock.flows.prefetch cimport prefetch_task, prefetch_work, prefetch_zap
from fastmlock.flows.step cimport flow_fn, flow_table, step_with
from fastmlock.machine.core cimport (account, charge, cpu_at, fill, latency, line_move, line_owner,
                                     stat_acquired, stat_released)
from fastmlock.machine.pagelock cimport lock_page, pagelock_event, unlock_page
from fastmlock.machine.queue cimport queue_again
from fastmlock.machine.rwsem cimport rwsem_event, rwsem_request
from fastmlock.machine.rwsem_whatif cimport whatif_event, whatif_request
from fastmlock.machine.sched cimport need_resched, resched_at, sched_out, sched_pick, sched_tick, sched_yield
from fastmlock.machine.spinlock cimport queued_spin_lock, queued_spin_unlock
from fastmlock.machine.types cimport *
from fastmlock.machine.watchdog cimport watchdog
from fastmlock.state.prefetch cimport prefetch
from fastmlock.state.types cimport (ERR_DEADLOCK, LK_LRU, LK_PTL, REQ_DELAY, REQ_DONE, REQ_DOWNGRADE,
                                    REQ_DOWN_READ, REQ_DOWN_READ_TRYLOCK, REQ_ERROR, REQ_EXIT,
                                    REQ_LOCK_PAGE, REQ_RESCHED, REQ_SPIN_LOCK, REQ_SPIN_UNLOCK,
                                    REQ_UNLOCK_PAGE, REQ_UP_READ, REQ_UP_WRITE, REQ_WAIT_PAGE, REQ_WORK, Task, World)


cdef flow_fn *FLOWS = flow_table()

cdef enum:
    PREFETCH_LINES = 20     # the streamer follows accesses in either direction, up to 20 lines ahead (Intel
                            # optimization manual, data prefetching); a page record is a line


cdef inline int64_t touches_time(Mach *m, World *w, Cpu *p, int cpu, int64_t t_ns) noexcept nogil:
    """When the lines of the pages just logged are written, one after another from `t_ns` on: what line_rmw() does to
    each; but one near the page touched before, from memory or (if the machine knows what that takes) from another cpu,
    was on its way. What the loop needs of the machine is read before it: the compiler cannot know that no line is a
    part of it."""
    cdef Line *pages = m.pages
    cdef int64_t *evicted_ns = m.evicted_ns
    cdef uint64_t *touch = w.touch
    cdef uint64_t *end = touch + w.nr_touch
    cdef int64_t atomic_ns = m.costs.atomic_ns
    cdef int64_t last = p.last_page
    cdef int64_t page, busy_ns, waits_ns
    cdef int fills = p.fills, came = 0
    cdef int owner
    cdef Line line
    w.nr_touch = 0
    w.last_touch = 0
    while touch < end:
        page = <int64_t> (touch[0] >> 32)
        line = pages[page]
        owner = line_owner(line)
        busy_ns = line >> CPU_BITS
        if busy_ns >= evicted_ns[line & CPU_MASK]:
            waits_ns = busy_ns - t_ns
            t_ns = max(t_ns, busy_ns)
            if owner != cpu:
                t_ns += m.row_ns if m.row_ns and near(page, last) else line_move(m, owner, cpu, waits_ns)
                came += 1
                fills = fill(m, p, cpu, fills, t_ns)
        else:
            if near(page, last):
                t_ns += m.costs.prefetch_ns
            else:
                t_ns = max(t_ns, busy_ns) + m.memory_ns[m.cpu_node[cpu] * m.nr_nodes + w.pages[page].node]
            came += 1
            fills = fill(m, p, cpu, fills, t_ns)
        t_ns += <int64_t> <uint32_t> touch[0] * atomic_ns
        pages[page] = (t_ns << CPU_BITS) | (cpu + 1)
        last = page
        touch += 1
    p.last_page = last
    p.fills = fills
    m.clock.transfers += came
    return t_ns


cdef inline bint near(int64_t page, int64_t last) noexcept nogil:
    return page != last and -PREFETCH_LINES <= page - last <= PREFETCH_LINES


cdef inline int64_t segment_time(Mach *m, World *w, Cpu *p, int cpu, int64_t t_ns) noexcept nogil:
    """When the work and the touches that the flow has just logged are over. Clears them."""
    cdef int64_t *acct = &m.acct[cpu * NR_ACCOUNTS]
    cdef int64_t ps = w.spent_ps
    if ps:
        w.spent_ps = 0
        t_ns += <int64_t> (<uint64_t> (ps + 500) / 1000)
        charge(p, acct, t_ns, ACC_WORK)
    if w.nr_touch:
        t_ns = touches_time(m, w, p, cpu, t_ns)
        charge(p, acct, t_ns, ACC_PAGE_LINE)
    return t_ns


# ---- spinlocks as requests -------------------------------------------------------------------------
cdef inline int spin_account(int lock_class) noexcept nogil:
    if lock_class == LK_LRU:
        return ACC_LRU_SPIN
    return ACC_PTL_SPIN if lock_class == LK_PTL else ACC_OTHER_SPIN


cdef inline int64_t lruvec_line(Mach *m, int cpu, int owner, int64_t t_ns) noexcept nogil:
    """Whoever takes lru_lock from another cpu next needs the line before it: struct lruvec begins with the list
    heads, and its sizes follow the lock; the last holder has written them."""
    if owner < 0 or owner == cpu:
        return t_ns
    m.clock.transfers += 1
    t_ns += latency(m, owner, cpu)
    account(m, cpu, t_ns, ACC_LOCK_LINE)
    return t_ns


cdef inline int64_t spin_lock(Mach *m, int cpu, TaskRec *r, int64_t t_ns) noexcept nogil:
    cdef SpinLock *lock = &m.spins[r.wait_class][r.wait_obj]
    cdef int owner = line_owner(lock.line)
    cdef bint bounced = owner != cpu
    cdef int64_t got_ns
    r.spin_depth += 1
    got_ns = queued_spin_lock(m, lock, &lock.line, cpu, t_ns)
    if got_ns == WAIT:
        r.phase = PH_SPIN
        return WAIT
    r.waiting = 0
    lock.held_ns = got_ns
    stat_acquired(m, r.wait_class, 1, bounced, False, 0)
    account(m, cpu, got_ns, ACC_LOCK_LINE)
    if r.wait_class == LK_LRU:
        r.irqs_off += 1
        got_ns = lruvec_line(m, cpu, owner, got_ns)
    return got_ns


cdef inline void prefetch_waiters(Mach *m, SpinLock *lock) noexcept nogil:
    """Who comes next is known where there is a queue. Of the third in it, its cpu is fetched; of the second, whom that
    cpu has led to: its task; of the first, what it works on."""
    cdef int cpu = lock.head - 1
    cdef int task, i
    if cpu < 0:
        return
    prefetch_work(m.w, m.cpus[cpu].curr - 1)
    for i in range(-2, 3):          # 8 lines of neighbours in each: its batch, and what it unmaps next
        prefetch(&m.pages[m.cpus[cpu].last_page + 8 * i])
    cpu = m.cpus[cpu].mcs_next - 1
    if cpu < 0:
        return
    task = m.cpus[cpu].curr - 1
    prefetch_task(m.w, task, cpu)
    prefetch(&m.tasks[task])
    prefetch(<char *>&m.tasks[task] + 64)
    prefetch(&m.acct[cpu * NR_ACCOUNTS])
    cpu = m.cpus[cpu].mcs_next - 1
    if cpu >= 0:
        prefetch(&m.cpus[cpu])
        prefetch(<char *>&m.cpus[cpu] + 64)


cdef inline int64_t spin_granted(Mach *m, int cpu, TaskRec *r, int64_t t_ns) noexcept nogil:
    r.waiting = 0
    m.spins[r.wait_class][r.wait_obj].held_ns = t_ns
    stat_acquired(m, r.wait_class, 1, True, True, t_ns - r.wait_ns)
    account(m, cpu, t_ns, spin_account(r.wait_class))
    if r.wait_class == LK_LRU:
        prefetch_waiters(m, &m.spins[r.wait_class][r.wait_obj])
        prefetch_zap(m.w, m.cpus[cpu].curr - 1)
        r.irqs_off += 1
        t_ns = lruvec_line(m, cpu, m.cpus[cpu].granted_by, t_ns)
    return t_ns


cdef inline int64_t spin_unlock(Mach *m, int cpu, TaskRec *r, int64_t t_ns) noexcept nogil:
    cdef SpinLock *lock = &m.spins[r.wait_class][r.wait_obj]
    stat_released(m, r.wait_class, 1, t_ns - lock.held_ns)
    r.spin_depth -= 1
    r.irqs_off -= r.wait_class == LK_LRU
    t_ns = queued_spin_unlock(m, lock, &lock.line, cpu, t_ns)
    account(m, cpu, t_ns, ACC_LOCK_LINE)
    return t_ns


# ---- delays and the end ----------------------------------------------------------------------------
cdef int64_t delay(Mach *m, int cpu, TaskRec *r, int64_t t_ns) noexcept nogil:
    """Plain work until delay_end_ns. Without a spinlock held it may be preempted like a user's program."""
    cdef int64_t end_ns
    if t_ns >= r.delay_end_ns:
        return t_ns
    r.phase = PH_DELAY
    if need_resched(m, cpu, t_ns):
        sched_yield(m, cpu, t_ns)
        return WAIT
    end_ns = resched_at(m, cpu)
    cpu_at(m, cpu, end_ns if end_ns < r.delay_end_ns else r.delay_end_ns)
    return WAIT


cdef void task_over(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    cdef TaskRec *r = &m.tasks[task]
    r.state = TASK_DEAD
    r.exit_ns = t_ns
    m.clock.live -= 1
    sched_out(m, cpu, t_ns, ACC_IDLE)


cdef int64_t request(Mach *m, int cpu, int task, int req, int64_t t_ns) noexcept nogil:
    """Performs the task's request at `t_ns`; returns when the task goes on, or WAIT."""
    cdef TaskRec *r = &m.tasks[task]
    cdef Task *t = &m.w.tasks[task]
    cdef int64_t end_ns
    if req == REQ_DELAY:
        end_ns = t_ns + t.req_arg
        if r.spin_depth:
            account(m, cpu, end_ns, ACC_WORK)
            return end_ns
        r.delay_end_ns = end_ns
        return delay(m, cpu, r, t_ns)
    if req == REQ_WORK:
        return t_ns
    if req == REQ_RESCHED:
        m.cpus[cpu].touch_ns = t_ns
        if need_resched(m, cpu, t_ns):
            r.phase = PH_STEP
            sched_yield(m, cpu, t_ns)
            return WAIT
        return t_ns
    if req == REQ_DONE or req == REQ_EXIT:
        task_over(m, cpu, task, t_ns)
        return WAIT
    r.wait_class = t.req_class
    r.wait_obj = t.req_obj
    if req == REQ_SPIN_UNLOCK:
        return spin_unlock(m, cpu, r, t_ns)
    r.wait_write = (req != REQ_DOWN_READ and req != REQ_UP_READ and req != REQ_DOWN_READ_TRYLOCK
                    and req != REQ_WAIT_PAGE)
    if req != REQ_UP_READ and req != REQ_UP_WRITE and req != REQ_DOWNGRADE and req != REQ_UNLOCK_PAGE:
        r.waiting = 1
        r.wait_ns = t_ns
        r.contended = 0
    if req == REQ_SPIN_LOCK:
        return spin_lock(m, cpu, r, t_ns)
    if req == REQ_LOCK_PAGE or req == REQ_WAIT_PAGE:
        end_ns = lock_page(m, cpu, task, t_ns)
    elif req == REQ_UNLOCK_PAGE:
        end_ns = unlock_page(m, cpu, task, t_ns)
    elif not REQ_DOWN_READ <= req <= REQ_DOWN_READ_TRYLOCK:
        m.clock.error = 1
        return WAIT
    elif m.traits.rwsem_bias | m.traits.i_mmap_split:
        end_ns = whatif_request(m, cpu, task, req, t_ns)
    else:
        end_ns = rwsem_request(m, cpu, task, req, t_ns)
    if end_ns != WAIT:
        account(m, cpu, end_ns, ACC_PAGE_LINE if req == REQ_LOCK_PAGE or req == REQ_UNLOCK_PAGE
                else ACC_LOCK_LINE)
    return end_ns


cdef inline int64_t cpu_event(Mach *m, int cpu, int64_t t_ns, int64_t limit_ns, int64_t last) noexcept nogil:
    """One event of one cpu, and what follows from it without time passing; the same cpu's next ones too as long as they
    come before those of all others, `limit_ns` and event `last`. Returns the key of the next event of all.

    Which cpu is next is decided by a branch, not read from the queue, so that a processor can guess it and begin.
    """
    cdef World *w = m.w
    cdef Cpu *p = &m.cpus[cpu]
    cdef int task = p.curr - 1
    cdef TaskRec *r
    cdef Task *t
    cdef int64_t end_ns, key, rival
    cdef int req
    if task < 0:
        sched_pick(m, cpu, t_ns)
        return m.queue.tree[1]
    r = &m.tasks[task]
    t = &w.tasks[task]
    if t_ns >= p.tick_ns and not r.irqs_off and (r.phase <= PH_REQ or r.phase == PH_DELAY):
        cpu_at(m, cpu, sched_tick(m, cpu, t_ns))
        return m.queue.tree[1]
    if r.phase != PH_STEP:
        t_ns = resume(m, cpu, task, r, t_ns)
        if t_ns == WAIT:
            return m.queue.tree[1]
    # an unlock is only a store: the cpu runs on, a moment later
    while True:
        req = step_with(FLOWS, w, t)
        if req == REQ_ERROR:
            m.clock.error = 1
            return m.queue.tree[1]
        end_ns = segment_time(m, w, p, cpu, t_ns)
        if end_ns > t_ns:
            key = end_ns << CPU_BITS | cpu
            rival = queue_again(&m.queue, key)
            if req != REQ_WORK:
                r.phase = PH_REQ
                return rival if key > rival else key
            r.phase = PH_STEP
            if key > rival:
                return rival
            if end_ns >= limit_ns or end_ns >= p.tick_ns or m.clock.events >= last:
                return key
            m.clock.now_ns = end_ns
            m.clock.events += 1
            t_ns = end_ns
            continue
        m.clock.events += 1
        end_ns = request(m, cpu, task, req, t_ns)
        if end_ns == WAIT:
            return m.queue.tree[1]
        r.phase = PH_STEP
        if end_ns > t_ns and req != REQ_SPIN_UNLOCK:
            cpu_at(m, cpu, end_ns)
            return m.queue.tree[1]
        t_ns = end_ns


cdef int64_t resume(Mach *m, int cpu, int task, TaskRec *r, int64_t t_ns) noexcept nogil:
    """The event of a cpu whose task was in a request; returns when the task goes on, or WAIT if it does so later."""
    cdef int phase = r.phase
    cdef int64_t end_ns = t_ns
    cdef int req
    if phase == PH_REQ:
        req = m.w.tasks[task].req
        end_ns = request(m, cpu, task, req, t_ns)
        if end_ns == WAIT:
            return WAIT
        if req == REQ_SPIN_UNLOCK:
            r.phase = PH_STEP
            return end_ns
    elif phase == PH_SPIN:
        end_ns = spin_granted(m, cpu, r, t_ns)
    elif phase == PH_DELAY:
        account(m, cpu, t_ns, ACC_WORK)
        return delay(m, cpu, r, t_ns)
    else:
        if phase >= PH_PAGE_SECTION:
            end_ns = pagelock_event(m, cpu, task, t_ns)
        elif m.traits.rwsem_bias | m.traits.i_mmap_split:
            end_ns = whatif_event(m, cpu, task, t_ns)
        else:
            end_ns = rwsem_event(m, cpu, task, t_ns)
        if end_ns == WAIT:
            return WAIT
        account(m, cpu, end_ns, ACC_LOCK_LINE)
    r.phase = PH_STEP
    if end_ns > t_ns:
        cpu_at(m, cpu, end_ns)
        return WAIT
    return end_ns


cdef bint pause(Mach *m, int64_t key, int64_t until_ns) noexcept nogil:
    """Nothing happens before the watchdogs look or the run ends: looks, or says that it ends."""
    if key == INT64_MAX:
        if m.clock.live:
            m.w.error = ERR_DEADLOCK
            m.clock.error = 1
        return True
    if key >> CPU_BITS >= m.clock.next_sample_ns and m.clock.next_sample_ns <= until_ns:
        watchdog(m, m.clock.next_sample_ns)
        return False
    return True


cdef int64_t engine_run(Mach *m, int64_t until_ns, int64_t max_events) noexcept nogil:
    """Runs all events up to and including `until_ns`, at most about `max_events`; returns how many.

    Stops early when nothing is left to happen. clock.error is then set if a task still waits.
    """
    cdef Clock *clock = m.clock
    cdef int64_t begin = clock.events
    cdef int64_t last = begin + min(max_events, INT64_MAX - begin)
    cdef int64_t key = m.queue.tree[1]
    cdef int64_t limit_ns = min(clock.next_sample_ns, until_ns + (until_ns < INT64_MAX))
    cdef int64_t t_ns
    while clock.events < last and not clock.error:
        t_ns = key >> CPU_BITS
        if t_ns >= limit_ns:
            if pause(m, key, until_ns):
                break
            key = m.queue.tree[1]
            limit_ns = min(clock.next_sample_ns, until_ns + (until_ns < INT64_MAX))
            continue
        clock.now_ns = t_ns
        clock.events += 1
        key = cpu_event(m, <int> (key & CPU_MASK), t_ns, limit_ns, last)
    return clock.events - begin
