# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""What must hold between any two system calls, whatever the program: references, mappings, lists and counters add up.

`problems(world)` looks at a machine at rest (no task inside a call) and says what is wrong in words; a consistent one
gives an empty list. Sources: the specification, sections 1.2 to 1.7 and 4.1.

- every reference of a page has a holder: page-table entries, page cache, batch entries;
- every mapcount is a number of page-table entries, every rss and total_vm a number of pages, and every page of
  locked_vm lies in a VM_LOCKED vma (MREMAP_DONTUNMAP leaves too much:
  the whole old vma is unlocked, and from 6.15 what moved is accounted once more);
- the lists hold exactly the pages whose flags say so, and their lengths and counters agree;
- mlock_count (from patch 07, where both directions are counted) is at most the number of VM_LOCKED mappings plus the
  munlocks that wait in a batch, but for pages that MREMAP_DONTUNMAP left mapped in the old vma, which it unlocks
  without a munlock; a page on the unevictable list is not evictable;
- the counters: nr_mlock is the number of PG_mlocked pages, and from patch 06 mlocked - munlocked - stranded - cleared;
- interval trees are ordered, and their sums are right; free lists hold what is free.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from fastmlock.flows.frame cimport TASK_DONTUNMAPPED
from fastmlock.mm.lru cimport cpu_pvec, page_lru, task_pvec
from fastmlock.mm.page cimport page_evictable
from fastmlock.mm.pgtable cimport *
from fastmlock.state.types cimport *
from fastmlock.state.world cimport WorldHandle

import numpy as np

from fastmlock.state.layout import K

cdef int MOST = 20              # problems told at a time
_LISTS = ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")


cdef struct Counts:
    int64_t entries             # page-table entries found inside VMAs, of one mm
    int64_t present             # of them, pages
    int64_t waiting             # of them, migration entries
    int32_t *swapped            # page-table entries and files that refer to each swap slot


cdef void count_vma(World *w, uint32_t vma, int32_t *mapped, int32_t *huge, int32_t *locked, Counts *c) noexcept nogil:
    """Adds the entries of one vma to the pages they map; a huge pmd is one map of its THP, and one entry for each
    page."""
    cdef Vma *v = &w.vmas[vma]
    cdef int64_t vpn = v.start
    cdef uint64_t pte
    cdef uint32_t leaf
    while vma_next_entry(w, v, &vpn, &pte):
        leaf = find_leaf(w, v.mm, vpn)
        if pmd_huge(w, leaf):
            c.entries += 512
            if not pte & PTE_SPECIAL:
                c.present += 0 if v.flags & VM_HUGETLB else 512
                huge[pmd_huge(w, leaf)] += 1
                locked[pmd_huge(w, leaf)] += 1 if v.flags & VM_LOCKED else 0
            vpn += 512
            continue
        vpn += 1
        c.entries += 1
        if pte & PTE_MIGRATION:
            c.waiting += 1
        if pte & PTE_SWAP:
            c.swapped[pte_pfn(pte)] += 1
        if (pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT:
            c.present += 1
            mapped[pte_pfn(pte)] += 1
            if v.flags & VM_LOCKED:
                locked[pte_pfn(pte)] += 1


cdef int64_t walk_list(World *w, uint32_t page, int lru, uint32_t lruvec) noexcept nogil:
    """Base pages of a threaded list from `page` on; -1 if one does not belong there or the links are not symmetric."""
    cdef int64_t n = 0
    cdef uint32_t before = 0
    while page:
        if (not w.pages[page].flags & PG_lru or page_lru(w, page) != lru or w.pages[page].lruvec != lruvec
                or w.pages[page].lru_prev != before or n > w.pages_used):
            return -1
        n += 1 << w.pages[page].order
        before = page
        page = w.pages[page].lru_next
    return n


cdef int check_tree(World *w, uint32_t node, uint32_t parent, int64_t *before, int32_t *size, int32_t *nr_locked) noexcept:
    """In-order walk: 0 if first never falls and every sum is right, else 1."""
    cdef int32_t left = 0, left_locked = 0, right = 0, right_locked = 0
    cdef TreeNode *n = &w.nodes[node]
    cdef Vma *v
    size[0] = nr_locked[0] = 0
    if not node:
        return 0
    if n.parent != parent or check_tree(w, n.left, node, before, &left, &left_locked):
        return 1
    v = &w.vmas[n.vma]
    if n.first < before[0] or n.first != v.pgoff or n.last != v.pgoff + v.end - v.start - 1 or not v.mm:
        return 1
    before[0] = n.first
    if check_tree(w, n.right, node, before, &right, &right_locked):
        return 1
    size[0] = left + right + 1
    nr_locked[0] = left_locked + right_locked + (1 if v.flags & VM_LOCKED else 0)
    return n.size != size[0] or n.nr_locked != nr_locked[0]


def problems(WorldHandle world):
    """What is wrong with a machine at rest, one sentence each, at most 20; empty if nothing is."""
    cdef World *w = world.w
    out = []
    n = w.pages_used
    mapped_, huge_, locked_, held_, munlocks_, cached_ = (np.zeros(n, np.int32) for _ in range(6))
    cdef int32_t[::1] mapped = mapped_, huge = huge_, locked = locked_, held = held_, munlocks = munlocks_
    cdef int32_t[::1] cached = cached_
    swapped_ = np.zeros(max(w.swap_pages, 1), np.int32)
    cdef int32_t[::1] swapped = swapped_
    _address_spaces(world, mapped, huge, locked, swapped, out)
    _holders(world, held, munlocks, cached, swapped, out)
    _files(world, out)
    _swap(world, cached, swapped, out)
    _pages(world, mapped, huge, locked, held, munlocks, cached, out)
    _lists(world, out)
    _counters(world, mapped_ + huge_[_heads(world)], out)
    _trees(world, out)
    return out[:MOST]


def _heads(WorldHandle world):
    """For each page, the page that stands for it: the head of its THP, or itself."""
    pages = world.pages[:world.w.pages_used]
    return np.where(pages["flags"] & K.PG_tail, pages["compound_head"], np.arange(len(pages)))


cdef _address_spaces(WorldHandle world, int32_t[::1] mapped, int32_t[::1] huge, int32_t[::1] locked,
                     int32_t[::1] swapped, list out):
    cdef World *w = world.w
    cdef int64_t pages, locked_pages, end, entries
    cdef uint32_t vma, prev, mm
    cdef int nr
    cdef Counts c
    c.swapped = &swapped[0]
    tables = {}
    for leaf in range(1, w.leaves_used):
        if w.leaves[leaf].mm:
            tables[w.leaves[leaf].mm] = tables.get(w.leaves[leaf].mm, 0) + w.leaves[leaf].nr_present
    for task in range(1, w.nr_tasks):
        mm = w.tasks[task].mm
        if not mm:
            continue
        c.entries = c.present = c.waiting = 0
        pages = locked_pages = end = 0
        prev = 0
        nr = 0
        vma = w.mms[mm].vma
        while vma:
            v = w.vmas[vma]
            if v.mm != mm or v.prev != prev:
                out.append(f"process {task}: vma {v.start:#x} is badly linked")
            if v.start >= v.end or v.start < end:
                out.append(f"process {task}: vma {v.start:#x}-{v.end:#x} is empty or overlaps the one before")
            if v.flags & VM_LOCKONFAULT and not v.flags & VM_LOCKED:
                out.append(f"process {task}: vma {v.start:#x} is LOCKONFAULT but not LOCKED")
            if v.flags & VM_LOCKED and v.flags & (VM_SPECIAL | VM_HUGETLB):
                out.append(f"process {task}: special vma {v.start:#x} is LOCKED")
            if (v.mapping != 0) != (v.i_mmap_node != 0) or v.mapping and w.nodes[v.i_mmap_node].vma != vma:
                out.append(f"process {task}: vma {v.start:#x} is not in its file's tree")
            pages += v.end - v.start
            locked_pages += v.end - v.start if v.flags & VM_LOCKED else 0
            end = v.end
            nr += 1
            count_vma(w, vma, &mapped[0], &huge[0], &locked[0], &c)
            prev = vma
            vma = w.vmas[vma].next
        m = w.mms[mm]
        if m.map_count != nr or m.total_vm != pages:
            out.append(f"process {task}: map_count {m.map_count}, total_vm {m.total_vm}; {nr} vmas of {pages} pages")
        if m.locked_vm != locked_pages and not (
                w.tasks[task].flags & TASK_DONTUNMAPPED and m.locked_vm > locked_pages):
            out.append(f"process {task}: locked_vm {m.locked_vm}, {locked_pages} pages in locked vmas")
        if m.rss != c.present:
            out.append(f"process {task}: rss {m.rss}, {c.present} pages mapped")
        entries = tables.get(mm, 0)
        if entries != c.entries or c.waiting:
            out.append(f"process {task}: {entries} page-table entries, {c.entries} of them in vmas, {c.waiting} waiting")


def _files(WorldHandle world, list out):
    """Every vma of a file has an open file, and each of these is counted once for each of its vmas."""
    vmas = world.arrays["vmas"][:world.w.vmas_used]
    vmas = vmas[vmas["mm"] != 0]
    held = np.bincount(vmas["file"], minlength=world.w.files_used)
    count = world.arrays["files"]["f_count"][:world.w.files_used]
    for file in np.flatnonzero(held[1:] != count[1:]) + 1:
        out.append(f"open file {file}: {count[file]} references, {held[file]} vmas have it")
    if ((vmas["mapping"] != 0) != (vmas["file"] != 0)).any():
        out.append("a vma of a file without an open file, or the other way round")


cdef _swap(WorldHandle world, int32_t[::1] cached, int32_t[::1] swapped, list out):
    """Every slot is counted once for each that refers to it, and it and its page in the swap cache know each other."""
    cdef World *w = world.w
    cdef uint32_t slot, page
    cdef int64_t used = 0
    for slot in range(w.swap_pages):
        page = w.swap[slot].page
        used += w.swap[slot].count != 0 or page != 0
        if w.swap[slot].count != swapped[slot]:
            out.append(f"swap slot {slot}: count {w.swap[slot].count}, {swapped[slot]} refer to it")
        if page:
            cached[page] += 1
            if not w.pages[page].flags & PG_swapcache or w.pages[page].private_ != slot:
                out.append(f"page {page}: in the swap cache at {slot}, but says otherwise")
    if used != w.swap_used:
        out.append(f"{used} swap slots in use, {w.swap_used} counted")


cdef _holders(WorldHandle world, int32_t[::1] held, int32_t[::1] munlocks, int32_t[::1] cached, int32_t[::1] swapped,
              list out):
    cdef World *w = world.w
    cdef PageVec *pv
    cdef Mapping *m
    cdef uint32_t page
    cdef int64_t i, nr
    for cpu in range(w.nr_cpus):
        for kind in range(NR_PVECS):
            pv = cpu_pvec(w, cpu, kind)
            for i in range(pv.nr):
                held[pv.page[i]] += 1
                if kind == PVEC_MLOCK and pv.kind[i] == MUNLOCK_PAGE:
                    munlocks[pv.page[i]] += 1
    for task in range(1, w.nr_tasks):
        if w.tasks[task].gather or any(task_pvec(w, task, which).nr for which in range(NR_TPVECS)):
            out.append(f"process {task} is at rest and still holds pages")
    for mapping in range(1, w.mappings_used):
        m = &w.mappings[mapping]
        if m.kind == MAPPING_RESV:
            continue
        nr = 0
        for i in range(m.capacity):
            page = w.cache[m.base + i]
            if page and page < <uint32_t>SWAPPED:
                nr += 1
                cached[page] += 1
                if w.pages[page].mapping != <uint32_t>mapping or w.pages[page].index != i or w.pages[page].flags & PG_anon:
                    out.append(f"page {page}: in the cache of file {mapping} at {i}, but says otherwise")
            elif page and page != <uint32_t>SHADOW:
                swapped[page & ~<uint32_t>SWAPPED] += 1
        if nr != m.nrpages:
            out.append(f"file {mapping}: nrpages {m.nrpages}, {nr} pages cached")


cdef _pages(WorldHandle world, int32_t[::1] mapped, int32_t[::1] huge, int32_t[::1] locked, int32_t[::1] held,
            int32_t[::1] munlocks, int32_t[::1] cached, list out):
    cdef World *w = world.w
    cdef Page *p
    cdef uint32_t page
    cdef int32_t want
    cdef int64_t free = 0
    cdef int i
    for page in range(1, w.pages_used):
        p = &w.pages[page]
        want = mapped[page] + held[page] + cached[page]
        if p.flags & (PG_reserved | PG_offline):
            continue
        if p.flags & PG_head:
            want = huge[page]
            for i in range(THP_PAGES):
                want += mapped[page + i] + held[page + i] + cached[page + i]
                if i and (not w.pages[page + i].flags & PG_tail or w.pages[page + i].compound_head != page):
                    out.append(f"page {page + i} is no tail of THP {page}")
            if p.compound_mapcount != huge[page]:
                out.append(f"THP {page}: compound_mapcount {p.compound_mapcount}, {huge[page]} huge pmds")
        elif p.flags & PG_tail:
            want = 0
            if held[page] or p.flags & (PG_lru | PG_mlocked | PG_unevictable):
                out.append(f"tail {page} is in a batch or on a list")
        elif huge[page]:
            out.append(f"page {page} is mapped by a huge pmd and no THP")
        if p.flags & PG_hugetlb and (held[page] or p.flags & (PG_lru | PG_mlocked | PG_unevictable | PG_active)):
            out.append(f"huge page {page} of hugetlb is on a list, in a batch or marked")
        if p.flags & PG_buddy:
            free += 1
            if want or p.refcount:
                out.append(f"page {page} is free and has refcount {p.refcount}, {want} holders")
            continue
        if p.refcount != want:
            out.append(f"page {page}: refcount {p.refcount}; {mapped[page]} mappings, {cached[page]} in a cache, "
                       f"{held[page]} in batches")
        if p.mapcount != mapped[page]:
            out.append(f"page {page}: mapcount {p.mapcount}, {mapped[page]} page-table entries")
        if p.flags & PG_locked:
            out.append(f"page {page} is locked and nobody works on it")
        if p.flags & PG_active and p.flags & PG_unevictable:
            out.append(f"page {page} is active and unevictable")
        if p.flags & PG_anon and p.mapcount and not w.anon_vmas[w.ksm_items[p.mapping].anon_vma if p.flags & PG_ksm
                                                                else p.mapping].refs:
            out.append(f"page {page}: its anon_vma is gone")
        if p.flags & PG_lru and p.flags & PG_unevictable:
            if page_evictable(w, page):
                out.append(f"page {page} is evictable and on the unevictable list")
            if w.tr.p07 and not p.flags & PG_left_marked and p.lru_prev > <uint32_t>(locked[page] + munlocks[page]):
                out.append(f"page {page}: mlock_count {p.lru_prev}, {locked[page]} locked mappings, {munlocks[page]} "
                           f"munlocks waiting")
    page = w.hugetlb_pool
    pool = 0
    while page and pool <= w.pages_used:
        pool += 1
        if not w.pages[page].flags & PG_hugetlb or w.pages[page].refcount:
            out.append(f"page {page} is in hugetlb's pool and is not free")
        page = w.pages[page].lru_next
    if pool != w.hugetlb_free or w.hugetlb_resv > pool or w.hugetlb_free > w.hugetlb_total:
        out.append(f"hugetlb: {pool} pages in the pool, {w.hugetlb_free} counted, {w.hugetlb_resv} of them reserved")
    page = w.huge_free
    while page and w.pages[page].flags & PG_buddy:
        free -= THP_PAGES
        page = w.pages[page].lru_next
    if free != w.pages_nfree:
        out.append(f"{free} free pages, {w.pages_nfree} counted")
    on_lists = chain_length(w, w.pages_free)
    for cpu in range(PCP_LISTS):
        on_lists += chain_length(w, w.pcp[cpu])
    if on_lists != free:
        out.append(f"{free} free pages, {on_lists} of them on free lists")


cdef int64_t chain_length(World *w, uint32_t page) noexcept nogil:
    cdef int64_t n = 0
    while page and n <= w.pages_used and w.pages[page].flags & PG_buddy:
        n += 1
        page = w.pages[page].lru_next
    return n


cdef _lists(WorldHandle world, list out):
    cdef World *w = world.w
    cdef Lruvec *lv
    cdef uint32_t page
    cdef int lru
    counted = np.zeros((w.nr_lruvecs + 1, NR_LRU_LISTS), np.int64)
    cdef int64_t[:, ::1] on = counted
    for page in range(1, w.pages_used):
        if w.pages[page].flags & PG_lru:
            on[w.pages[page].lruvec, page_lru(w, page)] += 1 << w.pages[page].order
    for lruvec in range(1, w.nr_lruvecs + 1):
        lv = &w.lruvecs[lruvec]
        for lru in range(NR_LRU_LISTS):
            if lv.nr[lru] != on[lruvec, lru]:
                out.append(f"lruvec {lruvec} {_LISTS[lru]}: size {lv.nr[lru]}, {on[lruvec, lru]} pages")
            if lru == LRU_UNEVICTABLE and w.tr.p06:
                if lv.head[lru] or lv.tail[lru]:
                    out.append(f"lruvec {lruvec}: the unevictable list is threaded")
            elif walk_list(w, lv.head[lru], lru, <uint32_t>lruvec) != lv.nr[lru]:
                out.append(f"lruvec {lruvec} {_LISTS[lru]}: its links do not lead to its {lv.nr[lru]} pages")


cdef _counters(WorldHandle world, mapped, list out):
    cdef World *w = world.w
    stat = world.stat + world.stat_diff.sum(axis=0)
    flags = world.pages["flags"][:w.pages_used]
    sizes = np.left_shift(np.int64(1), world.pages["order"][:w.pages_used].astype(np.int64))
    marked = int(sizes[(flags & K.PG_mlocked) != 0].sum())
    if stat[K.ST_MLOCK] != marked:
        out.append(f"nr_mlock {stat[K.ST_MLOCK]}, {marked} pages marked")
    for lru, name in enumerate(_LISTS):
        size = int(world.lruvecs["nr"][:, lru].sum())
        if stat[lru] != size:
            out.append(f"nr_{name} {stat[lru]}, lists of {size}")
    anon = (flags & K.PG_anon) != 0
    mapped = np.where(flags[_heads(world)] & K.PG_hugetlb, 0, mapped)       # which the counters leave out
    for item, which in ((K.ST_ANON_MAPPED, anon), (K.ST_FILE_MAPPED, ~anon)):
        pages = int((which & (mapped > 0)).sum())
        if stat[item] != pages:
            out.append(f"{'anonymous' if item == K.ST_ANON_MAPPED else 'file'} pages mapped: {stat[item]}, really {pages}")
    event = world.vm_events()
    if w.tr.p06 and stat[K.ST_MLOCK] != (event[K.EV_MLOCKED] - event[K.EV_MUNLOCKED] - event[K.EV_STRANDED]
                                         - event[K.EV_CLEARED]):
        out.append("nr_mlock is not mlocked - munlocked - stranded - cleared")
    if w.tr.p06 and stat[K.ST_UNEVICTABLE] > event[K.EV_CULLED] - event[K.EV_RESCUED]:
        out.append("nr_unevictable is more than culled - rescued")


cdef _trees(WorldHandle world, list out):
    cdef World *w = world.w
    cdef int64_t before
    cdef int32_t size, nr_locked
    for mapping in range(1, w.mappings_used):
        before = -(<int64_t>1 << 62)
        if check_tree(w, w.mappings[mapping].root, 0, &before, &size, &nr_locked) or size != w.mappings[mapping].nr_vmas:
            out.append(f"file {mapping}: its interval tree is wrong")
    for anon_vma in range(1, w.anon_vmas_used):
        before = -(<int64_t>1 << 62)
        if w.anon_vmas[anon_vma].refs > 0 and check_tree(w, w.anon_vmas[anon_vma].tree, 0, &before, &size, &nr_locked):
            out.append(f"anon_vma {anon_vma}: its interval tree is wrong")
