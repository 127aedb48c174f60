# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The page lock (specification 6.2): PG_locked in the page's flags, sleepers in 256 hashed wait queues.

Unlocking wakes one exclusive waiter, who must still win the bit; after `page_unfairness` lost tries a waiter
queues as one to whom the bit is handed directly. Who only waits for the bit to clear is woken with the first exclusive
waiter and takes nothing. Unrelated pages may share a queue; each queue has a spinlock.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from fastmlock.machine.core cimport account, cpu_at, line_owner, line_rmw, stat_acquired, stat_released
from fastmlock.machine.sched cimport sched_sleep, wake_up
from fastmlock.machine.spinlock cimport queued_spin_lock, queued_spin_unlock
from fastmlock.machine.types cimport (ACC_PAGE_LINE, ACC_PAGE_SLEEP, ACC_PAGE_SPIN, ACC_SWITCH,
                                      PH_PAGE_BLOCK, PH_PAGE_SECTION, WAIT, Mach, TaskRec, WaitQueue)
from fastmlock.machine.waitlist cimport wait_add, wait_del
from fastmlock.state.types cimport LK_PAGE, PG_locked, PG_waiters

cdef enum Section:
    S_QUEUE = 0
    S_WAKE = 1


cdef inline WaitQueue *queue_of(Mach *m, uint32_t page) noexcept nogil:
    """page_waitqueue(): by the golden-ratio hash of the page's address (64 bytes a page)."""
    return &m.queues[(<uint64_t> page * 64 * 0x61C8864680B583EBULL) >> 56]


cdef inline int64_t page_rmw(Mach *m, uint32_t page, int cpu, int64_t t_ns) noexcept nogil:
    return line_rmw(m, &m.pages[page], cpu, t_ns, 1, m.w.pages[page].node)


cdef int64_t page_acquired(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    cdef TaskRec *r = &m.tasks[task]
    r.waiting = 0
    if not r.wait_write:
        return t_ns
    stat_acquired(m, LK_PAGE, 1, line_owner(m.pages[r.wait_obj]) != cpu, r.contended, t_ns - r.wait_ns)
    r.held_ns[<int> LK_PAGE] = t_ns
    return t_ns


cdef inline bint try_lock(Mach *m, TaskRec *r) noexcept nogil:
    """The bit is clear, and who wants it has it now."""
    if m.w.pages[r.wait_obj].flags & PG_locked:
        return False
    if r.wait_write:
        m.w.pages[r.wait_obj].flags |= PG_locked
    return True


cdef int64_t section_begin(Mach *m, int cpu, int task, int section, int64_t t_ns) noexcept nogil:
    cdef TaskRec *r = &m.tasks[task]
    cdef WaitQueue *q = queue_of(m, r.wait_obj)
    r.section = section
    t_ns = queued_spin_lock(m, &q.lock, &q.lock.line, cpu, t_ns)
    if t_ns == WAIT:
        r.phase = PH_PAGE_SECTION
        return WAIT
    return section_run(m, cpu, task, t_ns)


cdef int64_t section_run(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    account(m, cpu, t_ns, ACC_PAGE_SPIN)
    if m.tasks[task].section == S_QUEUE:
        return queue(m, cpu, task, t_ns)
    return wake_page(m, cpu, task, t_ns)


cdef int64_t queue(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """Under the queue's lock: announce a waiter, try once more, else join the queue."""
    cdef TaskRec *r = &m.tasks[task]
    cdef WaitQueue *q = queue_of(m, r.wait_obj)
    t_ns = page_rmw(m, r.wait_obj, cpu, t_ns)
    m.w.pages[r.wait_obj].flags |= PG_waiters
    r.unfairness -= 1
    r.granted = 0
    r.woken = 0
    t_ns += m.costs.page_queue_ns
    if try_lock(m, r):
        page_acquired(m, cpu, task, t_ns)
        return queued_spin_unlock(m, &q.lock, &q.lock.line, cpu, t_ns)
    wait_add(m, &q.head, &q.tail, task)
    t_ns = queued_spin_unlock(m, &q.lock, &q.lock.line, cpu, t_ns)
    account(m, cpu, t_ns, ACC_PAGE_SPIN)
    r.phase = PH_PAGE_BLOCK
    cpu_at(m, cpu, t_ns)
    return WAIT


cdef int64_t wake_page(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """Under the queue's lock: wake who only waits for this page, up to and with the first who wants its lock, handing
    it the bit if it is owed."""
    cdef uint32_t page = m.tasks[task].wait_obj
    cdef WaitQueue *q = queue_of(m, page)
    cdef TaskRec *w
    cdef int next_waiter, waiter = q.head - 1
    cdef bint match = False
    while waiter >= 0:
        w = &m.tasks[waiter]
        next_waiter = w.wait_next - 1
        t_ns += m.costs.rwsem_scan_ns
        if w.wait_obj == page:
            match = True
            if w.wait_write and w.unfairness < 0:
                if not try_lock(m, w):
                    break
                w.granted = 1
                w.ready_ns = t_ns
            wait_del(m, &q.head, &q.tail, waiter)
            account(m, cpu, t_ns, ACC_PAGE_SPIN)
            t_ns = wake_up(m, waiter, t_ns)
            account(m, cpu, t_ns, ACC_SWITCH)
            if w.wait_write:
                break
        waiter = next_waiter
    if not match or not q.head:
        t_ns = page_rmw(m, page, cpu, t_ns)
        m.w.pages[page].flags &= ~<uint32_t> PG_waiters
    return queued_spin_unlock(m, &q.lock, &q.lock.line, cpu, t_ns)


cdef int64_t lock_page(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """lock_page(), which sets PG_locked; or, for a task with `wait_write` clear, wait_on_page_locked(). Returns when
    the task has what it wants, or WAIT."""
    cdef TaskRec *r = &m.tasks[task]
    t_ns = page_rmw(m, r.wait_obj, cpu, t_ns)
    if try_lock(m, r):
        return page_acquired(m, cpu, task, t_ns)
    r.contended = 1
    r.unfairness = m.traits.page_unfairness
    account(m, cpu, t_ns, ACC_PAGE_LINE)
    return section_begin(m, cpu, task, S_QUEUE, t_ns + m.costs.page_slow_ns)


cdef int64_t unlock_page(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """unlock_page(): clears PG_locked and, if somebody may wait, looks into the queue."""
    cdef TaskRec *r = &m.tasks[task]
    stat_released(m, LK_PAGE, 1, t_ns - r.held_ns[<int> LK_PAGE])
    t_ns = page_rmw(m, r.wait_obj, cpu, t_ns)
    m.w.pages[r.wait_obj].flags &= ~<uint32_t> PG_locked
    if not m.w.pages[r.wait_obj].flags & PG_waiters:
        return t_ns
    account(m, cpu, t_ns, ACC_PAGE_LINE)
    return section_begin(m, cpu, task, S_WAKE, t_ns)


cdef int64_t pagelock_event(Mach *m, int cpu, int task, int64_t t_ns) noexcept nogil:
    """Carries on a task in one of the PH_PAGE phases."""
    cdef TaskRec *r = &m.tasks[task]
    if r.phase == PH_PAGE_SECTION:
        return section_run(m, cpu, task, t_ns)
    if not r.woken:
        sched_sleep(m, cpu, t_ns, ACC_PAGE_SLEEP)
        return WAIT
    if r.granted or not r.wait_write:
        t_ns = max(t_ns, r.ready_ns)
        account(m, cpu, t_ns, ACC_PAGE_SPIN)
        return page_acquired(m, cpu, task, t_ns)
    t_ns = page_rmw(m, r.wait_obj, cpu, t_ns)
    account(m, cpu, t_ns, ACC_PAGE_LINE)
    if try_lock(m, r):
        return page_acquired(m, cpu, task, t_ns)
    return section_begin(m, cpu, task, S_QUEUE, t_ns + m.costs.page_slow_ns)
