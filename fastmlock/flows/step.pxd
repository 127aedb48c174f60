# How flows are driven: see flows/step.pyx.
from libc.stdint cimport int32_t, int64_t, uint32_t
from fastmlock.mm.page cimport work
from fastmlock.state.debug cimport CHECKS
from fastmlock.state.types cimport REQ_DONE, REQ_ERROR, REQ_NONE, WK_STEP, World, Task, Frame

ctypedef int (*flow_fn)(World *w, Task *t, Frame *f) noexcept nogil

# all flows, by number
cdef flow_fn *flow_table() noexcept nogil


cdef inline int step_with(flow_fn *table, World *w, Task *t) noexcept nogil:
    """Runs the task until it needs something of its driver; the request is left in task.req, req_class, req_obj,
    req_arg and returned. Called again, the task goes on as if the request had been granted."""
    cdef Frame *f
    cdef int req
    while t.depth >= 0:
        f = &t.stack[t.depth]
        work(w, WK_STEP, 1)
        req = table[f.fn](w, t, f)
        if CHECKS and w.error:
            req = REQ_ERROR
        if req != REQ_NONE:
            t.req = req
            return req
        if w.error:
            t.req = REQ_ERROR
            return REQ_ERROR
    t.req = REQ_DONE
    return REQ_DONE


# the same, for a driver that has no table at hand
cdef int flow_step(World *w, int task) noexcept nogil

# Starts flow `fn` on an idle task.
cdef void flow_start(World *w, int task, int fn, int64_t a, int64_t b, int64_t c, int64_t d) noexcept nogil

# Drives one task to its end with nobody else running: every lock is granted at once.
cdef int run_untimed(World *w, int task) noexcept nogil
