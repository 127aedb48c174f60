# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The OOM reaper: takes a killed process's private memory before the process itself gets to exit. (mm/oom_kill.c)

The specification, section 2.8, and patch 03. Who is killed, and when, is the caller's choice.
"""
from fastmlock.flows.frame cimport *
from fastmlock.mm.page cimport work

cdef enum:
    OR_TRIED = 1
    OR_NEXT = 2
    OR_ZAPPED = 3
    OR_UNLOCKED = 4


cdef int oom_reap_task_mm(World *w, Task *t, Frame *f) noexcept nogil:
    """The private and anonymous memory of mm a is zapped under its mmap_lock for read, if that can be had at once:
    EAGAIN otherwise, as the kernel tries again later. Through patch 02 locked VMAs are left alone. i = vma."""
    cdef Vma *v
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        return ask(t, f, OR_TRIED, REQ_DOWN_READ_TRYLOCK, LK_MMAP, <uint32_t>f.a)
    if f.pc == OR_TRIED:
        if not t.res:
            return sysret(t, 0, EAGAIN)
        f.i = w.mms[f.a].vma
        f.pc = OR_NEXT
    if f.pc == OR_ZAPPED:
        return call(w, t, f, OR_NEXT, F_FLUSH, 0)
    if f.pc == OR_NEXT:
        while f.i:
            v = &w.vmas[f.i]
            if not v.flags & (VM_HUGETLB | VM_PFNMAP) and (w.tr.p03 or not v.flags & VM_LOCKED) \
                    and (not v.mapping or not v.flags & VM_SHARED):
                f.b = f.i
                f.i = v.next
                return call(w, t, f, OR_ZAPPED, F_ZAP, f.b, v.start, v.end)
            f.i = v.next
        return ask(t, f, OR_UNLOCKED, REQ_UP_READ, LK_MMAP, <uint32_t>f.a)
    return sysret(t, 0, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_OOM_REAP] = oom_reap_task_mm
