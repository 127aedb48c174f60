# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The state of a race as one block of bytes: saved, gone back to, and hashed.

A copy holds what a step can change: the used part of every pool, the lists and batches, the counters, the tasks
that take part, and who holds which lock. Work counters and the log of touched lines are left out of the hash, as no
path reads them; so is everything above the top of a flow stack or the end of a batch.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from fastmlock.state.types cimport *
from fastmlock.explore.interleave cimport Party, Race

cdef enum:
    NR_POOLS = 11


cdef struct Pool:
    char *base
    int64_t used
    int64_t size            # bytes of a record


cdef inline void pools(World *w, Pool *p) noexcept nogil:
    p[0].base, p[0].used, p[0].size = <char *>w.pages, w.pages_used, sizeof(Page)
    p[1].base, p[1].used, p[1].size = <char *>w.vmas, w.vmas_used, sizeof(Vma)
    p[2].base, p[2].used, p[2].size = <char *>w.mms, w.mms_used, sizeof(Mm)
    p[3].base, p[3].used, p[3].size = <char *>w.mappings, w.mappings_used, sizeof(Mapping)
    p[4].base, p[4].used, p[4].size = <char *>w.nodes, w.nodes_used, sizeof(TreeNode)
    p[5].base, p[5].used, p[5].size = <char *>w.anon_vmas, w.anon_vmas_used, sizeof(AnonVma)
    p[6].base, p[6].used, p[6].size = <char *>w.avcs, w.avcs_used, sizeof(AnonVmaChain)
    p[7].base, p[7].used, p[7].size = <char *>w.leaves, w.leaves_used, sizeof(Leaf)
    p[8].base, p[8].used, p[8].size = <char *>w.ptes, w.ptes_used, 512 * sizeof(uint64_t)
    p[9].base, p[9].used, p[9].size = <char *>w.tables, w.tables_used, 512 * sizeof(uint32_t)
    p[10].base, p[10].used, p[10].size = <char *>w.files, w.files_used, sizeof(File)


cdef inline int64_t head_bytes(World *w) noexcept nogil:
    """Of the world's own record, up to the log of touched lines."""
    return <char *>&w.spent_ps - <char *>w


cdef struct Cursor:
    char *at
    int mode                # 0 = count, 1 = save, 2 = load
    int64_t bytes


cdef inline void move(Cursor *c, void *place, int64_t size) noexcept nogil:
    if c.mode == 1:
        memcpy(c.at, place, size)
    elif c.mode == 2:
        memcpy(place, c.at, size)
    if c.mode:
        c.at += size
    c.bytes += size


cdef void transfer(Race *r, Cursor *c, Tide *tide) noexcept nogil:
    cdef World *w = r.w
    cdef Pool p[NR_POOLS]
    cdef int i, task
    move(c, w, head_bytes(w))
    pools(w, p)
    for i in range(NR_POOLS):
        move(c, p[i].base, p[i].used * p[i].size)
        if c.mode == 2 and tide.used[i] > p[i].used:
            memset(p[i].base + p[i].used * p[i].size, 0, (tide.used[i] - p[i].used) * p[i].size)
    move(c, w.cache, w.cache_used * sizeof(uint32_t))
    move(c, w.lruvecs, (1 + w.nr_lruvecs) * sizeof(Lruvec))
    move(c, w.pvecs, w.nr_cpus * <int64_t>NR_PVECS * sizeof(PageVec))
    move(c, w.events, w.nr_cpus * <int64_t>NR_EVENTS * sizeof(int64_t))
    move(c, w.stat, NR_STATS * sizeof(int64_t))
    move(c, w.stat_diff, w.nr_cpus * <int64_t>NR_STATS * sizeof(int32_t))
    for i in range(r.n):
        task = r.party[i].task
        move(c, &w.tasks[task], sizeof(Task))
        move(c, &w.tpvecs[task * NR_TPVECS], NR_TPVECS * sizeof(PageVec))
        move(c, &w.gathers[<int64_t>task * GATHER_MAX], w.tasks[task].gather * sizeof(uint32_t))
    move(c, r.party, r.n * sizeof(Party))
    move(c, &r.failed, sizeof(int32_t))


cdef int64_t snapshot_bytes(Race *r) noexcept nogil:
    """Bytes that saving the race as it is now takes."""
    cdef Cursor c
    c.mode = 0
    c.bytes = 0
    transfer(r, &c, NULL)
    return c.bytes


cdef void snapshot_save(Race *r, char *to) noexcept nogil:
    cdef Cursor c
    c.at = to
    c.mode = 1
    c.bytes = 0
    transfer(r, &c, NULL)


cdef void snapshot_load(Race *r, const char *source, Tide *tide) noexcept nogil:
    """Goes back to what was saved. Records taken from a pool since then are zero again, as they were."""
    cdef Pool p[NR_POOLS]
    cdef Cursor c
    cdef int i
    pools(r.w, p)
    for i in range(NR_POOLS):
        tide.used[i] = max(tide.used[i], p[i].used)
    c.at = <char *>source
    c.mode = 2
    c.bytes = 0
    transfer(r, &c, tide)


# ---- hashing
cdef inline uint64_t mix(uint64_t h, uint64_t value) noexcept nogil:
    h = (h ^ value) * <uint64_t>0x9E3779B97F4A7C15
    return h ^ (h >> 29)


cdef inline uint64_t hash_words(uint64_t h, const void *place, int64_t size) noexcept nogil:
    """`size` bytes, a multiple of 4."""
    cdef const uint64_t *word = <const uint64_t *>place
    cdef int64_t i
    for i in range(size >> 3):
        h = mix(h, word[i])
    if size & 4:
        h = mix(h, (<const uint32_t *>place)[(size >> 2) - 1])
    return h


cdef uint64_t hash_pvec(uint64_t h, PageVec *pv) noexcept nogil:
    cdef int i
    h = mix(h, pv.nr)
    for i in range(pv.nr):
        h = mix(h, <uint64_t>pv.page[i] << 8 | pv.kind[i])
    return h


cdef uint64_t hash_counters(uint64_t h, World *w) noexcept nogil:
    """Sums over the cpus: on which of them a thing was counted matters to nobody."""
    cdef int64_t total
    cdef int i, cpu
    for i in range(NR_EVENTS):
        total = 0
        for cpu in range(w.nr_cpus):
            total += w.events[cpu * NR_EVENTS + i]
        h = mix(h, total)
    for i in range(NR_STATS):
        total = w.stat[i]
        for cpu in range(w.nr_cpus):
            total += w.stat_diff[cpu * NR_STATS + i]
        h = mix(h, total)
    return h


cdef uint64_t state_hash(Race *r) noexcept nogil:
    """Of all that decides what the race can still do, and of the counters."""
    cdef World *w = r.w
    cdef Pool p[NR_POOLS]
    cdef Task *t
    cdef Party *party
    cdef uint64_t h = 1
    cdef int i, k
    pools(w, p)
    for i in range(NR_POOLS):
        h = hash_words(mix(h, p[i].used), p[i].base, p[i].used * p[i].size)
    h = hash_words(h, w.cache, w.cache_used * sizeof(uint32_t))
    h = hash_words(h, w.lruvecs, (1 + w.nr_lruvecs) * sizeof(Lruvec))
    for i in range(w.nr_cpus * NR_PVECS):
        h = hash_pvec(h, &w.pvecs[i])
    h = hash_counters(h, w)
    # the pools' marks and free lists, and whatever of the world's own record lies behind the counts of what happened
    h = hash_words(h, &w.pages_cap, <char *>&w.rmap_walks - <char *>&w.pages_cap)
    h = hash_words(h, &w.munlocks + 1, <char *>&w.work_ps[0] - <char *>(&w.munlocks + 1))
    for i in range(r.n):
        party = &r.party[i]
        t = &w.tasks[party.task]
        h = mix(h, <uint64_t>party.state << 32 | <uint64_t>(party.pending << 1 | party.granted))
        h = mix(h, <uint64_t>party.pend_class << 32 | party.pend_obj)
        for k in range(party.nr_held):
            h = mix(h, <uint64_t>party.held[k].lock_class << 40 | <uint64_t>party.held[k].write << 36
                    | party.held[k].obj)
        h = mix(h, <uint64_t>t.depth << 32 ^ <uint64_t>t.mm)
        h = mix(mix(h, t.res), t.ret)
        h = mix(h, <uint64_t>t.err << 32 ^ <uint64_t>t.sig)
        if t.depth >= 0:
            h = hash_words(h, &t.stack[0], (t.depth + 1) * sizeof(Frame))
        for k in range(NR_TPVECS):
            h = hash_pvec(h, &w.tpvecs[party.task * NR_TPVECS + k])
        h = hash_words(mix(h, t.gather), &w.gathers[<int64_t>party.task * GATHER_MAX], t.gather * sizeof(uint32_t))
    return h


cdef uint64_t outcome_hash(Race *r) noexcept nogil:
    """Of what can be told apart afterwards: the state of the pages (whichever frames they have, in whatever order on
    their lists), what is locked, the counters, and what the calls answered."""
    cdef World *w = r.w
    cdef Page *p
    cdef Task *t
    cdef uint64_t h = 2, pages = 0, one
    cdef uint32_t i
    cdef int k
    for i in range(1, w.pages_used):
        p = &w.pages[i]
        if p.flags & PG_buddy:
            continue
        one = mix(3, <uint64_t>p.flags << 32 | <uint64_t><uint32_t>p.refcount)
        one = mix(one, <uint64_t>p.mapcount << 32 ^ <uint64_t>p.mapping)
        one = mix(one, p.index)
        if w.tr.p06 and (p.flags & (PG_lru | PG_unevictable)) == (PG_lru | PG_unevictable):
            one = mix(one, p.lru_prev + 1)
        pages += one
    h = hash_counters(mix(h, pages), w)
    for k in range(<int>w.mms_used):
        h = mix(h, w.mms[k].locked_vm)
    for k in range(r.n):
        t = &w.tasks[r.party[k].task]
        h = mix(mix(h, t.ret), <uint64_t>t.err << 32 ^ <uint64_t>t.sig)
        h = mix(h, r.party[k].state)
    return mix(h, w.error)
