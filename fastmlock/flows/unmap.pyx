# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Unmapping: zapping page-table entries, freeing what was gathered, leaving the reverse map, munmap.

The specification, sections 2.8 and 4.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport munlock_page
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.lru cimport *
from fastmlock.mm.mlock cimport vma_counts_mlock
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport *
from fastmlock.mm.vma cimport *


# ---- zap_page_range of one vma
cdef enum:
    ZP_NEXT = 0
    ZP_ENTRY = 1
    ZP_ACCESSED = 2
    ZP_REMOVED = 3
    ZP_GATHER = 4
    ZP_UNLOCKED = 5
    ZP_FLUSHED = 6

cdef enum:
    ZAP_KEEP_COWED = 1          # only pages of the file itself (hole punch keeps private copies)

cdef enum:
    GATHER_FULL = 1
    FLUSH_NOW = 2


cdef int zap_page_range(World *w, Task *t, Frame *f) noexcept nogil:
    """Clears the entries of [b, c) in vma a; d = flags. Each page loses a mapping (and, from patch 04, a lock if the
    vma is locked) and is gathered, to be freed after the TLB flush. i = leaf, j = page, k = why to flush."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef int64_t base
    cdef uint64_t pte
    cdef int entry, end, called
    while True:
        if f.pc == ZP_NEXT:
            f.b = next_mapped(w, v.mm, f.b, f.c)
            if f.b >= f.c:
                return ret(t, 0)
            f.i = find_leaf(w, v.mm, f.b)
            return ask(t, f, ZP_ENTRY, REQ_SPIN_LOCK, LK_PTL, f.i)
        if f.pc == ZP_ENTRY:
            base = w.leaves[f.i].vpn
            end = <int>min(f.c - base, 512)
            entry = next_pte(w, f.i, <int>(f.b - base), end)
            f.b = base + entry
            if entry >= end or f.k & GATHER_FULL:
                return ask(t, f, ZP_UNLOCKED, REQ_SPIN_UNLOCK, LK_PTL, f.i)
            pte = pte_get(w, f.i, entry)
            if f.d & ZAP_KEEP_COWED and pte & PTE_PRESENT and not pte & PTE_SPECIAL \
                    and w.pages[pte_pfn(pte)].flags & PG_anon:
                f.b += 1
                continue
            f.b += 1
            pte_clear(w, f.i, entry)
            if not pte & PTE_PRESENT or pte & PTE_SPECIAL:
                continue
            w.mms[v.mm].rss -= 1
            f.j = pte_pfn(pte)
            f.pc = ZP_ACCESSED
            if not w.pages[f.j].flags & PG_anon:
                if pte & PTE_DIRTY:
                    w.pages[f.j].flags |= PG_dirty
                    f.k |= FLUSH_NOW        # before the page can be cleaned and written by somebody else
                if pte & PTE_YOUNG and mark_page_accessed(w, t.cpu, f.j):
                    return call(w, t, f, ZP_ACCESSED, F_PVEC, t.cpu, PVEC_ACTIVATE)
        if f.pc == ZP_ACCESSED:
            f.pc = ZP_REMOVED
            if page_remove_rmap(w, t.cpu, f.j) and not w.tr.p05 and test(w, f.j, PG_mlocked):
                return call(w, t, f, ZP_REMOVED, F_CLEAR_MLOCK, f.j)
        if f.pc == ZP_REMOVED:
            f.pc = ZP_GATHER
            if w.tr.p04 and vma_counts_mlock(w, v, f.j):
                called = munlock_page(w, t, f, ZP_GATHER, f.j)
                if called != -1:
                    return called
        if f.pc == ZP_GATHER:
            w.gathers[<int64_t>task_index(w, t) * GATHER_MAX + t.gather] = f.j
            t.gather += 1
            if t.gather == GATHER_MAX:
                f.k |= GATHER_FULL
            f.pc = ZP_ENTRY
            if w.fine:
                return REQ_WORK
        if f.pc == ZP_UNLOCKED:
            if f.k:
                return call(w, t, f, ZP_FLUSHED, F_FLUSH, 0)
            f.pc = ZP_FLUSHED
        if f.pc == ZP_FLUSHED:
            f.k = 0
            f.pc = ZP_NEXT
            return REQ_RESCHED


cdef int tlb_flush_mmu(World *w, Task *t, Frame *f) noexcept nogil:
    """free_pages_and_swap_cache of the task's gather: with swap configured, and through 6.12, behind a local drain."""
    if f.pc == 0:
        if not t.gather:
            return ret(t, 0)
        work(w, WK_TLB, 1)
        f.pc = 1
        if w.tr.gather_drains:
            return call(w, t, f, 1, F_DRAIN, t.cpu)
    if f.pc == 1:
        return call(w, t, f, 2, F_RELEASE, list_ref(LIST_GATHER, task_index(w, t)), t.gather)
    t.gather = 0
    return ret(t, 0)


# ---- leaving the reverse map
cdef enum:
    UL_ANON = 1
    UL_FILE = 2
    UL_FILE_LOCKED = 3


cdef int unlink_vma(World *w, Task *t, Frame *f) noexcept nogil:
    """One vma's part of free_pgtables: unlink_anon_vmas under the root's rwsem, unlink_file_vma under i_mmap_rwsem,
    both for write. i = anon_vma root."""
    cdef uint32_t vma = <uint32_t>f.a
    cdef Vma *v = &w.vmas[vma]
    if f.pc == 0:
        f.pc = UL_FILE
        if v.anon_vma:
            f.i = w.anon_vmas[v.anon_vma].root
            return ask(t, f, UL_ANON, REQ_DOWN_WRITE, LK_ANON_VMA, f.i)
    if f.pc == UL_ANON:
        unlink_anon_vmas(w, vma)
        return ask(t, f, UL_FILE, REQ_UP_WRITE, LK_ANON_VMA, f.i)
    if f.pc == UL_FILE:
        if v.i_mmap_node:
            return ask(t, f, UL_FILE_LOCKED, REQ_DOWN_WRITE, LK_I_MMAP, v.mapping)
    elif f.pc == UL_FILE_LOCKED:
        vma_unlink_file(w, vma)
        return ask(t, f, 4, REQ_UP_WRITE, LK_I_MMAP, v.mapping)
    return ret(t, 0)


cdef void free_empty_leaves(World *w, uint32_t mm, int64_t start, int64_t end) noexcept nogil:
    """Page tables under [start, end) that no vma of the mm needs any more."""
    cdef int64_t vpn = next_mapped(w, mm, start, end), base
    cdef uint32_t vma
    while vpn < end:
        base = vpn & ~<int64_t>511
        vma = find_vma(w, mm, base)
        if not vma or w.vmas[vma].start >= base + 512:
            free_leaf(w, mm, vpn)
        vpn = next_mapped(w, mm, base + 512, end)


# ---- munmap of a range whose mmap_lock is held for write
cdef enum:
    UR_SPLIT_START = 1
    UR_SPLIT_END = 2
    UR_MUNLOCK = 3
    UR_DETACH = 4
    UR_DRAINED = 5
    UR_ZAP = 6
    UR_UNLINK = 7
    UR_FLUSHED = 8


cdef int unmap_region(World *w, Task *t, Frame *f) noexcept nogil:
    """__do_munmap: [a, b) in pages. i = first vma of the range, j = vma at hand. res = 0 or -errno."""
    cdef Mm *mm = &w.mms[t.mm]
    cdef uint32_t vma, next
    if f.pc == 0:
        f.i = find_vma(w, t.mm, f.a)
        if not f.i or w.vmas[f.i].start >= f.b:
            return ret(t, 0)
        f.pc = UR_SPLIT_START
        t.res = 0
        if w.vmas[f.i].start < f.a:
            if w.vmas[f.i].end > f.b and mm.map_count >= 65530:
                return ret(t, -ENOMEM)
            return call(w, t, f, UR_SPLIT_START, F_VMA_SPLIT, f.i, f.a, 0)
    if f.pc == UR_SPLIT_START:
        if t.res < 0:
            return ret(t, t.res)
        f.i = find_vma(w, t.mm, f.a)
        f.j = find_vma(w, t.mm, f.b - 1)
        f.pc = UR_SPLIT_END
        if f.j and w.vmas[f.j].start < f.b < w.vmas[f.j].end:
            return call(w, t, f, UR_SPLIT_END, F_VMA_SPLIT, f.j, f.b, 1)
    if f.pc == UR_SPLIT_END:
        if t.res < 0:
            return ret(t, t.res)
        f.i = f.j = find_vma(w, t.mm, f.a)
        f.pc = UR_MUNLOCK
    if f.pc == UR_MUNLOCK:
        # base to 02: what is locked is munlocked first; from 03 it stays locked while it is zapped
        while f.j and w.vmas[f.j].start < f.b:
            vma = f.j
            f.j = w.vmas[vma].next
            if w.vmas[vma].flags & VM_LOCKED:
                mm.locked_vm -= vma_pages(&w.vmas[vma])
                if not w.tr.p03:
                    return call(w, t, f, UR_MUNLOCK, F_MUNLOCK_RANGE, vma, w.vmas[vma].start, w.vmas[vma].end)
        f.pc = UR_DETACH
    if f.pc == UR_DETACH:
        vma = f.i
        while vma and w.vmas[vma].start < f.b:
            next = w.vmas[vma].next
            mm.total_vm -= vma_pages(&w.vmas[vma])
            vma_list_remove(w, vma)             # its own `next` still leads along the detached ones
            vma = next
        f.j = f.i
        f.pc = UR_DRAINED
        if w.tr.munmap_drains:
            return call(w, t, f, UR_DRAINED, F_DRAIN, t.cpu)
    if f.pc == UR_DRAINED:
        if f.j and w.vmas[f.j].start < f.b:
            vma = f.j
            f.j = w.vmas[vma].next
            return call(w, t, f, UR_DRAINED, F_ZAP, vma, w.vmas[vma].start, w.vmas[vma].end)
        f.j = f.i
        f.pc = UR_UNLINK
    if f.pc == UR_UNLINK:
        if f.j and w.vmas[f.j].start < f.b:
            vma = f.j
            f.j = w.vmas[vma].next
            return call(w, t, f, UR_UNLINK, F_UNLINK_VMA, vma)
        return call(w, t, f, UR_FLUSHED, F_FLUSH, 0)
    vma = f.i
    while vma and w.vmas[vma].start < f.b:
        next = w.vmas[vma].next
        vma_free(w, vma)
        vma = next
    free_empty_leaves(w, t.mm, f.a, f.b)
    return ret(t, 0)


cdef int sys_munmap(World *w, Task *t, Frame *f) noexcept nogil:
    """a = address, b = length in bytes."""
    cdef int64_t pages
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        pages = <int64_t>((<uint64_t>f.b + 4095) >> 12)
        if f.a & 4095 or not pages or <uint64_t>f.a > <uint64_t>1 << 47:
            return sysret(t, 0, EINVAL)
        f.a = f.a >> 12
        f.b = f.a + pages
        return ask(t, f, 1, REQ_DOWN_WRITE, LK_MMAP, t.mm)
    if f.pc == 1:
        return call(w, t, f, 2, F_UNMAP_REGION, f.a, f.b)
    if f.pc == 2:
        f.d = t.res
        return ask(t, f, 3, REQ_UP_WRITE, LK_MMAP, t.mm)
    return sysret(t, 0, <int>-f.d)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_ZAP] = zap_page_range
    table[<int>F_FLUSH] = tlb_flush_mmu
    table[<int>F_UNLINK_VMA] = unlink_vma
    table[<int>F_UNMAP_REGION] = unmap_region
    table[<int>F_SYS_MUNMAP] = sys_munmap
