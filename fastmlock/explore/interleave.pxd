# Several tasks on one world, one request at a time, with real lock state: see interleave.pyx.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from fastmlock.state.types cimport World
from fastmlock.state.world cimport WorldHandle

cdef enum:
    HELD_MAX = 16           # locks one task holds at once

cdef enum PartyState:
    PARTY_RUNS = 0
    PARTY_DONE = 1
    PARTY_FAILED = 2        # world.error says why

cdef struct HeldLock:
    int32_t lock_class
    uint32_t obj
    int32_t write           # 0 = a reader of a rwsem

cdef struct Party:
    int32_t task
    int32_t state           # PartyState
    int32_t pending         # Req the task stands at that is not granted yet, else REQ_NONE
    int32_t granted         # the lock is taken, and nothing done under it yet
    int32_t pend_class
    uint32_t pend_obj
    int32_t waiting         # this request was found refused before
    int32_t nr_held
    int64_t steps           # requests it has made
    int64_t waits[8]        # requests that had to wait, by LockClass
    HeldLock held[16]

cdef struct Race:
    World *w
    Party *party
    int32_t n
    int32_t failed          # first party that failed, -1 = none

cdef bint party_lock_free(Race *r, int i) noexcept nogil
cdef bint party_cpu_free(Race *r, int i) noexcept nogil
cdef bint party_ready(Race *r, int i) noexcept nogil
cdef void party_grant(Race *r, int i) noexcept nogil
cdef int party_step(Race *r, int i) noexcept nogil
cdef bint race_over(Race *r) noexcept nogil
cdef void race_settle(Race *r) noexcept nogil

cdef class Interleaving:
    cdef Race r
    cdef readonly WorldHandle world
    cdef int index(self, int i) except -1
