# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The heap and stacks: brk, growth of a stack by a fault or by somebody else's look at it. (mm/mmap.c, mm/memory.c)

The specification, section 2.3. Both are held against RLIMIT_MEMLOCK. A heap that grows is populated if new mappings are
locked; a stack that a fault extends gets the faulting page only.
"""
from fastmlock.flows.frame cimport *
from fastmlock.mm.page cimport compound_head, folio_mark_dirty, work
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport anon_vma_prepare
from fastmlock.mm.vma cimport *

cdef enum:
    MMAP_MIN_PAGE = 16


cdef inline bint within_memlock(World *w, Task *t, Mm *mm, uint64_t flags, int64_t pages) noexcept nogil:
    """mlock_future_check: may so many pages more be mapped with these flags?"""
    return not flags & VM_LOCKED or t.cap_ipc_lock or mm.locked_vm + pages <= t.rlimit_memlock >> 12


# ---- brk
cdef enum:
    BR_LOCKED = 1
    BR_SHRUNK = 2
    BR_UNLOCKED = 3
    BR_DONE = 4


cdef bint do_brk_flags(World *w, Task *t, int64_t start, int64_t end) noexcept nogil:
    """Maps [start, end) behind the heap, or answers False."""
    cdef Mm *mm = &w.mms[t.mm]
    cdef uint64_t flags = VM_READ | VM_WRITE | VM_ACCOUNT | mm.def_flags
    cdef uint32_t next = find_vma(w, t.mm, start), vma
    # a heap does not merge upwards: a page stays free between it and what lies above
    if next and end + 1 > vm_start_gap(&w.vmas[next]) or end >= <int64_t>1 << 35:
        return False
    if not within_memlock(w, t, mm, mm.def_flags, end - start) or mm.map_count > w.max_map_count:
        return False
    if not vma_merge(w, t.mm, find_vma_before(w, t.mm, start), start, end, flags, 0, 0, start, 0):
        vma = vma_alloc(w, t.mm, start, end, flags, start, 0)
        if vma:
            vma_list_insert(w, vma)
    mm.total_vm += end - start
    if flags & VM_LOCKED:
        mm.locked_vm += end - start
    return True


cdef int sys_brk(World *w, Task *t, Frame *f) noexcept nogil:
    """a = the break asked for, in bytes. ret = the break there is then: the old one if it cannot be moved. b, c = the
    old and the new end of the heap in pages, d = answer, j = populate."""
    cdef Mm *mm = &w.mms[t.mm]
    cdef uint32_t vma
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        return ask(t, f, BR_LOCKED, REQ_DOWN_WRITE, LK_MMAP, t.mm)
    if f.pc == BR_LOCKED:
        f.d = mm.brk
        f.b = (mm.brk + 4095) >> 12
        f.c = (f.a + 4095) >> 12
        f.pc = BR_DONE
        if f.a < mm.start_brk:
            pass
        elif f.a <= mm.brk and f.c < f.b:
            vma = find_vma(w, t.mm, f.c)
            if not w.tr.brk_finds_vma or vma and w.vmas[vma].start < f.b:
                return call(w, t, f, BR_SHRUNK, F_UNMAP_REGION, f.c, f.b)
        elif f.b == f.c or do_brk_flags(w, t, f.b, f.c):
            f.d = f.a
            f.j = f.c > f.b and mm.def_flags & VM_LOCKED
    if f.pc == BR_SHRUNK:
        if t.res == 0:
            f.d = f.a
        f.pc = BR_DONE
    if f.pc == BR_DONE:
        mm.brk = f.d
        return ask(t, f, BR_UNLOCKED, REQ_UP_WRITE, LK_MMAP, t.mm)
    if f.pc == BR_UNLOCKED and f.j:
        f.j = 0
        return call(w, t, f, BR_UNLOCKED, F_POPULATE, f.b, f.c, 1)
    return sysret(t, f.d, 0)


# ---- stacks
cdef int expand_stack(World *w, Task *t, Frame *f) noexcept nogil:
    """Lets vma a, which lies above vpn b and grows downwards, begin there. It keeps its distance from what is mapped
    below unless that is a stack or out of use, and stays within RLIMIT_STACK and RLIMIT_MEMLOCK. res = 0 or -errno. The
    caller holds mmap_lock."""
    cdef uint32_t vma = <uint32_t>f.a
    cdef Vma *v = &w.vmas[vma]
    cdef Mm *mm = &w.mms[v.mm]
    cdef Vma *prev = &w.vmas[v.prev]
    cdef int64_t grow = v.start - f.b
    if f.pc == 0:
        if f.b < MMAP_MIN_PAGE:
            return ret(t, -EPERM)
        if v.prev and not prev.flags & VM_GROWSDOWN and prev.flags & VM_ACCESS_FLAGS \
                and f.b - prev.end < STACK_GUARD_GAP:
            return ret(t, -ENOMEM)
        if not anon_vma_prepare(w, vma):
            return REQ_ERROR
        return ask(t, f, 1, REQ_DOWN_WRITE, LK_ANON_VMA, w.anon_vmas[v.anon_vma].root)
    if f.pc == 1:
        f.d = -ENOMEM
        if grow <= v.pgoff and v.end - f.b <= STACK_LIMIT and within_memlock(w, t, mm, v.flags, grow):
            if v.flags & VM_LOCKED:
                mm.locked_vm += grow
            mm.total_vm += grow
            vma_set_range(w, vma, f.b, v.end, v.pgoff - grow)
            f.d = 0
        return ask(t, f, 2, REQ_UP_WRITE, LK_ANON_VMA, w.anon_vmas[v.anon_vma].root)
    return ret(t, f.d)


cdef enum:
    AR_LOCKED = 1
    AR_FOUND = 2
    AR_POPULATED = 3
    AR_LOOK = 4
    AR_DONE = 5
    AR_UNLOCKED = 6


cdef int access_remote_vm(World *w, Task *t, Frame *f) noexcept nogil:
    """Page b of mm a is read or (c) written by somebody else, as through /proc/PID/mem. The page comes by
    get_user_pages(), which may extend a stack: through 6.4 (stable 6.1 has the change too) a locked one
    is then populated down to it. ret = 1, or EIO.
    i = vma, d = where the stack began."""
    cdef Vma *v = &w.vmas[f.i]
    cdef uint64_t pte
    cdef uint32_t leaf
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        return ask(t, f, AR_LOCKED, REQ_DOWN_READ, LK_MMAP, <uint32_t>f.a)
    if f.pc == AR_LOCKED:
        f.i = find_vma(w, <uint32_t>f.a, f.b)
        v = &w.vmas[f.i]
        f.d = v.start
        f.pc = AR_FOUND
        t.res = 0
        if not f.i or v.start > f.b and not v.flags & VM_GROWSDOWN:
            t.res = -EFAULT
        elif v.start > f.b:
            return call(w, t, f, AR_FOUND, F_EXPAND_STACK, f.i, f.b)
    if f.pc == AR_FOUND:
        if t.res < 0 or v.flags & (VM_IO | VM_PFNMAP):
            f.d = 0
            return ask(t, f, AR_UNLOCKED, REQ_UP_READ, LK_MMAP, <uint32_t>f.a)
        if not v.flags & (VM_WRITE if f.c else VM_READ):        # FOLL_FORCE
            return unsupported(w, f.fn)
        f.pc = AR_LOOK
        if w.tr.gup_populates_stack and f.d > f.b and v.flags & VM_LOCKED \
                and not (w.tr.p02 and v.flags & VM_LOCKONFAULT):
            return call(w, t, f, AR_POPULATED, F_GUP, f.i, f.b, f.d, FOLL_TOUCH
                        | (0 if v.flags & VM_LOCKONFAULT else FOLL_POPULATE) | (0 if w.tr.p02 else FOLL_MLOCK)
                        | (FOLL_WRITE if v.flags & VM_WRITE else 0))
    if f.pc == AR_POPULATED:
        f.pc = AR_LOOK
        if w.tr.drain_on_populate:
            return call(w, t, f, AR_LOOK, F_DRAIN, t.cpu)
    if f.pc == AR_LOOK:
        return call(w, t, f, AR_DONE, F_GUP, f.i, f.b, f.b + 1, FOLL_TOUCH | (FOLL_WRITE if f.c else 0))
    if f.pc == AR_DONE:
        f.d = t.res > 0
        if f.d and f.c:
            leaf = find_leaf(w, <uint32_t>f.a, f.b)
            pte = pte_get(w, leaf, <int>(f.b & 511))
            folio_mark_dirty(w, compound_head(w, pte_pfn(pte)))             # set_page_dirty_lock()
            w.pages[pte_pfn(pte)].content = 0
        return ask(t, f, AR_UNLOCKED, REQ_UP_READ, LK_MMAP, <uint32_t>f.a)
    return sysret(t, f.d, 0 if f.d else EIO)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_SYS_BRK] = sys_brk
    table[<int>F_EXPAND_STACK] = expand_stack
    table[<int>F_ACCESS_REMOTE_VM] = access_remote_vm
