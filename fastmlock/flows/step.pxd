# How flows are driven: see flows/step.pyx.
from libc.stdint cimport int32_t, int64_t, uint32_t
from fastmlock.state.types cimport World, Task, Frame

ctypedef int (*flow_fn)(World *w, Task *t, Frame *f) noexcept nogil

# Runs the task until it needs something of its driver; the request is left in task.req, req_class, req_obj,
# req_arg and returned. Called again, the task goes on as if the request had been granted.
cdef int flow_step(World *w, int task) noexcept nogil

# Starts flow `fn` on an idle task.
cdef void flow_start(World *w, int task, int fn, int64_t a, int64_t b, int64_t c, int64_t d) noexcept nogil

# Drives one task to its end with nobody else running: every lock is granted at once.
cdef int run_untimed(World *w, int task) noexcept nogil
