# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""mlock, mlock2, munlock, mlockall, munlockall: checks, flags over a range, and the page-table walk of patch 07.

The specification, sections 2.1, 2.2 and 3 (patch 07).
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport mlock_page, munlock_page
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.mlock cimport vma_counts_mlock
from fastmlock.mm.page cimport compound_head, page_compound, work
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.vma cimport *

cdef enum:
    MCL_CURRENT = 1
    MCL_FUTURE = 2
    MCL_ONFAULT = 4

cdef int64_t ADDRESS_PAGES = <int64_t>1 << 52       # of 64-bit addresses


# ---- patch 07: one walk for both directions
cdef enum:
    WR_NEXT = 1
    WR_PTL = 2
    WR_UNLOCK = 3
    WR_RESCHED = 4
    WR_DRAINED = 5


cdef inline int folio_ptes(World *w, uint32_t leaf, int entry, int end) noexcept nogil:
    """How many ptes from this one on map the following pages of one THP."""
    cdef uint32_t first = pte_pfn(pte_get(w, leaf, entry)), head = compound_head(w, first)
    cdef uint64_t pte
    cdef int n = 1
    while entry + n < end:
        pte = pte_get(w, leaf, entry + n)
        if (pte & (PTE_PRESENT | PTE_SPECIAL)) != PTE_PRESENT or pte_pfn(pte) != first + n \
                or compound_head(w, first + n) != head:
            break
        n += 1
    return n


cdef int mlock_vma_pages_range(World *w, Task *t, Frame *f) noexcept nogil:
    """Stores the new flags, then counts (or takes back) a lock for every present pte. While pages are being
    counted VM_IO beside VM_LOCKED tells rmap not to count the same ptes. b = position, d = flags, i = leaf."""
    cdef uint32_t vma = <uint32_t>f.a
    cdef Vma *v = &w.vmas[vma]
    cdef uint64_t pte
    cdef int64_t base
    cdef uint32_t page
    cdef int entry, end, called, step
    if f.pc == 0:
        if f.d & VM_LOCKED:
            f.d |= VM_IO
        set_vm_flags(w, vma, <uint64_t>f.d)
        return call(w, t, f, WR_NEXT, F_DRAIN, t.cpu)
    if f.pc == WR_PTL:
        base = w.leaves[f.i].vpn
        end = <int>min(f.c - base, 512)
        entry = <int>(f.b - base)
        if pmd_huge(w, f.i) and not entry:
            # one lock, of the THP; the huge zero page has none
            page = pmd_huge(w, f.i)
            f.b = base + end
            if page != w.huge_zero:
                if v.flags & VM_LOCKED:
                    called = mlock_page(w, t, f, WR_PTL, page)
                else:
                    called = munlock_page(w, t, f, WR_PTL, page)
                if called != -1:
                    return called
            entry = end
        while True:
            entry = next_pte(w, f.i, entry, end)
            f.b = base + entry
            if entry >= end:
                break
            pte = pte_get(w, f.i, entry)
            entry += 1
            f.b += 1
            if (pte & (PTE_PRESENT | PTE_SPECIAL)) != PTE_PRESENT:
                continue
            page = pte_pfn(pte)
            if page_compound(w, page):
                # from 6.7 a run of a large folio's ptes is one munlock, and one lock if it is the whole of it
                step = folio_ptes(w, f.i, entry - 1, end) if w.tr.large_folio else 1
                entry += step - 1
                f.b += step - 1
                if not w.tr.large_folio or v.flags & VM_LOCKED and step < 512:
                    continue
                page = compound_head(w, page)
            if v.flags & VM_LOCKED:
                called = mlock_page(w, t, f, WR_PTL, page)
            else:
                called = munlock_page(w, t, f, WR_PTL, page)
            if called != -1:
                return called
        return ask(t, f, WR_UNLOCK, REQ_SPIN_UNLOCK, LK_PTL, f.i)
    if f.pc == WR_UNLOCK:
        f.pc = WR_NEXT
        return REQ_RESCHED
    if f.pc == WR_NEXT:
        f.b = next_mapped(w, v.mm, f.b, f.c)
        if f.b < f.c:
            f.i = find_leaf(w, v.mm, f.b)
            return ask(t, f, WR_PTL, REQ_SPIN_LOCK, LK_PTL, f.i)
        return call(w, t, f, WR_DRAINED, F_DRAIN, t.cpu)
    if f.d & VM_IO:
        set_vm_flags(w, vma, <uint64_t>(f.d & ~<int64_t>VM_IO))
    return ret(t, 0)


# ---- splitting and merging, with the locks that order the reverse map
cdef enum:
    VS_LOCKED = 1
    VS_ANON = 2
    VS_ANON_UNLOCKED = 3
    VS_UNLOCKED = 4
    VS_ADJUSTED = 5


cdef inline bint straddled(World *w, uint32_t mm, int64_t vpn) noexcept nogil:
    """A huge pmd lies across this page number, which is to become a boundary of VMAs (vma_adjust_trans_huge)."""
    cdef uint32_t leaf
    if not w.huge_zero or not vpn & 511:
        return False
    leaf = find_leaf(w, mm, vpn)
    return leaf != 0 and pmd_huge(w, leaf) != 0


cdef int vma_split_locked(World *w, Task *t, Frame *f) noexcept nogil:
    """__split_vma: a = vma, b = vpn, c = new below. Who must not come over the limit of VMAs asks before."""
    cdef uint32_t vma = <uint32_t>f.a
    cdef Vma *v = &w.vmas[vma]
    if f.pc == 0:
        f.pc = VS_ADJUSTED
        if v.flags & VM_HUGETLB and f.b & 511:
            return ret(t, -EINVAL)
        if straddled(w, v.mm, f.b):
            return call(w, t, f, VS_ADJUSTED, F_SPLIT_PMD, f.a, f.b)
    if f.pc == VS_ADJUSTED:
        f.pc = VS_LOCKED
        if v.mapping:
            return ask(t, f, VS_LOCKED, REQ_DOWN_WRITE, LK_I_MMAP, v.mapping)
    if f.pc == VS_LOCKED:
        f.pc = VS_ANON
        if v.anon_vma:
            return ask(t, f, VS_ANON, REQ_DOWN_WRITE, LK_ANON_VMA, w.anon_vmas[v.anon_vma].root)
    if f.pc == VS_ANON:
        if not vma_split(w, vma, f.b, f.c != 0):
            return REQ_ERROR
        f.pc = VS_ANON_UNLOCKED
        if v.anon_vma:
            return ask(t, f, VS_ANON_UNLOCKED, REQ_UP_WRITE, LK_ANON_VMA, w.anon_vmas[v.anon_vma].root)
    if f.pc == VS_ANON_UNLOCKED:
        if v.mapping:
            return ask(t, f, VS_UNLOCKED, REQ_UP_WRITE, LK_I_MMAP, v.mapping)
    return ret(t, 0)


cdef inline bint at_map_count(World *w, uint32_t mm) noexcept nogil:
    return w.mms[mm].map_count >= w.max_map_count


cdef int vma_merge_locked(World *w, Task *t, Frame *f) noexcept nogil:
    """a = prev, b = start, c = end, d = flags, i = the vma that models the range (or 0: k = mapping, j = nothing
    there yet and pgoff in the caller's d). res = the vma that covers the range now, 0 if nothing merged."""
    cdef uint32_t model = <uint32_t>f.i
    cdef Vma *v = &w.vmas[model]
    cdef int64_t pgoff
    cdef uint32_t merged
    if f.pc == 0:
        pgoff = v.pgoff + (f.b - v.start)
        if not vma_can_merge(w, v.mm, <uint32_t>f.a, f.b, f.c, <uint64_t>f.d, v.anon_vma, v.file, pgoff, model):
            return ret(t, 0)
        f.pc = 3
        if straddled(w, v.mm, f.b):
            return call(w, t, f, 3, F_SPLIT_PMD, model, f.b)
    if f.pc == 3:
        f.pc = 4
        if straddled(w, v.mm, f.c):
            return call(w, t, f, 4, F_SPLIT_PMD, model, f.c)
    if f.pc == 4:
        f.j = v.mapping
        f.pc = 1
        if v.mapping:
            return ask(t, f, 1, REQ_DOWN_WRITE, LK_I_MMAP, v.mapping)
    if f.pc == 1:
        pgoff = v.pgoff + (f.b - v.start)
        merged = vma_merge(w, v.mm, <uint32_t>f.a, f.b, f.c, <uint64_t>f.d, v.anon_vma, v.file, pgoff, model)
        f.k = merged
        if f.j:
            return ask(t, f, 2, REQ_UP_WRITE, LK_I_MMAP, f.j)
    return ret(t, f.k)


cdef int vma_flags_locked(World *w, Task *t, Frame *f) noexcept nogil:
    """Merges with neighbours or splits, so that one vma covers [b, c) of vma a to be given the flags d. res = that
    vma or -errno; a merged vma has the flags already. i = vma."""
    cdef int r
    if f.pc == 0:
        f.i = <int32_t>f.a
        r = call(w, t, f, 1, F_VMA_MERGE, f.i if f.b > w.vmas[f.i].start else w.vmas[f.i].prev, f.b, f.c, f.d)
        t.stack[t.depth].i = f.i
        return r
    if f.pc == 1:
        if t.res:
            return ret(t, t.res)
        f.pc = 2
        if f.b != w.vmas[f.i].start:
            if at_map_count(w, t.mm):
                return ret(t, -ENOMEM)
            return call(w, t, f, 2, F_VMA_SPLIT, f.i, f.b, 1)
    if f.pc == 2:
        if t.res < 0:
            return ret(t, t.res)
        f.pc = 3
        if f.c != w.vmas[f.i].end:
            if at_map_count(w, t.mm):
                return ret(t, -ENOMEM)
            return call(w, t, f, 3, F_VMA_SPLIT, f.i, f.c, 0)
    return ret(t, t.res if t.res < 0 else f.i)


# ---- one vma's piece
cdef int mlock_fixup(World *w, Task *t, Frame *f) noexcept nogil:
    """Gives [b, c) of vma a the flags d, accounts locked_vm, then sees to the pages. res = the vma that now covers the
    piece, or -errno. i = vma. The caller's frame keeps in d the flags the piece had before."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef uint64_t old = <uint64_t>t.stack[t.depth - 1].d
    cdef int64_t n
    if f.pc == 0:
        f.i = <int32_t>f.a
        if <uint64_t>f.d == v.flags or v.flags & (VM_SPECIAL | VM_HUGETLB) or vma_is_secretmem(w, v):
            return ret(t, f.i)
        return call(w, t, f, 1, F_VMA_FLAGS, f.a, f.b, f.c, f.d)
    if f.pc == 1:
        if t.res < 0:
            return ret(t, t.res)
        f.i = <int32_t>t.res
        n = f.c - f.b
        if not f.d & VM_LOCKED:
            n = -n
        elif old & VM_LOCKED:
            n = 0
        w.mms[w.vmas[f.i].mm].locked_vm += n
        if w.tr.p07 and not (old & VM_LOCKED and f.d & VM_LOCKED):
            return call(w, t, f, 2, F_MLOCK_RANGE, f.i, f.b, f.c, f.d)
        if w.tr.p07 or f.d & VM_LOCKED:
            set_vm_flags(w, f.i, <uint64_t>f.d)
        else:
            return call(w, t, f, 2, F_MUNLOCK_RANGE, f.i, f.b, f.c)
    return ret(t, f.i)


cdef int apply_vma_lock_flags(World *w, Task *t, Frame *f) noexcept nogil:
    """Flags c over [a, b): vma by vma, stopping with ENOMEM at the first gap; what was done before it stays. i = vma,
    j = 1 once begun, d = the current piece's old flags (mlock_fixup reads them)."""
    cdef Vma *v
    cdef int64_t start, end
    if f.pc == 0:
        if f.b == f.a:
            return ret(t, 0)
        if f.b >= ADDRESS_PAGES:                # in bytes it has wrapped
            return ret(t, -EINVAL)
        f.i = find_vma(w, t.mm, f.a)
        if not f.i or w.vmas[f.i].start > f.a:
            return ret(t, -ENOMEM)
        f.pc = 1
    else:
        if t.res < 0:
            return ret(t, t.res)
        # go on behind what was done
        if f.a >= f.b:
            return ret(t, 0)
        f.i = w.vmas[<uint32_t>t.res].next if w.vmas[<uint32_t>t.res].end <= f.a else <int32_t>t.res
        if not f.i or w.vmas[f.i].start > f.a:
            return ret(t, -ENOMEM)
    v = &w.vmas[f.i]
    start = f.a
    end = min(v.end, f.b)
    f.d = <int64_t>v.flags
    f.a = end
    return call(w, t, f, 1, F_MLOCK_FIXUP, f.i, start, end, (v.flags & ~<uint64_t>VM_LOCKED_MASK) | <uint64_t>f.c)


cdef int apply_mlockall_flags(World *w, Task *t, Frame *f) noexcept nogil:
    """Flags c over every vma, errors ignored. a = where to go on, d as above."""
    cdef Vma *v
    f.i = find_vma(w, t.mm, f.a)
    if not f.i:
        return ret(t, 0)
    v = &w.vmas[f.i]
    f.d = <int64_t>v.flags
    f.a = v.end
    return call(w, t, f, 0, F_MLOCK_FIXUP, f.i, v.start, v.end,
                (v.flags & ~<uint64_t>VM_LOCKED_MASK) | <uint64_t>f.c)


# ---- the system calls
cdef inline bint can_do_mlock(Task *t) noexcept nogil:
    return t.rlimit_memlock != 0 or t.cap_ipc_lock


cdef inline int64_t page_align(int64_t bytes) noexcept nogil:
    """Rounded up to a page; may wrap, as the kernel's unsigned sum does."""
    return <int64_t>((<uint64_t>bytes + 4095) & ~<uint64_t>4095)


cdef int64_t count_mm_mlocked_pages(World *w, uint32_t mm, int64_t start, int64_t pages) noexcept nogil:
    """Pages from `start` on that already lie in locked VMAs. An end beyond all addresses is the last one from 6.1 on;
    before it has wrapped, and a locked vma around both start and end counts backwards, as a huge number."""
    cdef uint32_t vma = find_vma(w, mm, start)
    cdef int64_t count = 0, end = start + pages
    if not w.tr.locked_count_clamps:
        end &= ADDRESS_PAGES - 1
    while vma and w.vmas[vma].start < end:
        if w.vmas[vma].flags & VM_LOCKED:
            count += min(end, w.vmas[vma].end) - max(start, w.vmas[vma].start)
        vma = w.vmas[vma].next
    return count & (ADDRESS_PAGES - 1)


cdef enum:
    SM_LOCKED = 1
    SM_APPLIED = 2
    SM_UNLOCKED = 3
    SM_POPULATED = 4


cdef int sys_mlock(World *w, Task *t, Frame *f) noexcept nogil:
    """mlock and mlock2: a = address, b = length in bytes, c = VM_LOCKED [| VM_LOCKONFAULT]. d = error."""
    cdef Mm *mm = &w.mms[t.mm]
    cdef int64_t locked, limit
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        if not can_do_mlock(t):
            return sysret(t, 0, EPERM)
        f.b = <int64_t>(<uint64_t>page_align(f.b + (f.a & 4095)) >> 12)
        f.a = <int64_t>(<uint64_t>f.a >> 12)
        return ask(t, f, SM_LOCKED, REQ_DOWN_WRITE, LK_MMAP, t.mm)
    if f.pc == SM_LOCKED:
        limit = t.rlimit_memlock >> 12
        locked = f.b + mm.locked_vm
        if locked > limit and not t.cap_ipc_lock:
            locked -= count_mm_mlocked_pages(w, t.mm, f.a, f.b)
        if locked > limit and not t.cap_ipc_lock:
            f.d = -ENOMEM
            f.b = 0
            return ask(t, f, SM_UNLOCKED, REQ_UP_WRITE, LK_MMAP, t.mm)
        return call(w, t, f, SM_APPLIED, F_APPLY_LOCK, f.a, f.a + f.b, f.c)
    if f.pc == SM_APPLIED:
        f.d = t.res
        return ask(t, f, SM_UNLOCKED, REQ_UP_WRITE, LK_MMAP, t.mm)
    if f.pc == SM_UNLOCKED:
        if f.d < 0:
            return sysret(t, 0, <int>-f.d)
        return call(w, t, f, SM_POPULATED, F_POPULATE, f.a, f.a + f.b, 0)
    if t.res == -EFAULT:
        return sysret(t, 0, ENOMEM)
    if t.res == -ENOMEM:
        return sysret(t, 0, EAGAIN)
    return sysret(t, 0, <int>-t.res)


cdef int sys_munlock(World *w, Task *t, Frame *f) noexcept nogil:
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        f.b = <int64_t>(<uint64_t>page_align(f.b + (f.a & 4095)) >> 12)
        f.a = <int64_t>(<uint64_t>f.a >> 12)
        return ask(t, f, 1, REQ_DOWN_WRITE, LK_MMAP, t.mm)
    if f.pc == 1:
        return call(w, t, f, 2, F_APPLY_LOCK, f.a, f.a + f.b, 0)
    if f.pc == 2:
        f.d = t.res
        return ask(t, f, 3, REQ_UP_WRITE, LK_MMAP, t.mm)
    return sysret(t, 0, <int>-f.d)


cdef int sys_mlockall(World *w, Task *t, Frame *f) noexcept nogil:
    """a = flags. A second call replaces the first."""
    cdef Mm *mm = &w.mms[t.mm]
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        if not f.a or f.a & ~7 or f.a == MCL_ONFAULT:
            return sysret(t, 0, EINVAL)
        if not can_do_mlock(t):
            return sysret(t, 0, EPERM)
        return ask(t, f, 1, REQ_DOWN_WRITE, LK_MMAP, t.mm)
    if f.pc == 1:
        if f.a & MCL_CURRENT and mm.total_vm > t.rlimit_memlock >> 12 and not t.cap_ipc_lock:
            f.d = ENOMEM
            return ask(t, f, 4, REQ_UP_WRITE, LK_MMAP, t.mm)
        f.c = VM_LOCKED | (VM_LOCKONFAULT if f.a & MCL_ONFAULT else 0)
        mm.def_flags &= ~<uint64_t>VM_LOCKED_MASK
        if f.a & MCL_FUTURE:
            mm.def_flags |= <uint64_t>f.c
        if not f.a & MCL_CURRENT:
            return ask(t, f, 4, REQ_UP_WRITE, LK_MMAP, t.mm)
        return call(w, t, f, 2, F_APPLY_LOCK_ALL, 0, 0, f.c)
    if f.pc == 2:
        return ask(t, f, 3, REQ_UP_WRITE, LK_MMAP, t.mm)
    if f.pc == 3:
        return call(w, t, f, 4, F_POPULATE, 0, <int64_t>1 << 36, 1)
    return sysret(t, 0, <int>f.d)


cdef int sys_munlockall(World *w, Task *t, Frame *f) noexcept nogil:
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        return ask(t, f, 1, REQ_DOWN_WRITE, LK_MMAP, t.mm)
    if f.pc == 1:
        w.mms[t.mm].def_flags &= ~<uint64_t>VM_LOCKED_MASK
        return call(w, t, f, 2, F_APPLY_LOCK_ALL, 0, 0, 0)
    if f.pc == 2:
        return ask(t, f, 3, REQ_UP_WRITE, LK_MMAP, t.mm)
    return sysret(t, 0, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_MLOCK_RANGE] = mlock_vma_pages_range
    table[<int>F_VMA_SPLIT] = vma_split_locked
    table[<int>F_VMA_MERGE] = vma_merge_locked
    table[<int>F_VMA_FLAGS] = vma_flags_locked
    table[<int>F_MLOCK_FIXUP] = mlock_fixup
    table[<int>F_APPLY_LOCK] = apply_vma_lock_flags
    table[<int>F_APPLY_LOCK_ALL] = apply_mlockall_flags
    table[<int>F_SYS_MLOCK] = sys_mlock
    table[<int>F_SYS_MUNLOCK] = sys_munlock
    table[<int>F_SYS_MLOCKALL] = sys_mlockall
    table[<int>F_SYS_MUNLOCKALL] = sys_munlockall
