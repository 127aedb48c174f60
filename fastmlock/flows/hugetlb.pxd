# Mappings of huge pages: fault, copy on write, unmapping. (mm/hugetlb.c)
from fastmlock.flows.step cimport flow_fn

cdef void register(flow_fn *table) noexcept
