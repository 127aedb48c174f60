# swapoff: all that is swapped out comes back. (mm/swapfile.c)
from fastmlock.flows.step cimport flow_fn

cdef void register(flow_fn *table) noexcept
