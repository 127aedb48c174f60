# What a task that waits will need when it goes on, fetched while another runs. Nothing to the model; with a thousand
# tasks, what one of them needs is seldom in a cache of this machine any more when its turn comes.
from libc.stdint cimport int64_t, uint32_t
from fastmlock.flows.frame cimport F_PVEC, F_ZAP
from fastmlock.mm.lru cimport cpu_pvec
from fastmlock.mm.pgtable cimport prefetch_pte
from fastmlock.state.prefetch cimport PREFETCH_AHEAD, prefetch
from fastmlock.state.types cimport GATHER_MAX, PVEC_MLOCK, Frame, PageVec, Task, World

cdef enum:
    LINE = 64
    DEPTH = 5               # frames of a task that leaves the machine and waits for lru_lock


cdef inline void prefetch_task(World *w, int task, int cpu) noexcept nogil:
    """First, itself: its record, and the batch that it is most often about."""
    cdef char *record = <char *>&w.tasks[task]
    cdef char *batch = <char *>cpu_pvec(w, cpu, PVEC_MLOCK)
    cdef char *frames = <char *>&w.tasks[task].stack[DEPTH]
    cdef char *line = record
    while line < frames:
        prefetch(line)
        line += LINE
    prefetch(batch)
    prefetch(batch + LINE)
    prefetch(batch + 2 * LINE)


cdef inline void prefetch_work(World *w, int task) noexcept nogil:
    """Then, what its frames refer to."""
    cdef Task *t = &w.tasks[task]
    cdef Frame *f = &t.stack[t.depth]
    cdef PageVec *pv
    cdef int i
    if t.depth > 0 and f.fn == F_PVEC:
        pv = cpu_pvec(w, <int>f.a, <int>f.b)
        for i in range(pv.nr):
            prefetch(&w.pages[pv.page[i]])
        f -= 1
        if f.fn == F_ZAP:
            prefetch(&w.vmas[f.a])
            prefetch(&w.mms[t.mm])
            prefetch(&w.leaves[f.i])
            prefetch(&w.leaves[f.i].bits[f.b >> 6 & 7])       # a leaf begins at a multiple of 512
            prefetch(&w.gathers[<int64_t>task * GATHER_MAX + t.gather])


cdef inline void prefetch_zap(World *w, int task) noexcept nogil:
    """Last, while it works its batch off: the pages that it unmaps next."""
    cdef Task *t = &w.tasks[task]
    cdef Frame *f = &t.stack[t.depth - 1]
    cdef int entry, i
    if t.depth > 0 and t.stack[t.depth].fn == F_PVEC and f.fn == F_ZAP:
        entry = <int>f.b & 511
        for i in range(entry, min(entry + PREFETCH_AHEAD, 512)):
            prefetch_pte(w, f.i, i)
