# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Driving flows: one step of one task, and the driver that grants everything at once.

The untimed driver here and the machine (fastmlock.machine) run the same flows; they differ only in what happens
at a request.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows cimport (brk, collapse_file, drain, exit as exit_flow, fault, file, fork, gup, hotplug, huge_memory,
                              hugetlb, khugepaged, ksm, migrate, mlock, mlock_calls, mmap, munlock, oom, protect, reclaim,
                              remap, scan, shm, split, swapin, swapoff, synthetic, unmap)

cdef int not_modelled(World *w, Task *t, Frame *f) noexcept nogil:
    """Stands in the table for every path the model has not."""
    return unsupported(w, f.fn)


cdef flow_fn[256] TABLE

for _i in range(256):
    TABLE[_i] = not_modelled
drain.register(TABLE)
mlock.register(TABLE)
munlock.register(TABLE)
mlock_calls.register(TABLE)
fault.register(TABLE)
gup.register(TABLE)
unmap.register(TABLE)
mmap.register(TABLE)
exit_flow.register(TABLE)
fork.register(TABLE)
huge_memory.register(TABLE)
hugetlb.register(TABLE)
khugepaged.register(TABLE)
collapse_file.register(TABLE)
file.register(TABLE)
protect.register(TABLE)
remap.register(TABLE)
reclaim.register(TABLE)
migrate.register(TABLE)
scan.register(TABLE)
oom.register(TABLE)
shm.register(TABLE)
split.register(TABLE)
swapin.register(TABLE)
swapoff.register(TABLE)
hotplug.register(TABLE)
brk.register(TABLE)
ksm.register(TABLE)
synthetic.register(TABLE)


cdef void flow_start(World *w, int task, int fn, int64_t a, int64_t b, int64_t c, int64_t d) noexcept nogil:
    cdef Task *t = &w.tasks[task]
    cdef Frame *f = &t.stack[0]
    t.depth = 0
    t.ret = t.err = t.sig = 0
    t.res = 0
    f.fn = fn
    f.pc = 0
    f.i = f.j = f.k = 0
    f.a = a
    f.b = b
    f.c = c
    f.d = d


cdef flow_fn *flow_table() noexcept nogil:
    return TABLE


cdef int flow_step(World *w, int task) noexcept nogil:
    return step_with(TABLE, w, &w.tasks[task])


cdef int run_untimed(World *w, int task) noexcept nogil:
    cdef Task *t = &w.tasks[task]
    cdef uint32_t *flags
    cdef int req
    while True:
        req = step_with(TABLE, w, t)
        if req == REQ_LOCK_PAGE or req == REQ_WAIT_PAGE:
            flags = &w.pages[t.req_obj].flags
            if flags[0] & PG_locked:
                w.error = ERR_DEADLOCK
                return REQ_ERROR
            if req == REQ_LOCK_PAGE:
                flags[0] |= PG_locked
        elif req == REQ_UNLOCK_PAGE:
            w.pages[t.req_obj].flags &= ~<uint32_t>PG_locked
        elif req == REQ_DOWN_READ_TRYLOCK:
            t.res = 1
        elif req == REQ_DONE or req == REQ_EXIT or req == REQ_ERROR:
            return req
