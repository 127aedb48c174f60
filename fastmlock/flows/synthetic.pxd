from fastmlock.flows.step cimport flow_fn
from fastmlock.state.types cimport Frame, Task, World

cdef int lock_loop(World *w, Task *t, Frame *f) noexcept nogil
cdef int rwsem_loop(World *w, Task *t, Frame *f) noexcept nogil
cdef int two_locks(World *w, Task *t, Frame *f) noexcept nogil
cdef void register(flow_fn *table) noexcept
