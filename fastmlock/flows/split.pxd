# split_huge_page: a THP becomes 512 base pages. (mm/huge_memory.c)
from fastmlock.flows.step cimport flow_fn

cdef void register(flow_fn *table) noexcept
