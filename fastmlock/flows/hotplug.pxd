from libc.stdint cimport int64_t
from fastmlock.flows.step cimport flow_fn
from fastmlock.state.types cimport World

cdef void online_pages(World *w, int64_t first, int64_t end) noexcept nogil
cdef void register(flow_fn *table) noexcept
