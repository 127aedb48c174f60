# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The bare event loop that the engine is compared with: the same tournament tree, one FIFO lock handed from
CPU to CPU, and nothing else: no tasks, no costs, no lines, no statistics."""
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uintptr_t
from fastmlock.machine.core cimport tree_set
from fastmlock.machine.types cimport CPU_BITS, CPU_MASK

import numpy as np


cdef int64_t loop(int64_t *tree, int32_t *queue, int leaves, int cpus, int64_t events, int64_t hold_ns,
                  int64_t think_ns) noexcept nogil:
    cdef int64_t done = 0, acquired = 0, t_ns = 0
    cdef int cpu, head = 0, waiting = 0, holder = -1
    while done < events:
        done += 1
        cpu = <int> (tree[1] & CPU_MASK)
        t_ns = tree[1] >> CPU_BITS
        if cpu != holder:                       # wants the lock
            if holder < 0:
                holder = cpu
                acquired += 1
                tree_set(tree, leaves + cpu, (t_ns + hold_ns) << CPU_BITS | cpu)
            else:
                queue[(head + waiting) & (leaves - 1)] = cpu
                waiting += 1
                tree_set(tree, leaves + cpu, INT64_MAX)
            continue
        tree_set(tree, leaves + cpu, (t_ns + think_ns) << CPU_BITS | cpu)
        holder = -1
        if waiting:
            holder = queue[head & (leaves - 1)]
            head = (head + 1) & (leaves - 1)
            waiting -= 1
            acquired += 1
            tree_set(tree, leaves + holder, (t_ns + hold_ns) << CPU_BITS | holder)
    return acquired


def bare_loop(int cpus, int64_t events, *, int64_t hold_ns=100, int64_t think_ns=100):
    """Runs `events` events of `cpus` CPUs over one lock; returns how often it was taken.

    Raises ValueError for fewer than 1 or more than 4094 CPUs.
    """
    cdef int leaves
    cdef int64_t *tree
    cdef int32_t *queue
    cdef int64_t acquired
    if not 1 <= cpus <= 4094:
        raise ValueError(f"{cpus} CPUs: between 1 and 4094 are possible")
    leaves = 1 << (cpus - 1).bit_length()
    keys = np.full(2 * leaves, INT64_MAX, np.int64)
    waiters = np.zeros(leaves, np.int32)
    tree = <int64_t *><uintptr_t>keys.ctypes.data
    queue = <int32_t *><uintptr_t>waiters.ctypes.data
    for cpu in range(cpus):
        tree_set(tree, leaves + cpu, cpu)
    with nogil:
        acquired = loop(tree, queue, leaves, cpus, events, hold_ns, think_ns)
    return acquired
