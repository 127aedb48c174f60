# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Lock loops: think, lock, hold, unlock, again. Of the same shape as the kernel's paths.

Frame: a = rounds left, b = mean think time ns, c = mean hold time ns, d = what else, packed:

    bits 0-23   lock object         bit 28      times are exponential, not constant
    bits 24-27  lock class          bit 29      but the hold is constant (spinlock loop)
    bits 40-62  seed                bits 32-38  percent of rounds that read (rwsem loop)
    bit 30      rounds read and write by turns (rwsem loop)

Random numbers come from a counter: the k-th draw of a task depends on (seed, task, k) alone.
"""
from libc.math cimport log
from libc.stdint cimport int32_t, int64_t, uint64_t
from fastmlock.flows.frame cimport (F_LOCK_LOOP, F_MLOCK_LOOP, F_RWSEM_LOOP, F_SYS_MLOCK, F_SYS_MMAP, F_SYS_MUNLOCK,
                                    F_SYS_MUNMAP, F_TWO_LOCKS, call)
from fastmlock.flows.step cimport flow_fn
from fastmlock.state.types cimport (LK_PAGE, REQ_DELAY, REQ_DOWN_READ, REQ_DOWN_WRITE, REQ_LOCK_PAGE, REQ_NONE,
                                    REQ_SPIN_LOCK, REQ_SPIN_UNLOCK, REQ_UNLOCK_PAGE, REQ_UP_READ, REQ_UP_WRITE,
                                    VM_LOCKED, Frame, Task, World)


cdef inline uint64_t draw(World *w, Task *t, Frame *f) noexcept nogil:
    """The task's next 64 random bits: splitmix64 of a key made of seed and task, plus a counter."""
    cdef uint64_t z = <uint64_t> (f.d >> 40) << 32 | <uint64_t> (t - w.tasks)
    f.k += 1
    z = (z ^ 0x5851F42D4C957F2DULL) * 0xD1342543DE82EF95ULL + <uint64_t> f.k * 0x9E3779B97F4A7C15ULL
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL
    return z ^ (z >> 31)


cdef inline int64_t duration(World *w, Task *t, Frame *f, int64_t mean_ns) noexcept nogil:
    if not f.d >> 28 & 1:
        return mean_ns
    return <int64_t> (0.5 - mean_ns * log((<double> (draw(w, t, f) >> 11) + 0.5) / 9007199254740992.0))


cdef inline int delay(World *w, Task *t, Frame *f, int64_t mean_ns) noexcept nogil:
    t.req_arg = duration(w, t, f, mean_ns)
    return REQ_DELAY


cdef inline int lock_request(Task *t, Frame *f, int spin, int other) noexcept nogil:
    t.req_class = f.d >> 24 & 15
    t.req_obj = f.d & 0xffffff
    return spin if t.req_class != LK_PAGE else other


cdef int lock_loop(World *w, Task *t, Frame *f) noexcept nogil:
    """A spinlock or the lock of a page."""
    if f.pc == 0:
        if f.a <= 0:
            t.depth -= 1
            return REQ_NONE
        f.a -= 1
        f.pc = 1
        return delay(w, t, f, f.b)
    if f.pc == 1:
        f.pc = 2
        return lock_request(t, f, REQ_SPIN_LOCK, REQ_LOCK_PAGE)
    if f.pc == 2:
        f.pc = 3
        if f.d >> 29 & 1:
            t.req_arg = f.c
            return REQ_DELAY
        return delay(w, t, f, f.c)
    f.pc = 0
    return lock_request(t, f, REQ_SPIN_UNLOCK, REQ_UNLOCK_PAGE)


cdef int rwsem_loop(World *w, Task *t, Frame *f) noexcept nogil:
    """A rwsem; each round reads with the given chance, else writes."""
    if f.pc == 0:
        if f.a <= 0:
            t.depth -= 1
            return REQ_NONE
        f.a -= 1
        f.pc = 1
        if f.d >> 30 & 1:
            f.i = not f.i
        else:
            f.i = <int32_t> (<int64_t> (draw(w, t, f) % 100) < (f.d >> 32 & 127))
        return delay(w, t, f, f.b)
    t.req_class = f.d >> 24 & 15
    t.req_obj = f.d & 0xffffff
    if f.pc == 1:
        f.pc = 2
        return REQ_DOWN_READ if f.i else REQ_DOWN_WRITE
    if f.pc == 2:
        f.pc = 3
        return delay(w, t, f, f.c)
    f.pc = 0
    return REQ_UP_READ if f.i else REQ_UP_WRITE


cdef int two_locks(World *w, Task *t, Frame *f) noexcept nogil:
    """Two locks one after the other each round: the object named and the next one."""
    cdef int spin
    if f.pc == 0:
        if f.a <= 0:
            t.depth -= 1
            return REQ_NONE
        f.a -= 1
        f.j = 0
        f.pc = 1
        return delay(w, t, f, f.b)
    if f.pc == 2:
        f.pc = 3
        return delay(w, t, f, f.c)
    spin = lock_request(t, f, REQ_SPIN_LOCK if f.pc == 1 else REQ_SPIN_UNLOCK,
                        REQ_LOCK_PAGE if f.pc == 1 else REQ_UNLOCK_PAGE)
    t.req_obj += f.j
    if f.pc == 1:
        f.pc = 2
    elif f.j:
        f.pc = 0
    else:
        f.j = 1
        f.pc = 1
    return spin


cdef enum:
    ML_THINK = 0
    ML_MLOCK = 1
    ML_MUNLOCK = 2
    ML_MUNMAP = 3
    ML_MMAP = 4
    PROT_READ_WRITE = 3
    MAP_PRIVATE_ANONYMOUS = 0x22


cdef int mlock_loop(World *w, Task *t, Frame *f) noexcept nogil:
    """a = regions, b = address of the first, c = bytes of each, d = mean time before each mlock(), ns (bits 0-27), bit
    28 and seed as above. With bit 29 they are unmapped then, mapped anew, as private memory, and it begins again; with
    bit 30 they are munlocked before, one by one. i = regions locked, j = munlocked."""
    if f.pc == ML_THINK and f.i < f.a:
        f.pc = ML_MLOCK
        return delay(w, t, f, f.d & 0xfffffff)
    if f.pc == ML_MLOCK:
        f.i += 1
        return call(w, t, f, ML_THINK, F_SYS_MLOCK, f.b + (f.i - 1) * f.c, f.c, VM_LOCKED)
    if not f.d >> 29 & 1:
        t.depth -= 1
        return REQ_NONE
    if f.pc == ML_THINK:
        f.pc = ML_MUNLOCK if f.d >> 30 & 1 else ML_MUNMAP
    if f.pc == ML_MUNLOCK and f.j < f.a:
        f.j += 1
        return call(w, t, f, ML_MUNLOCK, F_SYS_MUNLOCK, f.b + (f.j - 1) * f.c, f.c)
    if f.pc == ML_MUNLOCK or f.pc == ML_MUNMAP:
        return call(w, t, f, ML_MMAP, F_SYS_MUNMAP, f.b, f.a * f.c)
    f.i = f.j = 0
    return call(w, t, f, ML_THINK, F_SYS_MMAP, f.b, f.a * f.c, PROT_READ_WRITE | <int64_t> MAP_PRIVATE_ANONYMOUS << 32)


cdef void register(flow_fn *table) noexcept:
    table[<int> F_LOCK_LOOP] = lock_loop
    table[<int> F_RWSEM_LOOP] = rwsem_loop
    table[<int> F_TWO_LOCKS] = two_locks
    table[<int> F_MLOCK_LOOP] = mlock_loop
