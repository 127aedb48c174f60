# Huge pmds: fault, copy on write, splitting into ptes. (mm/huge_memory.c)
from fastmlock.flows.step cimport flow_fn

cdef void register(flow_fn *table) noexcept
