# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The bare event loop that the engine is compared with: the same queue of events, one FIFO lock handed from
CPU to CPU, and nothing else: no tasks, no costs, no lines, no statistics."""
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uintptr_t
from fastmlock.machine.queue cimport LEAST_WIDTH, queue_remove, queue_set
from fastmlock.machine.types cimport CPU_BITS, CPU_MASK, Queue, QueueSize

import numpy as np


cdef int64_t loop(Queue *q, int32_t *waiter, int places, int64_t events, int64_t hold_ns,
                  int64_t think_ns) noexcept nogil:
    cdef int64_t done = 0, acquired = 0, t_ns = 0
    cdef int cpu, head = 0, waiting = 0, holder = -1
    cdef int mask = places - 1
    while done < events:
        done += 1
        cpu = <int> (q.tree[1] & CPU_MASK)
        t_ns = q.tree[1] >> CPU_BITS
        if cpu != holder:                       # wants the lock
            if holder < 0:
                holder = cpu
                acquired += 1
                queue_set(q, (t_ns + hold_ns) << CPU_BITS | cpu)
            else:
                waiter[(head + waiting) & mask] = cpu
                waiting += 1
                queue_remove(q, cpu)
            continue
        queue_set(q, (t_ns + think_ns) << CPU_BITS | cpu)
        holder = -1
        if waiting:
            holder = waiter[head & mask]
            head = (head + 1) & mask
            waiting -= 1
            acquired += 1
            queue_set(q, (t_ns + hold_ns) << CPU_BITS | holder)
    return acquired


def bare_loop(int cpus, int64_t events, *, int64_t hold_ns=100, int64_t think_ns=100):
    """Runs `events` events of `cpus` CPUs over one lock; returns how often it was taken.

    Raises ValueError for fewer than 1 or more than 4094 CPUs.
    """
    cdef Queue q
    cdef QueueSize size
    cdef int32_t *waiter
    cdef int64_t acquired
    cdef int places
    if not 1 <= cpus <= 4094:
        raise ValueError(f"{cpus} CPUs: between 1 and 4094 are possible")
    places = 1 << (cpus - 1).bit_length()
    keys = np.full(4 * places, INT64_MAX, np.int64)
    slots = np.full(cpus, -1, np.int32)
    waiters = np.zeros(places, np.int32)
    size.width, size.used = LEAST_WIDTH, 0
    q.tree = <int64_t *><uintptr_t>keys.ctypes.data
    q.slot = <int32_t *><uintptr_t>slots.ctypes.data
    q.size = &size
    waiter = <int32_t *><uintptr_t>waiters.ctypes.data
    for cpu in range(cpus):
        queue_set(&q, cpu)
    with nogil:
        acquired = loop(&q, waiter, places, events, hold_ns, think_ns)
    return acquired
