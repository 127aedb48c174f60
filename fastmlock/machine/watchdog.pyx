# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The kernel's watchdogs (specification 6.5): soft lockup, rcu stall, hung task.

They look at fixed instants: the first two every 4 s (2/5 of watchdog_thresh), khungtaskd every 120 s. A cpu
on which something could have been scheduled since (a context switch, a reschedule point, idling, plain
preemptible work) is healthy. A hung task is one that sleeps uninterruptibly (and not killably) with the same number of
context switches at two looks at least 120 s apart, so a sleep is reported between 120 and 240 s after it began.
"""
from libc.stdint cimport int32_t, int64_t
from fastmlock.machine.types cimport (BATCH_KIND, MAX_REPORTS, PH_DELAY, PH_RW_HANDOFF, PH_RW_OSQ, REPORT_HUNG_TASK,
                                      REPORT_RCU_STALL, REPORT_SOFT_LOCKUP, TASK_UNINTERRUPTIBLE, Cpu, Mach,
                                      Report, TaskRec)
from fastmlock.flows.frame cimport F_ACCESS_REMOTE_VM, F_COLLAPSE, F_COLLAPSE_FILE, F_EXIT_MMAP, F_PVEC
from fastmlock.state.types cimport FRAMES, LK_MMAP, Task

cdef enum:
    HUNG_REPORTS = 10       # sysctl_hung_task_warnings


cdef void callstack(Mach *m, int task, int32_t *row) noexcept nogil:
    """What the task is doing: a row of fastmlock.machine.callstack."""
    cdef TaskRec *r = &m.tasks[task]
    cdef Task *t = &m.w.tasks[task]
    cdef int i
    for i in range(FRAMES):
        row[i] = t.stack[i].fn if i <= t.depth else -1
        if row[i] == F_PVEC:
            row[i] += BATCH_KIND * (1 + <int32_t> t.stack[i].b)
    row[FRAMES] = r.state
    row[FRAMES + 1] = r.phase
    row[FRAMES + 2] = r.wait_class
    row[FRAMES + 3] = r.wait_write
    row[FRAMES + 4] = r.waiting
    row[FRAMES + 5] = t.req


cdef void report(Mach *m, int kind, int task, int64_t t_ns, int64_t since_ns) noexcept nogil:
    cdef TaskRec *r = &m.tasks[task]
    cdef Task *t = &m.w.tasks[task]
    cdef Report *out
    if m.clock.nr_reports >= MAX_REPORTS:
        return
    out = &m.reports[m.clock.nr_reports]
    m.clock.nr_reports += 1
    out.time_ns = t_ns
    out.since_ns = since_ns
    out.kind = kind
    out.task = task
    out.cpu = r.cpu
    out.lock_class = r.wait_class if r.waiting else -1
    out.lock_obj = r.wait_obj if r.waiting else 0
    out.write = r.wait_write if r.waiting else 0
    callstack(m, task, out.callstack)


cdef void check_cpus(Mach *m, int64_t t_ns) noexcept nogil:
    """watchdog_timer_fn() and rcu's check of each cpu."""
    cdef Cpu *p
    cdef TaskRec *r
    cdef int cpu
    for cpu in range(m.nr_cpus):
        p = &m.cpus[cpu]
        if not p.curr:
            continue
        r = &m.tasks[p.curr - 1]
        if r.phase == PH_DELAY or PH_RW_OSQ <= r.phase <= PH_RW_HANDOFF:
            p.touch_ns = t_ns           # it would give way to the watchdog's own task
            continue
        if t_ns - max(p.touch_ns, p.lockup_ns) > m.costs.soft_lockup_ns:
            report(m, REPORT_SOFT_LOCKUP, p.curr - 1, t_ns, p.touch_ns)
            p.lockup_ns = t_ns
        if (t_ns - p.touch_ns >= m.costs.rcu_stall_ns if p.stall_ns <= p.touch_ns
                else t_ns - p.stall_ns >= 3 * m.costs.rcu_stall_ns):
            report(m, REPORT_RCU_STALL, p.curr - 1, t_ns, p.touch_ns)
            p.stall_ns = t_ns


cdef bint killable(TaskRec *r, Task *t) noexcept nogil:
    """It waits for a mmap_lock in a way that a fatal signal would end (TASK_KILLABLE): system calls that take it for
    write, and access_remote_vm(). Faults, populate, exit_mmap() and khugepaged do not wait so."""
    cdef int fn = t.stack[t.depth].fn if t.depth >= 0 else 0
    if not r.waiting or r.wait_class != LK_MMAP:
        return False
    if r.wait_write:
        return fn != F_EXIT_MMAP and fn != F_COLLAPSE and fn != F_COLLAPSE_FILE
    return fn == F_ACCESS_REMOTE_VM


cdef void check_tasks(Mach *m, int64_t t_ns) noexcept nogil:
    """check_hung_uninterruptible_tasks()"""
    cdef TaskRec *r
    cdef int task
    for task in range(m.nr_tasks):
        r = &m.tasks[task]
        if r.state != TASK_UNINTERRUPTIBLE or r.switches == 0 or killable(r, &m.w.tasks[task]):
            continue
        if r.switches != r.seen_switches:
            r.seen_switches = r.switches
            r.seen_ns = t_ns
        elif t_ns - r.seen_ns >= m.costs.hung_task_ns and m.clock.hung_reports < HUNG_REPORTS:
            m.clock.hung_reports += 1
            report(m, REPORT_HUNG_TASK, task, t_ns, r.sleep_ns)


cdef void watchdog(Mach *m, int64_t t_ns) noexcept nogil:
    """The looks due at `t_ns`, which is next_sample_ns."""
    cdef int64_t sample_ns = m.costs.watchdog_sample_ns
    if t_ns % sample_ns == 0:
        check_cpus(m, t_ns)
    if t_ns >= m.clock.next_hung_ns:
        check_tasks(m, t_ns)
        m.clock.next_hung_ns += m.costs.hung_task_ns
    m.clock.next_sample_ns = min((t_ns // sample_ns + 1) * sample_ns, m.clock.next_hung_ns)
