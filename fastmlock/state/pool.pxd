# Pools of records: whoever frees one puts it on the pool's list; when that is empty, the next is one nobody has had.
from libc.stdint cimport uint32_t
from fastmlock.state.types cimport World


cdef inline uint32_t pool_next(World *w, uint32_t *used, uint32_t cap, int error) noexcept nogil:
    """The first record that was never used; 0 and w.error where the pool is at its end."""
    if used[0] >= cap:
        w.error = error
        return 0
    used[0] += 1
    return used[0] - 1
