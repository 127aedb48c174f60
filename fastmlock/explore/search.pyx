# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Every order in which a race can go, request by request, and which final states come of them.

Depth first over copies of the world. A state that was seen before, with the same party just stepped, is not gone
into again unless it is reached with fewer switches now; so each final state's order ends up one with the fewest
switches from one party to another. Two states are held equal when their 64-bit hashes are.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset
from fastmlock.state.types cimport *
from fastmlock.explore.interleave cimport (Interleaving, PARTY_RUNS, Race, party_ready, party_step, race_over,
                                           race_settle)
from fastmlock.explore.snapshot cimport (Tide, outcome_hash, snapshot_bytes, snapshot_load, snapshot_save,
                                         state_hash)

from fastmlock.explore.outcome import Found, SearchLimit

cdef enum:
    MOST_STATES = 2000000
    MOST_BYTES = 512 << 20
    SIGNALS_EVERY = 4096


cdef struct Seen:
    uint64_t key            # 0 = free
    uint32_t parent         # entry it was reached from, with the fewest switches so far
    int32_t party           # that was stepped
    int32_t switches


cdef struct Level:
    char *copy
    int64_t bytes
    uint32_t entry
    int32_t last            # party stepped to get here, -1 at the start
    int32_t next            # next choice to try: 0 = the last party again, then the others by number
    int32_t switches


cdef struct Ending:
    uint64_t key
    uint32_t entry
    int32_t switches
    int64_t states          # different states that look like this
    char *copy
    int64_t bytes


cdef inline int choice(Level *level, int k) noexcept nogil:
    """The k-th party to try: the last one first."""
    if level.last < 0:
        return k
    if k == 0:
        return level.last
    return k - 1 if k <= level.last else k


cdef class Search:
    """Explores every order of `race` from where it stands.

    Parameters
    ----------
    race : Interleaving
    max_states : int
        give up with `SearchLimit` beyond so many (state, last party) pairs

    After `run()` the race is back where it stood; `restore(found)` puts it into one of the final states.
    """
    cdef readonly Interleaving race
    cdef Seen *seen
    cdef uint32_t mask, nr_seen, most
    cdef Level *level
    cdef int depth, levels
    cdef int64_t copied
    cdef Ending *ending
    cdef int nr_endings, endings_cap
    cdef Tide tide
    cdef readonly long steps
    cdef char *start

    def __cinit__(self, Interleaving race, long max_states=200000):
        cdef uint32_t size = 1024
        if not 1 <= max_states <= MOST_STATES:
            raise ValueError(f"max_states {max_states}: use 1 to {MOST_STATES}")
        self.race = race
        self.most = <uint32_t>max_states
        while size < 2 * self.most:
            size *= 2
        self.mask = size - 1
        self.seen = <Seen *>calloc(size, sizeof(Seen))
        self.levels = 256
        self.level = <Level *>calloc(self.levels, sizeof(Level))
        self.endings_cap = 16
        self.ending = <Ending *>calloc(self.endings_cap, sizeof(Ending))
        if self.seen == NULL or self.level == NULL or self.ending == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef int i
        free(self.seen)
        if self.level != NULL:
            for i in range(self.levels):
                free(self.level[i].copy)
        free(self.level)
        if self.ending != NULL:
            for i in range(self.nr_endings):
                free(self.ending[i].copy)
        free(self.ending)
        free(self.start)

    cdef uint32_t slot(self, uint64_t key) noexcept nogil:
        cdef uint32_t at = <uint32_t>(key >> 20) & self.mask
        while self.seen[at].key and self.seen[at].key != key:
            at = (at + 1) & self.mask
        return at

    cdef int push(self, uint32_t entry, int last, int switches) except -1 nogil:
        """Saves where the race stands as the next level."""
        cdef Level *level
        cdef Race *r = &self.race.r
        cdef int64_t bytes = snapshot_bytes(r)
        if self.depth == self.levels:
            level = <Level *>realloc(self.level, 2 * self.levels * sizeof(Level))
            if level == NULL:
                with gil:
                    raise MemoryError
            self.level = level
            memset(&level[self.levels], 0, self.levels * sizeof(Level))
            self.levels *= 2
        level = &self.level[self.depth]
        if level.bytes < bytes:
            self.copied += bytes - level.bytes
            if self.copied > MOST_BYTES:
                with gil:
                    raise SearchLimit(f"the copies of the world along one order take more than "
                                      f"{MOST_BYTES >> 20} MiB; race shorter calls on fewer pages")
            free(level.copy)
            level.copy = <char *>malloc(bytes)
            level.bytes = bytes
            if level.copy == NULL:
                level.bytes = 0
                with gil:
                    raise MemoryError
        snapshot_save(r, level.copy)
        level.entry = entry
        level.last = last
        level.next = 0
        level.switches = switches
        self.depth += 1
        return 0

    cdef int end(self, uint32_t entry, int switches, bint fresh) except -1 nogil:
        """The race is over, or nobody can go on: notes what it has come to."""
        cdef Race *r = &self.race.r
        cdef Ending *e
        cdef uint64_t key
        cdef int64_t bytes
        cdef int i
        if race_over(r) and not r.w.error:
            race_settle(r)
        key = outcome_hash(r)
        for i in range(self.nr_endings):
            e = &self.ending[i]
            if e.key == key:
                e.states += fresh
                if switches < e.switches:
                    e.switches = switches
                    e.entry = entry
                return 0
        if self.nr_endings == self.endings_cap:
            e = <Ending *>realloc(self.ending, 2 * self.endings_cap * sizeof(Ending))
            if e == NULL:
                with gil:
                    raise MemoryError
            self.ending = e
            self.endings_cap *= 2
        bytes = snapshot_bytes(r)
        e = &self.ending[self.nr_endings]
        e.copy = <char *>malloc(bytes)
        if e.copy == NULL:
            with gil:
                raise MemoryError
        e.bytes = bytes
        snapshot_save(r, e.copy)
        e.key = key
        e.entry = entry
        e.switches = switches
        e.states = 1
        self.nr_endings += 1
        return 0

    cdef int explore(self) except -1 nogil:
        cdef Race *r = &self.race.r
        cdef Level *level
        cdef Seen *s
        cdef uint64_t key
        cdef uint32_t at
        cdef int i, party, switches
        cdef bint fresh, stuck
        self.push(0xFFFFFFFF, -1, 0)
        while self.depth:
            level = &self.level[self.depth - 1]
            if level.next == r.n:
                self.depth -= 1
                continue
            if level.next:
                snapshot_load(r, level.copy, &self.tide)
            party = choice(level, level.next)
            level.next += 1
            if not party_ready(r, party):
                if level.next == 1:             # the world is still as it was saved
                    snapshot_load(r, level.copy, &self.tide)
                continue
            switches = level.switches + (level.last >= 0 and party != level.last)
            party_step(r, party)
            self.steps += 1
            if self.steps % SIGNALS_EVERY == 0:
                with gil:
                    _signals()
            key = (state_hash(r) ^ (<uint64_t>(party + 1) * <uint64_t>0xD6E8FEB86659FD93)) | 1
            at = self.slot(key)
            s = &self.seen[at]
            fresh = s.key == 0
            if not fresh and s.switches <= switches:
                continue
            if fresh:
                if self.nr_seen == self.most:
                    with gil:
                        raise SearchLimit(f"more than {self.most} states; race fewer or shorter calls on fewer "
                                          "pages, or allow more states")
                self.nr_seen += 1
            s.key = key
            s.parent = level.entry
            s.party = party
            s.switches = switches
            stuck = True
            for i in range(r.n):
                if party_ready(r, i):
                    stuck = False
            if stuck or r.w.error:
                self.end(at, switches, fresh)
            else:
                self.push(at, party, switches)
        return 0

    def run(self):
        """-> list of `Found`, those with the fewest switches first.

        Raises SearchLimit when the race is too large, KeyboardInterrupt when interrupted; the race stands where it
        stood in either case.
        """
        cdef int i
        if self.start != NULL:
            raise RuntimeError("a search runs once")
        self.start = <char *>malloc(snapshot_bytes(&self.race.r))
        if self.start == NULL:
            raise MemoryError
        snapshot_save(&self.race.r, self.start)
        try:
            with nogil:
                self.explore()
        finally:
            self.rewind()
        found = [self.found(i) for i in range(self.nr_endings)]
        return sorted(found, key=lambda one: (one.switches, one.order))

    cdef object found(self, int i):
        cdef Ending *e = &self.ending[i]
        cdef uint32_t at = e.entry
        order = []
        while at != 0xFFFFFFFF:
            order.append(self.seen[at].party)
            at = self.seen[at].parent
        order.reverse()
        return Found(number=i, order=tuple(order), switches=e.switches, states=e.states)

    @property
    def states(self):
        """Different (state, last party) pairs seen."""
        return self.nr_seen

    def rewind(self):
        """Puts the world back to where the race began."""
        if self.start == NULL:
            raise RuntimeError("the search has not run")
        snapshot_load(&self.race.r, self.start, &self.tide)

    def restore(self, found):
        """Puts the world into a final state that `run` found, drained."""
        if not 0 <= found.number < self.nr_endings:
            raise ValueError("not found by this search")
        snapshot_load(&self.race.r, self.ending[found.number].copy, &self.tide)


from cpython.exc cimport PyErr_CheckSignals


cdef int _signals() except -1:
    PyErr_CheckSignals()
    return 0
