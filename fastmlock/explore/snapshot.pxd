# Copies of a world in a race, to go back to: see snapshot.pyx.
from libc.stdint cimport int64_t, uint64_t
from fastmlock.explore.interleave cimport Race

cdef struct Tide:
    # highest number of records ever used, by pool: what lies above it is still zero
    int64_t used[11]

cdef int64_t snapshot_bytes(Race *r) noexcept nogil
cdef void snapshot_save(Race *r, char *to) noexcept nogil
cdef void snapshot_load(Race *r, const char *source, Tide *tide) noexcept nogil
cdef uint64_t state_hash(Race *r) noexcept nogil
cdef uint64_t outcome_hash(Race *r) noexcept nogil
