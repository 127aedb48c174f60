from fastmlock.flows.step cimport flow_fn

cdef void register(flow_fn *table) noexcept
