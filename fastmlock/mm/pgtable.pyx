# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Page tables in two forms of leaf: bits for a file mapped in order, 512 full entries for all else.

Budget: a linear leaf is 296 bytes for 512 entries, 0.6 bytes an entry; a full one adds the 4 KiB the hardware
itself spends.
"""
from libc.string cimport memset
from fastmlock.state.pool cimport pool_next

cdef extern from *:
    int __builtin_ctzll(unsigned long long) noexcept nogil


cdef inline uint32_t *slot(World *w, uint32_t table, int64_t vpn, int level) noexcept nogil:
    """Entry of `table` (level 3 = root ... 1 = the one that points to leaves) on the way to vpn."""
    return &w.tables[<int64_t>table * 512 + ((vpn >> (9 * level)) & 511)]


cdef uint32_t find_leaf(World *w, uint32_t mm, int64_t vpn) noexcept nogil:
    work(w, WK_LEVEL, 4)
    return leaf_at(w, mm, vpn)


cdef uint32_t leaf_at(World *w, uint32_t mm, int64_t vpn) noexcept nogil:
    cdef uint32_t table = w.mms[mm].pgd
    cdef int level
    for level in range(3, 0, -1):
        if not table:
            return 0
        table = slot(w, table, vpn, level)[0]
    return table


cdef uint32_t new_table(World *w) noexcept nogil:
    cdef uint32_t table = w.tables_free
    cdef int i
    if table:
        w.tables_free = w.tables[<int64_t>table * 512]
        w.tables[<int64_t>table * 512] = 0
    else:
        table = pool_next(w, &w.tables_used, w.tables_cap, ERR_NO_TABLES)
    return table


cdef uint32_t new_leaf(World *w, uint32_t mm, int64_t vpn) noexcept nogil:
    cdef uint32_t leaf = w.leaves_free
    cdef Leaf *lf
    cdef int i
    if leaf:
        w.leaves_free = <uint32_t>w.leaves[leaf].first
    else:
        leaf = pool_next(w, &w.leaves_used, w.leaves_cap, ERR_NO_LEAVES)
        if not leaf:
            return 0
    lf = &w.leaves[leaf]
    memset(lf.bits, 0, sizeof(lf.bits))
    lf.mapping = lf.full = lf.huge = lf.none = 0
    lf.first = 0
    lf.nr_present = 0
    lf.mm = mm
    lf.vpn = vpn & ~<int64_t>511
    return leaf


cdef uint32_t alloc_leaf(World *w, uint32_t mm, int64_t vpn) noexcept nogil:
    cdef Mm *m = &w.mms[mm]
    cdef uint32_t table
    cdef uint32_t *entry
    cdef int level
    if not m.pgd:
        m.pgd = new_table(w)
    table = m.pgd
    work(w, WK_LEVEL, 4)
    for level in range(3, 0, -1):
        if not table:
            return 0
        entry = slot(w, table, vpn, level)
        if not entry[0]:
            entry[0] = new_leaf(w, mm, vpn) if level == 1 else new_table(w)
        table = entry[0]
    if table:
        w.leaves[table].none = 0
    return table


cdef int64_t next_mapped(World *w, uint32_t mm, int64_t vpn, int64_t end) noexcept nogil:
    cdef uint32_t table
    cdef int64_t span
    cdef int level
    while vpn < end:
        table = w.mms[mm].pgd
        span = 0
        for level in range(3, 0, -1):
            work(w, WK_LEVEL, 1)
            if table:
                table = slot(w, table, vpn, level)[0]
            if not table:
                span = <int64_t>1 << (9 * level)
                break
        if table:
            return vpn
        vpn = (vpn | (span - 1)) + 1
    return end


cdef int search_pte(World *w, uint32_t leaf, int i, int end) noexcept nogil:
    cdef Leaf *lf = &w.leaves[leaf]
    cdef uint64_t bits
    cdef uint64_t *pte
    if lf.nr_present == 0:
        work(w, WK_PTE, end - i)
        return end
    if lf.full:
        pte = &w.ptes[<int64_t>lf.full * 512]
        while i < end:
            work(w, WK_PTE, 1)
            if pte[i]:
                return i
            i += 1
        return end
    while i < end:
        bits = lf.bits[i >> 6].present >> (i & 63)
        if bits:
            i += __builtin_ctzll(bits)
            work(w, WK_PTE, 1)
            return i if i < end else end
        i = (i | 63) + 1
    return end


cdef bint vma_next_entry(World *w, Vma *vma, int64_t *vpn, uint64_t *pte) noexcept nogil:
    cdef uint32_t leaf
    cdef int64_t base
    cdef int i, end
    while True:
        vpn[0] = next_mapped(w, vma.mm, vpn[0], vma.end)
        if vpn[0] >= vma.end:
            return False
        leaf = find_leaf(w, vma.mm, vpn[0])
        base = w.leaves[leaf].vpn
        end = <int>min(vma.end - base, PTRS_PER_PTE)
        i = next_pte(w, leaf, <int>(vpn[0] - base), end)
        vpn[0] = base + i
        if i < end:
            pte[0] = pte_get(w, leaf, i)
            return True


cdef bint make_full(World *w, uint32_t leaf) noexcept nogil:
    """Gives a linear leaf its 512 full entries."""
    cdef Leaf *lf = &w.leaves[leaf]
    cdef uint32_t table = w.ptes_free
    cdef uint64_t *pte
    cdef int i
    if table:
        w.ptes_free = <uint32_t>w.ptes[<int64_t>table * 512]
    else:
        table = pool_next(w, &w.ptes_used, w.ptes_cap, ERR_NO_PTES)
        if not table:
            return False
    pte = &w.ptes[<int64_t>table * 512]
    for i in range(512):
        pte[i] = pte_get(w, leaf, i) if lf.mapping else 0
    lf.full = table
    lf.mapping = 0
    return True


cdef void pte_set(World *w, uint32_t leaf, int i, uint64_t pte, uint32_t mapping, int64_t pgoff) noexcept nogil:
    cdef Leaf *lf = &w.leaves[leaf]
    cdef int64_t first = w.mappings[mapping].base + pgoff - i
    cdef uint64_t bit
    cdef bint was_none = pte_get(w, leaf, i) == 0 if lf.full or lf.mapping else True
    work(w, WK_PTE_SET, 1)
    if was_none:
        lf.nr_present += 1
    if not lf.full:
        if mapping and (lf.nr_present == 1 or lf.mapping == 0) and was_none:
            lf.mapping = mapping
            lf.first = first
        if mapping and lf.mapping == mapping and lf.first == first:
            bit = <uint64_t>1 << (i & 63)
            lf.bits[i >> 6].present |= bit
            pte_flags(w, leaf, i, <int>(pte & 0xf), <int>(~pte & 0xe))
            return
        if not make_full(w, leaf):
            return
    w.ptes[<int64_t>lf.full * 512 + i] = pte


# ---- huge pmds
cdef bint set_huge_pmd(World *w, uint32_t leaf, uint32_t head, int flags) noexcept nogil:
    cdef Leaf *lf = &w.leaves[leaf]
    cdef uint64_t *pte
    cdef int i
    if not lf.full and not make_full(w, leaf):
        return False
    pte = &w.ptes[<int64_t>lf.full * 512]
    for i in range(512):
        pte[i] = mk_pte(head if flags & PTE_SPECIAL else head + i, flags)
    lf.huge = head
    lf.none = 0
    lf.nr_present = 512
    work(w, WK_PTE_SET, 1)
    return True


cdef void clear_huge_pmd(World *w, uint32_t leaf) noexcept nogil:
    cdef Leaf *lf = &w.leaves[leaf]
    cdef uint64_t *pte = &w.ptes[<int64_t>lf.full * 512]
    cdef int i
    for i in range(512):
        pte[i] = 0
    lf.huge = 0
    lf.none = 1
    lf.nr_present = 0
    work(w, WK_PTE_SET, 1)


cdef void huge_pmd_flags(World *w, uint32_t leaf, int set_flags, int clear_flags) noexcept nogil:
    cdef uint64_t *pte = &w.ptes[<int64_t>w.leaves[leaf].full * 512]
    cdef uint64_t flags = (pte[0] & 0xfff & ~<uint64_t>clear_flags) | <uint64_t>set_flags
    cdef int i
    if flags == pte[0] & 0xfff:
        return
    for i in range(512):
        pte[i] = (pte[i] & ~<uint64_t>0xfff) | flags


cdef void split_huge_entries(World *w, uint32_t leaf) noexcept nogil:
    cdef Leaf *lf = &w.leaves[leaf]
    cdef uint64_t *pte = &w.ptes[<int64_t>lf.full * 512]
    cdef int i
    if pte[0] & PTE_SPECIAL:
        for i in range(512):
            pte[i] = mk_pte(w.zero_page, PTE_PRESENT | PTE_YOUNG | PTE_SPECIAL)
    lf.huge = 0
    work(w, WK_PTE_SET, 512)


cdef void release_leaf(World *w, uint32_t leaf) noexcept nogil:
    cdef Leaf *lf = &w.leaves[leaf]
    if lf.full:
        w.ptes[<int64_t>lf.full * 512] = w.ptes_free
        w.ptes_free = lf.full
        lf.full = 0
    lf.huge = lf.none = 0
    lf.mm = 0
    lf.first = w.leaves_free
    w.leaves_free = leaf


cdef void free_leaf(World *w, uint32_t mm, int64_t vpn) noexcept nogil:
    cdef uint32_t table = w.mms[mm].pgd
    cdef uint32_t *entry
    cdef int level
    for level in range(3, 0, -1):
        if not table:
            return
        entry = slot(w, table, vpn, level)
        table = entry[0]
    if table:
        release_leaf(w, table)
        entry[0] = 0


cdef void free_level(World *w, uint32_t table, int level) noexcept nogil:
    cdef uint32_t *entry = &w.tables[<int64_t>table * 512]
    cdef int i
    for i in range(512):
        if entry[i]:
            if level == 1:
                release_leaf(w, entry[i])
            else:
                free_level(w, entry[i], level - 1)
            entry[i] = 0
    entry[0] = w.tables_free
    w.tables_free = table


cdef void free_tables(World *w, uint32_t mm) noexcept nogil:
    if w.mms[mm].pgd:
        free_level(w, w.mms[mm].pgd, 3)
        w.mms[mm].pgd = 0
