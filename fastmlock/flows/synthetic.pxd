from fastmlock.flows.step cimport flow_fn
from fastmlock.state.types cimport Frame, Task, World

cdef enum:
    FLOW_LOCK_LOOP = 200
    FLOW_RWSEM_LOOP = 201
    FLOW_TWO_LOCKS = 202
    FLOW_MLOCK_LOOP = 203

cdef int lock_loop(World *w, Task *t, Frame *f) noexcept nogil
cdef int rwsem_loop(World *w, Task *t, Frame *f) noexcept nogil
cdef int two_locks(World *w, Task *t, Frame *f) noexcept nogil
cdef void register(flow_fn *table) noexcept
