# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""exit_mmap: a whole address space goes, at exit and at exec. (mm/mmap.c; the specification, section 2.8)"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.page cimport work
from fastmlock.mm.pgtable cimport free_tables
from fastmlock.mm.vma cimport *

cdef enum:
    EX_LOCKED = 1
    EX_DRAIN = 2
    EX_ZAP = 3
    EX_RELOCKED = 4
    EX_UNLINKED = 5
    EX_FLUSHED = 6
    EX_UNLOCKED = 7
    EX_READ_UNLOCKED = 8


cdef int exit_mmap(World *w, Task *t, Frame *f) noexcept nogil:
    """mm a. Through patch 02 every locked vma is munlocked before anything is zapped, so that an exiting process's
    VMAs stand in the i_mmap trees, no longer locked, for all that time. i = vma."""
    cdef uint32_t mm = <uint32_t>f.a
    cdef uint32_t vma
    if f.pc == 0:
        w.mms[mm].exiting = 1
        return ask(t, f, EX_LOCKED, REQ_DOWN_READ if w.tr.exit_mmap_read else REQ_DOWN_WRITE, LK_MMAP, mm)
    if f.pc == EX_LOCKED:
        f.i = w.mms[mm].vma
        f.pc = EX_DRAIN
    if f.pc == EX_DRAIN:
        if not w.tr.p03 and w.mms[mm].locked_vm:
            while f.i:
                vma = f.i
                f.i = w.vmas[vma].next
                if w.vmas[vma].flags & VM_LOCKED:
                    return call(w, t, f, EX_DRAIN, F_MUNLOCK_RANGE, vma, w.vmas[vma].start, w.vmas[vma].end)
        f.i = w.mms[mm].vma
        f.pc = EX_ZAP
        if w.tr.munmap_drains:
            return call(w, t, f, EX_ZAP, F_DRAIN, t.cpu)
    if f.pc == EX_ZAP:
        if f.i:
            vma = f.i
            f.i = w.vmas[vma].next
            return call(w, t, f, EX_ZAP, F_ZAP, vma, w.vmas[vma].start, w.vmas[vma].end)
        f.pc = EX_RELOCKED
        if w.tr.exit_mmap_read:
            return ask(t, f, EX_READ_UNLOCKED, REQ_UP_READ, LK_MMAP, mm)
    if f.pc == EX_READ_UNLOCKED:
        return ask(t, f, EX_RELOCKED, REQ_DOWN_WRITE, LK_MMAP, mm)
    if f.pc == EX_RELOCKED:
        return call(w, t, f, EX_UNLINKED, F_UNLINK_VMAS, w.mms[mm].vma, <int64_t>1 << 52)
    if f.pc == EX_UNLINKED:
        return call(w, t, f, EX_FLUSHED, F_FLUSH, 0)
    if f.pc == EX_FLUSHED:
        vma = w.mms[mm].vma
        while vma:
            f.i = w.vmas[vma].next
            vma_free(w, vma)
            vma = f.i
        w.mms[mm].vma = 0
        free_tables(w, mm)
        return ask(t, f, EX_UNLOCKED, REQ_UP_WRITE, LK_MMAP, mm)
    mm_free(w, mm)
    return ret(t, 0)


cdef int sys_exit(World *w, Task *t, Frame *f) noexcept nogil:
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        return call(w, t, f, 1, F_EXIT_MMAP, t.mm)
    t.mm = 0
    t.depth = -1
    return REQ_EXIT


cdef int sys_exec(World *w, Task *t, Frame *f) noexcept nogil:
    """The process goes on in the empty address space a, and the old one is torn down as at exit. Nothing of its locks
    is inherited, not even mlockall(MCL_FUTURE); limits, user and capabilities stay."""
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        f.b = t.mm
        t.mm = <int32_t>f.a
        return call(w, t, f, 1, F_EXIT_MMAP, f.b)
    return sysret(t, 0, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_EXIT_MMAP] = exit_mmap
    table[<int>F_SYS_EXIT] = sys_exit
    table[<int>F_SYS_EXEC] = sys_exec
