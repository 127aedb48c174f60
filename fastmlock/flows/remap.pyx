# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""mremap: growing, shrinking, moving. Moved entries carry no reverse-map change. (mm/mremap.c)"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.page cimport compound_head, work
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport anon_vma_clone, unlink_anon_vmas
from fastmlock.mm.vma cimport *

cdef enum:
    MREMAP_MAYMOVE = 1
    MREMAP_FIXED = 2
    MREMAP_DONTUNMAP = 4


# ---- move_page_tables
cdef int move_page_tables(World *w, Task *t, Frame *f) noexcept nogil:
    """c pages from vpn a to vpn b, a table at a time under both page-table locks. i, j = leaves, k = a huge pmd."""
    cdef int64_t at, to, end
    cdef uint64_t pte
    cdef uint32_t page
    if f.pc == 0:
        at = next_mapped(w, t.mm, f.a, f.a + f.c)
        f.b += at - f.a
        f.c -= at - f.a
        f.a = at
        if f.c <= 0:
            return ret(t, 0)
        f.i = find_leaf(w, t.mm, f.a)
        f.k = 0
        if pmd_huge(w, f.i):
            # a huge pmd moves whole to an empty one, or is cut
            if (f.a | f.b) & 511 or f.c < 512 or not pmd_none(w, find_leaf(w, t.mm, f.b)):
                return call(w, t, f, 0, F_SPLIT_PMD, find_vma(w, t.mm, f.a), f.a)
            f.k = 1
        f.j = alloc_leaf(w, t.mm, f.b)
        if not f.j:
            return REQ_ERROR
        return ask(t, f, 1, REQ_SPIN_LOCK, LK_PTL, f.i)
    if f.pc == 1:
        f.pc = 2
        if f.i != f.j:
            return ask(t, f, 2, REQ_SPIN_LOCK, LK_PTL, f.j)
    if f.pc == 2:
        # as far as one table reaches on either side
        end = min(f.c, min(512 - (f.a & 511), 512 - (f.b & 511)))
        if f.k and pmd_huge(w, f.i):
            pte = pte_get(w, f.i, 0)
            page = pmd_huge(w, f.i)
            clear_huge_pmd(w, f.i)
            if not set_huge_pmd(w, f.j, page, <int>(pte & 0xfff)):
                return REQ_ERROR
        at = next_pte(w, f.i, <int>(f.a & 511), <int>((f.a & 511) + end)) - (f.a & 511)
        while at < end:
            pte = pte_get(w, f.i, <int>((f.a + at) & 511))
            pte_clear(w, f.i, <int>((f.a + at) & 511))
            to = f.b + at
            page = pte_pfn(pte)
            if pte & PTE_PRESENT and not pte & PTE_SPECIAL and not w.pages[page].flags & PG_anon:
                pte_set(w, f.j, <int>(to & 511), pte, w.pages[page].mapping, w.pages[page].index)
            else:
                pte_set(w, f.j, <int>(to & 511), pte, 0, 0)
            at = next_pte(w, f.i, <int>((f.a + at + 1) & 511) if at + 1 < end else 512,
                          <int>((f.a & 511) + end)) - (f.a & 511)
        if end == 512:
            w.leaves[f.i].none = 1          # the whole table has moved
        f.a += end
        f.b += end
        f.c -= end
        f.pc = 3
        if f.i != f.j:
            return ask(t, f, 3, REQ_SPIN_UNLOCK, LK_PTL, f.j)
    return ask(t, f, 0, REQ_SPIN_UNLOCK, LK_PTL, f.i)


# ---- move_vma
cdef enum:
    MO_LINK = 1
    MO_LINKED = 2
    MO_MOVED = 3
    MO_UNMAPPED = 4
    MO_SPLIT_BELOW = 5
    MO_SPLIT = 6


cdef void leave_marked(World *w, Vma *v) noexcept nogil:
    """The whole old vma was unlocked; what part of it stays keeps its pages' marks and counts, which nothing takes
    back."""
    cdef int64_t vpn = v.start
    cdef uint64_t pte
    while vma_next_entry(w, v, &vpn, &pte):
        vpn += 1
        if (pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT:
            w.pages[compound_head(w, pte_pfn(pte))].flags |= PG_left_marked


cdef int move_vma(World *w, Task *t, Frame *f) noexcept nogil:
    """Copies vma a for [b, b + old) to vpn d (c = old | new << 28 | dontunmap << 56), moves its entries, and unmaps the
    old range or leaves it empty and unlocked. Anonymous memory that was never faulted takes the page offset of its
    new place. res = 0 or -errno. i = the copy, k = it was locked."""
    cdef uint32_t vma = <uint32_t>f.a
    cdef Vma *v = &w.vmas[vma]
    cdef int64_t old = f.c & 0xfffffff, new = (f.c >> 28) & 0xfffffff
    cdef bint dontunmap = (f.c >> 56) & 1
    cdef int64_t pgoff = f.b - v.start + v.pgoff
    cdef uint32_t prev, copy
    if f.pc == 0:
        if w.mms[t.mm].map_count >= w.max_map_count - 3:
            return ret(t, -ENOMEM)
        f.k = (v.flags & VM_LOCKED) != 0
        f.pc = MO_LINK
        if v.mapping:
            return ask(t, f, MO_LINK, REQ_DOWN_WRITE, LK_I_MMAP, v.mapping)
    if f.pc == MO_LINK:
        if not v.mapping and not v.anon_vma:
            pgoff = f.d
        prev = find_vma_before(w, t.mm, f.d)
        copy = vma_merge(w, t.mm, prev, f.d, f.d + new, v.flags, v.anon_vma, v.file, pgoff, vma)
        if not copy:
            copy = vm_area_dup(w, vma, t.mm, f.d, f.d + new, v.flags, pgoff)
            if not copy:
                return REQ_ERROR
            if not anon_vma_clone(w, copy, vma):
                return REQ_ERROR
            if v.mapping and not vma_link_file(w, copy, 0):
                return REQ_ERROR
            vma_list_insert(w, copy)
        f.i = copy
        w.mms[t.mm].total_vm += new
        f.pc = MO_LINKED
        if w.vmas[copy].mapping:
            return ask(t, f, MO_LINKED, REQ_UP_WRITE, LK_I_MMAP, w.vmas[copy].mapping)
    if f.pc == MO_LINKED:
        return call(w, t, f, MO_MOVED, F_MOVE_TABLES, f.b, f.d, old)
    if f.pc == MO_MOVED and v.flags & VM_HUGETLB:
        v.swap_ra = 0                   # what it has reserved went with the copy
    if f.pc == MO_MOVED and dontunmap and f.k and w.tr.dontunmap_splits:
        f.pc = MO_SPLIT_BELOW
        if v.start < f.b:
            return call(w, t, f, MO_SPLIT_BELOW, F_VMA_SPLIT, f.a, f.b, 1)
    if f.pc == MO_SPLIT_BELOW:
        f.pc = MO_SPLIT
        if v.end > f.b + old:
            return call(w, t, f, MO_SPLIT, F_VMA_SPLIT, f.a, f.b + old, 0)
    if f.pc == MO_MOVED or f.pc == MO_SPLIT:
        if dontunmap:
            set_vm_flags(w, vma, v.flags & ~<uint64_t>VM_LOCKED_MASK)
            if f.k and not w.tr.dontunmap_splits:
                t.flags |= TASK_DONTUNMAPPED
                leave_marked(w, v)
            if w.tr.dontunmap_accounts and f.k:
                w.mms[t.mm].locked_vm += new
            if w.tr.dontunmap_unlinks and <uint32_t>f.i != vma and v.start == f.b and v.end == f.b + old:
                unlink_anon_vmas(w, vma)
            return ret(t, 0)
        f.pc = MO_UNMAPPED
        t.res = 0
        if old:
            return call(w, t, f, MO_UNMAPPED, F_UNMAP_REGION, f.b, f.b + old)
    if t.res < 0:
        return ret(t, t.res)
    if f.k:
        w.mms[t.mm].locked_vm += new
    return ret(t, f.k)


# ---- checks
cdef int64_t get_unmapped_area(World *w, uint32_t mm, int64_t pages) noexcept nogil:
    """The highest free place, from the top downwards; the real choice depends on the whole process."""
    cdef uint32_t vma = w.mms[mm].vma
    cdef int64_t top = 0x7ffff7fff                  # mmap_base without randomisation
    cdef bint moved = True
    while moved:
        moved = False
        vma = w.mms[mm].vma
        while vma:
            if vm_start_gap(&w.vmas[vma]) < top and w.vmas[vma].end > top - pages:
                top = vm_start_gap(&w.vmas[vma])
                moved = True
                break
            vma = w.vmas[vma].next
    return top - pages


cdef int vma_to_resize(World *w, Task *t, int64_t start, int64_t old, int64_t new, int64_t flags) noexcept nogil:
    """May the range that begins at `start` be resized or moved so? 0 or an errno."""
    cdef uint32_t vma = find_vma(w, t.mm, start)
    cdef Vma *v = &w.vmas[vma]
    if not vma or v.start > start:
        return EFAULT
    if not old and not v.flags & VM_SHARED:
        return EINVAL
    if flags & MREMAP_DONTUNMAP:
        if w.tr.dontunmap_any and v.flags & (VM_DONTEXPAND | VM_PFNMAP) \
                or not w.tr.dontunmap_any and (v.mapping or v.flags & VM_SHARED):
            return EINVAL
    if v.flags & VM_HUGETLB and not w.tr.hugetlb_mremap:
        return EINVAL
    if old > v.end - start:
        return EFAULT
    if new == old or w.tr.mremap_checks_first and new < old:
        return 0
    if v.flags & (VM_DONTEXPAND | VM_PFNMAP):
        return EFAULT
    if v.flags & VM_LOCKED and not t.cap_ipc_lock and w.mms[t.mm].locked_vm + new - old > t.rlimit_memlock >> 12:
        return EAGAIN
    return 0


# ---- MREMAP_FIXED and MREMAP_DONTUNMAP
cdef enum:
    MT_DEST_UNMAPPED = 1
    MT_SHRUNK = 2
    MT_MOVED = 3


cdef int mremap_to(World *w, Task *t, Frame *f) noexcept nogil:
    """a = vpn, b = old pages, c = new pages | flags << 40, d = new vpn; mmap_lock held. What lies at the destination
    goes first. res = where it is now, or -errno. i = old pages after shrinking."""
    cdef int64_t flags = f.c >> 40, new = f.c & ((<int64_t>1 << 40) - 1)
    cdef int err
    if f.pc == 0:
        f.i = <int32_t>f.b
        if w.tr.mremap_checks_first:
            err = vma_to_resize(w, t, f.a, min(f.b, new), new, flags)    # what a shrink cuts off may lie anywhere
            if err:
                return ret(t, -err)
        f.pc = MT_DEST_UNMAPPED
        t.res = 0
        if flags & MREMAP_FIXED:
            if f.a + f.b > f.d and f.d + new > f.a:
                return ret(t, -EINVAL)
            if w.mms[t.mm].map_count + 2 >= w.max_map_count - 3:
                return ret(t, -ENOMEM)
            return call(w, t, f, MT_DEST_UNMAPPED, F_UNMAP_REGION, f.d, f.d + new)
    if f.pc == MT_DEST_UNMAPPED:
        if t.res < 0:
            return ret(t, t.res)
        f.pc = MT_SHRUNK
        if f.b > new:
            f.i = <int32_t>new
            return call(w, t, f, MT_SHRUNK, F_UNMAP_REGION, f.a + new, f.a + f.b)
    if f.pc == MT_SHRUNK:
        if t.res < 0:
            return ret(t, t.res)
        err = vma_to_resize(w, t, f.a, f.i, new, flags)
        if err:
            return ret(t, -err)
        if not flags & MREMAP_FIXED:
            f.d = get_unmapped_area(w, t.mm, new)
        return call(w, t, f, MT_MOVED, F_MOVE_VMA, find_vma(w, t.mm, f.a), f.a,
                    <int64_t>f.i | new << 28 | (<int64_t>1 << 56 if flags & MREMAP_DONTUNMAP else 0), f.d)
    return ret(t, t.res if t.res < 0 else f.d)


# ---- the system call
cdef enum:
    RM_LOCKED = 1
    RM_MANY = 2
    RM_SHRUNK = 3
    RM_GROW = 4
    RM_GROWN = 5
    RM_MOVED_TO = 6
    RM_MOVED = 7
    RM_UNLOCK = 8
    RM_DONE = 9


cdef int sys_mremap(World *w, Task *t, Frame *f) noexcept nogil:
    """a = address, b = old pages, c = new pages | flags << 40, d = new address. ret = where it is now. i = error, j =
    the error is answered as an address, k = populate behind the old end, before that position among many VMAs. Only
    growth of a locked mapping is populated."""
    cdef Mm *mm = &w.mms[t.mm]
    cdef int64_t flags = f.c >> 40, new = f.c & ((<int64_t>1 << 40) - 1)
    cdef int64_t start = f.a >> 12, first, end
    cdef uint32_t vma, next
    cdef Vma *v
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        if flags & ~7 or flags & MREMAP_FIXED and not flags & MREMAP_MAYMOVE or not new:
            return sysret(t, 0, EINVAL)
        if flags & MREMAP_DONTUNMAP and (not flags & MREMAP_MAYMOVE or f.b != new):
            return sysret(t, 0, EINVAL)
        return ask(t, f, RM_LOCKED, REQ_DOWN_WRITE, LK_MMAP, t.mm)
    if f.pc == RM_LOCKED:
        vma = find_vma(w, t.mm, start)
        if not vma or w.vmas[vma].start > start:
            # EFAULT, which 5.16 to 5.18 hand back as if 14 were an address
            f.j = w.tr.mremap_positive_efault
            if w.tr.mremap_looks_first or not flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) and f.b < new:
                return mremap_fail(t, f, EFAULT)
        t.res = 0
        if flags & MREMAP_FIXED and w.tr.mremap_many and f.b == new:
            f.pc = RM_MANY
        elif flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
            return call(w, t, f, RM_MOVED_TO, F_MREMAP_TO, start, f.b, f.c, f.d >> 12)
        elif f.b >= new:
            f.pc = RM_SHRUNK
            if f.b > new:
                return call(w, t, f, RM_SHRUNK, F_UNMAP_REGION, start + new, start + f.b)
        else:
            f.i = vma_to_resize(w, t, start, f.b, new, flags)
            if f.i:
                return mremap_fail(t, f, f.i)
            v = &w.vmas[vma]
            next = v.next
            if f.b == v.end - start and (not next or w.vmas[next].start >= v.end + new - f.b):
                f.pc = RM_GROW
                if v.mapping:
                    return ask(t, f, RM_GROW, REQ_DOWN_WRITE, LK_I_MMAP, v.mapping)
            elif not flags & MREMAP_MAYMOVE:
                return mremap_fail(t, f, ENOMEM)
            else:
                f.d = get_unmapped_area(w, t.mm, new) << 12
                return call(w, t, f, RM_MOVED, F_MOVE_VMA, vma, start, f.b | new << 28, f.d >> 12)
    if f.pc == RM_MANY:
        # 6.17: each vma of the range goes to the place that keeps its distance
        if t.res < 0:
            return mremap_fail(t, f, <int>-t.res)
        vma = find_vma(w, t.mm, start + f.k) if f.k < f.b else 0
        if vma and w.vmas[vma].start < start + f.b:
            first = max(w.vmas[vma].start, start + f.k)
            end = min(w.vmas[vma].end, start + f.b)
            f.k = <int32_t>(end - start)
            return call(w, t, f, RM_MANY, F_MREMAP_TO, first, end - first, (end - first) | flags << 40,
                        (f.d >> 12) + first - start)
        f.k = 0
        return ask(t, f, RM_UNLOCK, REQ_UP_WRITE, LK_MMAP, t.mm)
    if f.pc == RM_SHRUNK:
        if t.res < 0:
            return mremap_fail(t, f, <int>-t.res)
        return ask(t, f, RM_DONE, REQ_UP_WRITE, LK_MMAP, t.mm)
    if f.pc == RM_GROW:
        vma = find_vma(w, t.mm, start)
        v = &w.vmas[vma]
        vma_set_range(w, vma, v.start, start + new, v.pgoff)
        mm.total_vm += new - f.b
        if v.flags & VM_LOCKED:
            mm.locked_vm += new - f.b
            f.k = 1
        f.d = f.a
        f.pc = RM_GROWN
        if v.mapping:
            return ask(t, f, RM_GROWN, REQ_UP_WRITE, LK_I_MMAP, v.mapping)
    if f.pc == RM_GROWN:
        return ask(t, f, RM_UNLOCK, REQ_UP_WRITE, LK_MMAP, t.mm)
    if f.pc == RM_MOVED_TO:
        if t.res < 0:
            return mremap_fail(t, f, <int>-t.res)
        f.d = t.res << 12
        t.res = w.vmas[find_vma(w, t.mm, f.d >> 12)].flags & VM_LOCKED
        f.pc = RM_MOVED
    if f.pc == RM_MOVED:
        if t.res < 0:
            return mremap_fail(t, f, <int>-t.res)
        f.k = 1 if t.res and new > f.b else 0
        return ask(t, f, RM_UNLOCK, REQ_UP_WRITE, LK_MMAP, t.mm)
    if f.pc == RM_UNLOCK:
        if f.k:
            f.k = 0
            return call(w, t, f, RM_UNLOCK, F_POPULATE, (f.d >> 12) + f.b, (f.d >> 12) + new, 1)
        return sysret(t, f.d, 0)
    # RM_DONE: nothing moved
    if f.i and f.j:
        return sysret(t, f.i, 0)
    return sysret(t, f.a, f.i)


cdef inline int mremap_fail(Task *t, Frame *f, int err) noexcept nogil:
    f.i = err
    return ask(t, f, RM_DONE, REQ_UP_WRITE, LK_MMAP, t.mm)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_MOVE_TABLES] = move_page_tables
    table[<int>F_MOVE_VMA] = move_vma
    table[<int>F_MREMAP_TO] = mremap_to
    table[<int>F_SYS_MREMAP] = sys_mremap
