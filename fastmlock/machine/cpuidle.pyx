# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Idle states and the menu governor: how deep an idle cpu sleeps, and how long it takes to come back.

A machine lists its states from shallow to deep (Topology.idle_states), each with the time that leaving it takes and
the time for which it must last to be worth entering. The governor enters the deepest one that its guess of the idle
time makes worth while. It guesses the smaller of two: the mean of the last eight idle times, if they are alike or
become so without the longest one or two; and a running mean of all, in which the latest counts an eighth (the
governor keeps it as a ratio to the next timer, which none of our cpus has).

The shallowest state's exit is part of the cost `wake_latency`; deeper ones add what they take beyond it.
"""
from libc.stdint cimport INT64_MAX, int64_t
from fastmlock.machine.types cimport SLEEPS, Cpu, Mach


cdef int64_t typical_us(Cpu *p) noexcept nogil:
    """The mean of the last idle times where their deviation is below 20 us or a sixth of it; up to a quarter of them,
    the longest, may be left out for that. INT64_MAX where they are too different."""
    cdef int64_t limit = INT64_MAX, longest, total, mean, deviation
    cdef int i, n
    while True:
        longest = total = deviation = 0
        n = 0
        for i in range(SLEEPS):
            if p.slept_us[i] <= limit:
                n += 1
                total += p.slept_us[i]
                longest = max(longest, <int64_t> p.slept_us[i])
        mean = total / n
        for i in range(SLEEPS):
            if p.slept_us[i] <= limit:
                deviation += (p.slept_us[i] - mean) * (p.slept_us[i] - mean)
        deviation /= n
        if deviation <= 400 or (4 * n >= 3 * SLEEPS and mean * mean > 36 * deviation):
            return mean
        if 4 * n <= 3 * SLEEPS:
            return INT64_MAX
        limit = longest - 1


cdef int choose(Mach *m, Cpu *p, int64_t t_ns) noexcept nogil:
    """menu_select() at `t_ns`. A cpu that expects to idle for less than a tick keeps ticking, so that a deep state must
    be worth while before the next tick already."""
    cdef int64_t guess_ns = min(p.idle_mean_ns, 1000 * min(typical_us(p), FAR_NS / 1000))
    cdef int state = 0
    p.ticking = guess_ns < m.costs.tick_ns
    if p.ticking:
        guess_ns = min(guess_ns, next_tick(m, t_ns) - t_ns)
    while state + 1 < m.nr_idle and m.idle_residency_ns[state + 1] <= guess_ns:
        state += 1
    return state


cdef void learn(Cpu *p, int64_t slept_ns) noexcept nogil:
    p.idle_mean_ns += (slept_ns - p.idle_mean_ns) / 8
    p.slept_us[p.slept_at] = <int> (slept_ns / 1000)
    p.slept_at = (p.slept_at + 1) % SLEEPS


cdef void idle_enter(Mach *m, int cpu, int64_t t_ns) noexcept nogil:
    """The cpu has nothing to run from `t_ns` on."""
    cdef Cpu *p = &m.cpus[cpu]
    p.asleep = 1
    if m.nr_idle < 2:
        return
    p.idle_ns = t_ns
    p.idle_depth = choose(m, p, t_ns)


cdef int64_t idle_exit(Mach *m, int cpu, int64_t t_ns) noexcept nogil:
    """The cpu, idle until now, is woken: what leaving its state costs beyond the shallowest one's exit.

    What the ticks have changed since it went idle happens only here: a tick that finds it idle tells the governor of
    a long idle time (menu_update()), and it chooses anew.
    """
    cdef Cpu *p = &m.cpus[cpu]
    p.asleep = 0
    if m.nr_idle < 2:
        return 0
    while p.ticking and next_tick(m, p.idle_ns) < t_ns:
        learn(p, FAR_NS / 10 * 9)
        p.idle_ns = next_tick(m, p.idle_ns)
        p.idle_depth = choose(m, p, p.idle_ns)
    learn(p, min(max(t_ns - p.idle_ns, <int64_t> 0), <int64_t> FAR_NS))
    return m.idle_exit_ns[p.idle_depth] - m.idle_exit_ns[0]
