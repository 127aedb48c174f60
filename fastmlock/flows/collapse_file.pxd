# Collapse of a file's pages into a THP. (mm/khugepaged.c)
from fastmlock.flows.step cimport flow_fn

cdef void register(flow_fn *table) noexcept
