from fastmlock.flows.step cimport flow_fn
from fastmlock.state.types cimport Task

cdef void register(flow_fn *table) noexcept


cdef inline int drained_cpu(Task *t, int turn) noexcept nogil:
    """Where lru_add_drain_all() drains next: first on its own cpu, which gives way to the work at once, then on the
    others, which must be woken."""
    return t.cpu if turn == 0 else turn - (turn <= t.cpu)
