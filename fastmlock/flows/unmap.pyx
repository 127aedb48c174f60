# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Unmapping: zapping page-table entries, freeing what was gathered, leaving the reverse map, munmap.

The specification, sections 2.8 and 4.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport clear_mlock_due, munlock_page
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.lru cimport *
from fastmlock.mm.mlock cimport pte_munlocks, vma_counts_mlocks
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport *
from fastmlock.mm.swapfile cimport free_swap_and_cache, free_swap_cache
from fastmlock.mm.thp cimport thp_remove_rmap
from fastmlock.mm.vma cimport *
from fastmlock.state.prefetch cimport PREFETCH_AHEAD


# ---- zap_page_range of one vma
cdef enum:
    ZP_NEXT = 0
    ZP_ENTRY = 1
    ZP_ACCESSED = 2
    ZP_REMOVED = 3
    ZP_GATHER = 4
    ZP_UNLOCKED = 5
    ZP_FLUSHED = 6
    ZP_DELAYED = 7
    ZP_UNLOCK = 8
    ZP_GATHER_DELAYED = 9

cdef enum:
    GATHER_FULL = 1
    FLUSH_NOW = 2
    WHOLE_TABLE = 4                 # all that the page table covers is zapped, and the table may go
    YOUNG_RUN = 8                   # a page of the THP that is being unmapped was young
    DELAYED_RMAP = 1 << 31          # of a gathered page: its mapping goes with the flush


cdef inline bint last_of_folio(World *w, Frame *f) noexcept nogil:
    """No further pte of the same THP follows in the range: from 6.9 a run of them is removed, and munlocked, as one."""
    cdef int next = <int>(f.b - w.leaves[f.i].vpn)
    cdef uint64_t pte
    if f.b >= f.c or next > 511:
        return True
    pte = pte_get(w, f.i, next)
    return (pte & (PTE_PRESENT | PTE_SPECIAL)) != PTE_PRESENT or pte_pfn(pte) != <uint32_t>f.j + 1 \
        or compound_head(w, pte_pfn(pte)) != compound_head(w, f.j)


cdef int zap_page_range(World *w, Task *t, Frame *f) noexcept nogil:
    """Clears the entries of [b, c) in vma a; d = flags. Each page loses a mapping (and, from patch 04, a lock if the
    vma is locked) and is gathered, to be freed after the TLB flush. From 6.2 the mappings of dirty file pages go last
    of a table. i = leaf, j = page or position in the gather, k = why to flush."""
    cdef Vma *v = &w.vmas[<uint32_t>f.a]
    cdef uint32_t *gather = &w.gathers[<int64_t>task_index(w, t) * GATHER_MAX]
    cdef int64_t base
    cdef uint64_t pte
    cdef int entry, end, called
    cdef uint32_t leaf
    while True:
        if f.pc == ZP_NEXT:
            f.b = next_mapped(w, v.mm, f.b, f.c)
            if f.b >= f.c:
                return ret(t, 0)
            f.i = find_leaf(w, v.mm, f.b)
            if w.huge_zero and pmd_huge(w, f.i):
                if v.flags & VM_HUGETLB:
                    return become(t, f, F_HUGETLB_UNMAP)
                if f.b & 511 or f.c - f.b < 512:
                    return call(w, t, f, ZP_NEXT, F_SPLIT_PMD, f.a, f.b)
                f.b += 512
                return call(w, t, f, ZP_UNLOCKED, F_ZAP_PMD, f.a, f.b - 512)
            if w.tr.pt_reclaim and f.d & ZAP_RECLAIM_PT and not f.b & 511 and f.c - f.b >= 512:
                f.k |= WHOLE_TABLE
            return ask(t, f, ZP_ENTRY, REQ_SPIN_LOCK, LK_PTL, f.i)
        if f.pc == ZP_ENTRY:
            leaf = <uint32_t>f.i
            if w.huge_zero and pmd_huge(w, leaf):       # since it was looked at
                f.pc = ZP_UNLOCK
                continue
            base = w.leaves[leaf].vpn
            end = <int>min(f.c - base, <int64_t>512)
            entry = next_pte(w, leaf, <int>(f.b - base), end)
            f.b = base + entry
            if entry >= end or f.k & GATHER_FULL:
                f.j = 0
                f.pc = ZP_DELAYED if f.k & FLUSH_NOW and w.tr.delayed_rmap else ZP_UNLOCK
                continue
            pte = pte_get(w, leaf, entry)
            if entry + PREFETCH_AHEAD < end:
                prefetch_pte(w, leaf, entry + PREFETCH_AHEAD)
            if f.d & ZAP_KEEP_COWED and pte & PTE_PRESENT and not pte & PTE_SPECIAL \
                    and w.pages[pte_pfn(pte)].flags & PG_anon:
                f.b += 1
                continue
            f.b += 1
            if pte & PTE_SWAP:
                if not f.d & (ZAP_KEEP_COWED | (ZAP_OF_FILE if w.tr.zap_keeps_swap else 0)):
                    pte_clear(w, leaf, entry)
                    f.j = <int32_t>free_swap_and_cache(w, pte_pfn(pte))
                    if f.j:
                        return call(w, t, f, ZP_ENTRY, F_FREE_PAGE, f.j)
                continue
            pte_clear(w, leaf, entry)
            if not pte & PTE_PRESENT or pte & PTE_SPECIAL:
                continue
            w.mms[v.mm].rss -= 1
            f.j = pte_pfn(pte)
            f.pc = ZP_ACCESSED
            if not w.pages[f.j].flags & PG_anon:
                if pte & PTE_DIRTY:
                    folio_mark_dirty(w, compound_head(w, f.j))
                    f.k |= FLUSH_NOW        # before the page can be cleaned and written by somebody else
                    if w.tr.delayed_rmap:
                        f.pc = ZP_GATHER_DELAYED
                if w.tr.large_folio and page_compound(w, f.j):
                    if pte & PTE_YOUNG:
                        f.k |= YOUNG_RUN
                    if not f.k & YOUNG_RUN or not last_of_folio(w, f):
                        pte &= ~<uint64_t>PTE_YOUNG
                    else:
                        pte |= PTE_YOUNG
                        f.k &= ~YOUNG_RUN
                if pte & PTE_YOUNG and not v.flags & (VM_SEQ_READ | (VM_RAND_READ if w.tr.random_is_old else 0)) \
                        and mark_page_accessed(w, t.cpu, f.j):
                    return call(w, t, f, f.pc, F_PVEC, t.cpu, PVEC_ACTIVATE)
        if f.pc == ZP_ACCESSED:
            f.pc = ZP_REMOVED
            if page_remove_rmap(w, t.cpu, f.j) and clear_mlock_due(w, f.j):
                return call(w, t, f, ZP_REMOVED, F_CLEAR_MLOCK, compound_head(w, f.j))
        if f.pc == ZP_REMOVED:
            f.pc = ZP_GATHER
            if w.tr.p04 and pte_munlocks(w, v, f.j) and (not page_compound(w, f.j) or last_of_folio(w, f)):
                called = munlock_page(w, t, f, ZP_GATHER, compound_head(w, f.j))
                if called != -1:
                    return called
        if f.pc == ZP_GATHER or f.pc == ZP_GATHER_DELAYED:
            gather[t.gather] = <uint32_t>f.j | (<uint32_t>DELAYED_RMAP if f.pc == ZP_GATHER_DELAYED else 0)
            t.gather += 1
            if t.gather == GATHER_MAX:
                f.k |= GATHER_FULL
            f.pc = ZP_ENTRY
            if w.fine:
                return REQ_WORK
        # tlb_flush_rmaps(), the page-table lock still held
        if f.pc == ZP_DELAYED:
            while f.j < t.gather and not gather[f.j] & <uint32_t>DELAYED_RMAP:
                f.j += 1
            f.pc = ZP_UNLOCK
            if f.j < t.gather:
                gather[f.j] &= ~<uint32_t>DELAYED_RMAP
                f.pc = ZP_DELAYED
                page_remove_rmap(w, t.cpu, gather[f.j])
                if pte_munlocks(w, v, gather[f.j]) and not (
                        page_compound(w, gather[f.j]) and f.j + 1 < t.gather
                        and gather[f.j + 1] & ~<uint32_t>DELAYED_RMAP == gather[f.j] + 1
                        and compound_head(w, gather[f.j] + 1) == compound_head(w, gather[f.j])):
                    called = munlock_page(w, t, f, ZP_DELAYED, compound_head(w, gather[f.j]))
                    if called != -1:
                        return called
                continue
        if f.pc == ZP_UNLOCK:
            if f.k & WHOLE_TABLE:
                f.k &= ~WHOLE_TABLE
                w.leaves[f.i].none = w.leaves[f.i].nr_present == 0
            f.k &= ~YOUNG_RUN
            return ask(t, f, ZP_UNLOCKED, REQ_SPIN_UNLOCK, LK_PTL, f.i)
        if f.pc == ZP_UNLOCKED:
            if f.k or t.gather == GATHER_MAX:
                return call(w, t, f, ZP_FLUSHED, F_FLUSH, 0)
            f.pc = ZP_FLUSHED
        if f.pc == ZP_FLUSHED:
            f.k = 0
            f.pc = ZP_NEXT
            return REQ_RESCHED


cdef int remove_rmap(World *w, Task *t, Frame *f) noexcept nogil:
    """page_remove_rmap: vma b does not map page a any more, and what its last entry (before 05) or an entry of a locked
    vma (from 04) means to PG_mlocked. c = RmapFlag. zap_page_range, which does this most, has it in its own loop."""
    cdef uint32_t page = <uint32_t>f.a, head = compound_head(w, page)
    cdef Vma *v = &w.vmas[<uint32_t>f.b]
    cdef int called
    if f.pc == 0:
        f.pc = 1
        if (thp_remove_rmap(w, t.cpu, page) if f.c & RMAP_COMPOUND else page_remove_rmap(w, t.cpu, page)) \
                and clear_mlock_due(w, head):
            return call(w, t, f, 1, F_CLEAR_MLOCK, head)
    if f.pc == 1:
        if w.tr.p04 and (vma_counts_mlocks(w, v) if f.c & RMAP_COMPOUND else pte_munlocks(w, v, page)) \
                and not (f.c & RMAP_IF_MLOCKED and page_compound(w, page) and not test(w, head, PG_mlocked)):
            called = munlock_page(w, t, f, 2, head)
            if called != -1:
                return called
    return ret(t, 0)


cdef int tlb_flush_mmu(World *w, Task *t, Frame *f) noexcept nogil:
    """free_pages_and_swap_cache of the task's gather: with swap configured, and through 6.12, behind a local drain."""
    cdef uint32_t *gather
    cdef int i
    if f.pc == 0:
        if not t.gather:
            return ret(t, 0)
        work(w, WK_TLB, 1)
        f.pc = 1
        if w.tr.gather_drains:
            return call(w, t, f, 1, F_DRAIN, t.cpu)
    if f.pc == 1:
        if w.swap_used:
            gather = list_pages(w, list_ref(LIST_GATHER, task_index(w, t)))
            for i in range(t.gather):
                free_swap_cache(w, gather[i])
        return call(w, t, f, 2, F_RELEASE, list_ref(LIST_GATHER, task_index(w, t)), t.gather)
    t.gather = 0
    return ret(t, 0)


# ---- leaving the reverse map
cdef enum:
    UL_NEXT = 0
    UL_ANON = 1
    UL_FILE = 2
    UL_LOCKED = 3

cdef enum:
    PMD_PAGES = 512


cdef int unlink_vmas(World *w, Task *t, Frame *f) noexcept nogil:
    """What free_pgtables does to the VMAs from a on that begin below page b: unlink_anon_vmas under the root's rwsem,
    unlink_file_vma under i_mmap_rwsem, both for write. From 6.11 neighbours of one file (no further apart than a pmd)
    are unlinked under one hold, `unlink_batch` at most. i = vma, j = first one that waits for its file's lock,
    k = how many wait, c = rwsem held, d = end of the last vma seen."""
    cdef Vma *v
    cdef uint32_t vma
    while True:
        if f.pc == UL_NEXT:
            v = &w.vmas[<uint32_t>f.a]
            if f.k and (not f.a or v.start >= f.b or v.mapping != w.vmas[f.j].mapping or v.start > f.d + PMD_PAGES):
                f.c = w.vmas[f.j].mapping
                return ask(t, f, UL_LOCKED, REQ_DOWN_WRITE, LK_I_MMAP, <uint32_t>f.c)
            if not f.a or v.start >= f.b:
                return ret(t, 0)
            f.pc = UL_FILE
            if v.anon_vma:
                f.c = w.anon_vmas[v.anon_vma].root
                return ask(t, f, UL_ANON, REQ_DOWN_WRITE, LK_ANON_VMA, <uint32_t>f.c)
        if f.pc == UL_ANON:
            unlink_anon_vmas(w, <uint32_t>f.a)
            return ask(t, f, UL_FILE, REQ_UP_WRITE, LK_ANON_VMA, <uint32_t>f.c)
        if f.pc == UL_FILE:
            v = &w.vmas[<uint32_t>f.a]
            f.d = v.end
            if v.i_mmap_node:
                if not f.k:
                    f.j = <int32_t>f.a
                f.k += 1
            f.a = v.next
            f.pc = UL_NEXT
            if f.k == w.tr.unlink_batch:
                f.c = w.vmas[f.j].mapping
                return ask(t, f, UL_LOCKED, REQ_DOWN_WRITE, LK_I_MMAP, <uint32_t>f.c)
        if f.pc == UL_LOCKED:
            vma = f.j
            while f.k:
                if w.vmas[vma].i_mmap_node:
                    vma_unlink_file(w, vma)
                    f.k -= 1
                vma = w.vmas[vma].next
            return ask(t, f, UL_NEXT, REQ_UP_WRITE, LK_I_MMAP, <uint32_t>f.c)


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
    UR_UNLINKED = 7
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
            if w.vmas[f.i].end > f.b and mm.map_count >= w.max_map_count:
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
        return call(w, t, f, UR_UNLINKED, F_UNLINK_VMAS, f.i, f.b)
    if f.pc == UR_UNLINKED:
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
    table[<int>F_REMOVE_RMAP] = remove_rmap
    table[<int>F_FLUSH] = tlb_flush_mmu
    table[<int>F_UNLINK_VMAS] = unlink_vmas
    table[<int>F_UNMAP_REGION] = unmap_region
    table[<int>F_SYS_MUNMAP] = sys_munmap
