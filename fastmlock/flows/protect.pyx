# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_fn


cdef void register(flow_fn *table) noexcept:
    pass
