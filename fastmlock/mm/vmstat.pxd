# Counters: events as plain per-cpu sums, node and zone items with per-cpu differences that are folded when
# they pass a threshold. (mm/vmstat.c)
from libc.stdint cimport int32_t, int64_t
from fastmlock.state.types cimport *


cdef inline void count_event(World *w, int cpu, int event, int64_t n) noexcept nogil:
    w.events[cpu * NR_EVENTS + event] += n


cdef inline void mod_state(World *w, int cpu, int item, int n) noexcept nogil:
    cdef int32_t *diff = &w.stat_diff[cpu * NR_STATS + item]
    diff[0] += n
    if diff[0] > w.stat_threshold or diff[0] < -w.stat_threshold:
        w.stat[item] += diff[0]
        diff[0] = 0
