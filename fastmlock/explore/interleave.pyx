# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Several system calls under way at once, untimed: who may go on is decided from outside, request by request.

Each party is a task with a flow started on it. A step of a party grants the lock it stands at and runs it to its
next request. What a step may not do is what a machine forbids:

- a spinlock has one holder, a rwsem one writer or many readers, a page lock is PG_locked of the page;
- a cpu whose task holds a spinlock, or is in the middle of one of the cpu's batches, runs nothing else, as
  preemption is off there; draining another cpu's batches counts as running on that cpu.

A party that stands at a lock has not asked for it yet, as far as the others can tell. So readers pass a writer that
stands there, and each order shown is one that a kernel can take: its writer was held up before it joined the queue.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from fastmlock.flows.drain cimport drained_cpu
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_start, flow_step, run_untimed

from fastmlock.explore.names import LOCKS

cdef enum:
    CPU_NONE = -1


# ---- locks
cdef inline bint can_take(Race *r, int req, int lock_class, uint32_t obj) noexcept nogil:
    cdef int i, k
    cdef HeldLock *h
    if req == REQ_LOCK_PAGE or req == REQ_WAIT_PAGE:
        return not r.w.pages[obj].flags & PG_locked
    for i in range(r.n):
        for k in range(r.party[i].nr_held):
            h = &r.party[i].held[k]
            if h.lock_class == lock_class and h.obj == obj:
                if h.write or req == REQ_SPIN_LOCK or req == REQ_DOWN_WRITE:
                    return False
    return True


cdef inline void hold(Race *r, Party *p, int lock_class, uint32_t obj, bint write) noexcept nogil:
    cdef HeldLock *h
    if p.nr_held == HELD_MAX:
        r.w.error = ERR_BUG
        return
    h = &p.held[p.nr_held]
    h.lock_class = lock_class
    h.obj = obj
    h.write = write
    p.nr_held += 1


cdef inline void drop(Race *r, Party *p, int lock_class, uint32_t obj) noexcept nogil:
    cdef int k
    for k in range(p.nr_held - 1, -1, -1):
        if p.held[k].lock_class == lock_class and p.held[k].obj == obj:
            p.nr_held -= 1
            while k < p.nr_held:
                p.held[k] = p.held[k + 1]
                k += 1
            return
    if lock_class != LK_PAGE:           # a page may have been born locked
        r.w.error = ERR_BUG


cdef inline bint is_lock(int req) noexcept nogil:
    return (req == REQ_SPIN_LOCK or req == REQ_DOWN_READ or req == REQ_DOWN_WRITE or req == REQ_LOCK_PAGE
            or req == REQ_WAIT_PAGE)


# ---- cpus
cdef int occupied_cpu(Race *r, int i) noexcept nogil:
    """The cpu on which party i has preemption off, or CPU_NONE."""
    cdef Task *t = &r.w.tasks[r.party[i].task]
    cdef int k
    if r.party[i].state != PARTY_RUNS:
        return CPU_NONE
    for k in range(t.depth + 1):
        if t.stack[k].fn == F_PVEC:
            return <int>t.stack[k].a
    for k in range(r.party[i].nr_held):
        if r.party[i].held[k].lock_class in (LK_LRU, LK_PTL, LK_TEST_SPIN):
            return t.cpu
    return CPU_NONE


cdef bint party_cpu_free(Race *r, int i) noexcept nogil:
    """No other party has preemption off where this one runs or is about to drain."""
    cdef Task *t = &r.w.tasks[r.party[i].task]
    cdef int k, cpu, drained = CPU_NONE
    if t.depth >= 0 and t.stack[t.depth].fn == F_DRAIN_ALL:
        drained = drained_cpu(t, t.stack[t.depth].i)
    for k in range(r.n):
        if k != i:
            cpu = occupied_cpu(r, k)
            if cpu != CPU_NONE and (cpu == t.cpu or cpu == drained):
                return False
    return True


# ---- parties
cdef bint party_lock_free(Race *r, int i) noexcept nogil:
    cdef Party *p = &r.party[i]
    return p.pending == REQ_NONE or p.granted or can_take(r, p.pending, p.pend_class, p.pend_obj)


cdef bint party_ready(Race *r, int i) noexcept nogil:
    return r.party[i].state == PARTY_RUNS and party_lock_free(r, i) and party_cpu_free(r, i)


cdef void party_grant(Race *r, int i) noexcept nogil:
    """Takes the lock that the party stands at; it must be free."""
    cdef Party *p = &r.party[i]
    if p.pending == REQ_NONE or p.granted:
        return
    p.granted = 1
    if p.pending == REQ_WAIT_PAGE:      # nothing is held
        return
    if p.pending == REQ_LOCK_PAGE:
        r.w.pages[p.pend_obj].flags |= PG_locked
    hold(r, p, p.pend_class, p.pend_obj, p.pending != REQ_DOWN_READ)


cdef int party_step(Race *r, int i) noexcept nogil:
    """Grants what the party stands at and runs it to its next request, which is returned. It must be ready."""
    cdef Party *p = &r.party[i]
    cdef Task *t = &r.w.tasks[p.task]
    cdef int req, k
    party_grant(r, i)
    p.pending = REQ_NONE
    p.granted = p.waiting = 0
    while True:
        req = flow_step(r.w, p.task)
        if req != REQ_DOWN_READ_TRYLOCK:
            break
        t.res = can_take(r, REQ_DOWN_READ, t.req_class, t.req_obj)
        if t.res:
            hold(r, p, t.req_class, t.req_obj, False)
    p.steps += 1
    if is_lock(req):
        p.pending = req
        p.pend_class = t.req_class
        p.pend_obj = t.req_obj
    elif req == REQ_SPIN_UNLOCK or req == REQ_UP_READ or req == REQ_UP_WRITE:
        drop(r, p, t.req_class, t.req_obj)
    elif req == REQ_UNLOCK_PAGE:
        r.w.pages[t.req_obj].flags &= ~<uint32_t>PG_locked
        drop(r, p, LK_PAGE, t.req_obj)
    elif req == REQ_DOWNGRADE:
        for k in range(p.nr_held):
            if p.held[k].lock_class == t.req_class and p.held[k].obj == t.req_obj:
                p.held[k].write = 0
    elif req == REQ_DONE or req == REQ_EXIT:
        p.state = PARTY_DONE
        if p.nr_held:
            r.w.error = ERR_BUG
    if req == REQ_ERROR or r.w.error:
        p.state = PARTY_FAILED
        if r.failed < 0:
            r.failed = i
    return req


cdef bint race_over(Race *r) noexcept nogil:
    cdef int i
    for i in range(r.n):
        if r.party[i].state == PARTY_RUNS:
            return False
    return True


cdef void race_settle(Race *r) noexcept nogil:
    """Drains every cpu, on the scratch task 0, so that what waits in batches can be seen."""
    flow_start(r.w, 0, F_SYS_DRAIN_ALL, 0, 0, 0, 0)
    run_untimed(r.w, 0)


cdef class Interleaving:
    """The parties of one race: tasks of `world` with a flow started on each.

    Parameters
    ----------
    world : WorldHandle
        arrays must have room for all that the flows need: nothing grows while they run
    tasks : list of int
        task numbers, each once
    """

    def __cinit__(self, WorldHandle world, list tasks):
        cdef int i
        if not tasks or len(set(tasks)) != len(tasks):
            raise ValueError("a race needs tasks, each once")
        for task in tasks:
            if not 1 <= task < world.w.nr_tasks:
                raise ValueError(f"no task {task}")
        self.r.party = <Party *>calloc(len(tasks), sizeof(Party))
        if self.r.party == NULL:
            raise MemoryError
        self.world = world
        self.r.w = world.w
        self.r.n = len(tasks)
        self.r.failed = -1
        for i in range(self.r.n):
            self.r.party[i].task = tasks[i]

    def __dealloc__(self):
        free(self.r.party)

    def __len__(self):
        return self.r.n

    cdef int index(self, int i) except -1:
        if not 0 <= i < self.r.n:
            raise IndexError(f"no party {i}: there are {self.r.n}")
        return i

    def task(self, int i):
        """Task number of party i."""
        return self.r.party[self.index(i)].task

    def ready(self, int i):
        """Whether party i can take a step."""
        return bool(party_ready(&self.r, self.index(i)))

    def done(self, int i):
        return self.r.party[self.index(i)].state == PARTY_DONE

    def failed(self):
        """The party that could not go on (the world's error says why), or None."""
        return None if self.r.failed < 0 else self.r.failed

    def over(self):
        """Nobody runs any more."""
        return bool(race_over(&self.r))

    def asks(self, int i):
        """The lock that party i stands at, as (name, object), or None."""
        cdef Party *p = &self.r.party[self.index(i)]
        return None if p.pending == REQ_NONE or p.granted else (LOCKS[p.pend_class], p.pend_obj)

    def held(self, int i):
        """The locks that party i holds: list of (name, object, "read" or "write")."""
        cdef Party *p = &self.r.party[self.index(i)]
        return [(LOCKS[p.held[k].lock_class], p.held[k].obj, "write" if p.held[k].write else "read")
                for k in range(p.nr_held)]

    def hindered_by(self, int i):
        """The party that keeps party i from its next step, -1 if it is none of them, None if nothing does."""
        cdef Race *r = &self.r
        cdef Party *p = &r.party[self.index(i)]
        cdef int k, cpu
        if party_ready(r, i) or p.state != PARTY_RUNS:
            return None
        if not party_lock_free(r, i):
            asked = LOCKS[p.pend_class], p.pend_obj
            for k in range(r.n):
                if any(lock[:2] == asked for lock in self.held(k)):
                    return k
            return -1
        for k in range(r.n):
            if k != i and occupied_cpu(r, k) != CPU_NONE:
                return k
        return -1

    def grant(self, int i):
        """Party i takes the lock it stands at and does nothing under it yet."""
        if not party_ready(&self.r, self.index(i)):
            raise RuntimeError(f"party {i} cannot go on")
        party_grant(&self.r, i)

    def step(self, int i):
        """Party i goes on to its next request."""
        cdef int req
        if not party_ready(&self.r, self.index(i)):
            raise RuntimeError(f"party {i} cannot go on")
        with nogil:
            req = party_step(&self.r, i)
        return req

    def steps(self, int i):
        """Requests that party i has made."""
        return self.r.party[self.index(i)].steps

    def waits(self):
        """Requests that had to wait in `in_turn`, over all parties: {lock name: number}."""
        cdef int i, k
        found = [0] * len(LOCKS)
        for i in range(self.r.n):
            for k in range(len(found)):
                found[k] += self.r.party[i].waits[k]
        return dict(zip(LOCKS, found))

    def settle(self):
        """Drains the batches of every cpu, with nobody else running."""
        race_settle(&self.r)
        self.world.check()

    def in_turn(self, int quantum=1, unsigned long seed=0):
        """Runs all to the end, each `quantum` moves in its turn (with a `seed`: 1 to `quantum`, by chance), those that
        must wait passed over. A lock is taken by one move and used by the next, so that others can find it taken.
        False if nobody could go on although not all had ended."""
        cdef Race *r = &self.r
        cdef uint64_t chance = seed * <uint64_t>0x9E3779B97F4A7C15
        cdef int i, k, most
        cdef bint moved, stuck = False
        if quantum < 1:
            raise ValueError(f"a quantum of {quantum} requests: at least 1 is needed")
        with nogil:
            while not race_over(r) and not r.w.error:
                moved = False
                for i in range(r.n):
                    most = quantum
                    if seed:
                        chance ^= chance << 13
                        chance ^= chance >> 7
                        chance ^= chance << 17
                        most = 1 + <int>(chance % <uint64_t>quantum)
                    for k in range(most):
                        if r.party[i].state != PARTY_RUNS:
                            break
                        if not party_ready(r, i):
                            if not r.party[i].waiting and not party_lock_free(r, i):
                                r.party[i].waiting = 1
                                r.party[i].waits[r.party[i].pend_class] += 1
                            break
                        moved = True
                        if r.party[i].pending != REQ_NONE and not r.party[i].granted:
                            party_grant(r, i)
                        else:
                            party_step(r, i)
                if not moved:
                    stuck = True
                    break
        return not stuck
