# Page tables: four levels of 512 entries, the lowest a Leaf. (arch page tables, mm/memory.c)
from libc.stdint cimport int64_t, uint32_t, uint64_t
from fastmlock.state.types cimport *
from fastmlock.mm.page cimport work
from fastmlock.state.prefetch cimport prefetch
from fastmlock.state.debug cimport *

# a page-table entry as flows see it, whatever the leaf's form: flags, and the pfn from bit 12 up
cdef enum Pte:
    PTE_PRESENT = 1
    PTE_YOUNG = 2
    PTE_DIRTY = 4
    PTE_WRITE = 8
    PTE_SPECIAL = 16        # the zero page: no struct page for the VM
    PTE_SWAP = 32
    PTE_MIGRATION = 64
    PTE_SWP_EXCLUSIVE = 128 # of a swap entry: the page was this process's alone (5.19)


cdef inline uint32_t pte_pfn(uint64_t pte) noexcept nogil:
    return <uint32_t>(pte >> 12)


cdef inline uint64_t mk_pte(uint32_t page, int flags) noexcept nogil:
    return (<uint64_t>page << 12) | <uint64_t>flags


cdef inline uint64_t pte_get(World *w, uint32_t leaf, int i) noexcept nogil:
    cdef Leaf *lf = &w.leaves[leaf]
    cdef PteBits *bits = &lf.bits[<uint32_t>i >> 6]
    cdef int at = i & 63
    vm_bug_on(w, leaf == 0 or leaf >= w.leaves_used or i < 0 or i >= PTRS_PER_PTE, BUG_PTE)
    if lf.full:
        return w.ptes[<int64_t>lf.full * 512 + i]
    if not bits.present >> at & 1:
        return 0
    return (<uint64_t>w.cache[lf.first + i] << 12) | PTE_PRESENT \
        | (bits.young >> at & 1) << 1 | (bits.dirty >> at & 1) << 2 | (bits.write >> at & 1) << 3


cdef inline bint linear_present(Leaf *lf, int i) noexcept nogil:
    """The leaf is linear and has entry i."""
    return not lf.full and lf.bits[<uint32_t>i >> 6].present >> (i & 63) & 1


cdef inline void prefetch_pte(World *w, uint32_t leaf, int i) noexcept nogil:
    """The page of a linear leaf's entry, if there is one, is wanted soon."""
    cdef Leaf *lf = &w.leaves[leaf]
    if linear_present(lf, i):
        prefetch(&w.pages[w.cache[lf.first + i]])


cdef inline void pte_clear(World *w, uint32_t leaf, int i) noexcept nogil:
    """The entry becomes none. It must not be none already."""
    cdef Leaf *lf = &w.leaves[leaf]
    vm_bug_on(w, lf.nr_present <= 0 or i < 0 or i >= PTRS_PER_PTE, BUG_PTE)
    if lf.full:
        w.ptes[<int64_t>lf.full * 512 + i] = 0
    else:
        lf.bits[<uint32_t>i >> 6].present &= ~(<uint64_t>1 << (i & 63))
    lf.nr_present -= 1
    work(w, WK_PTE_SET, 1)


cdef inline void pte_flags(World *w, uint32_t leaf, int i, int set_flags, int clear_flags) noexcept nogil:
    """Changes young, dirty and write of a present entry."""
    cdef Leaf *lf = &w.leaves[leaf]
    cdef PteBits *bits = &lf.bits[<uint32_t>i >> 6]
    cdef uint64_t bit = <uint64_t>1 << (i & 63)
    cdef uint64_t *pte
    if lf.full:
        pte = &w.ptes[<int64_t>lf.full * 512 + i]
        pte[0] = (pte[0] & ~<uint64_t>clear_flags) | <uint64_t>set_flags
        return
    if set_flags & PTE_YOUNG: bits.young |= bit
    if set_flags & PTE_DIRTY: bits.dirty |= bit
    if set_flags & PTE_WRITE: bits.write |= bit
    if clear_flags & PTE_YOUNG: bits.young &= ~bit
    if clear_flags & PTE_DIRTY: bits.dirty &= ~bit
    if clear_flags & PTE_WRITE: bits.write &= ~bit


# ---- huge pmds. Such a leaf has a full table whose entries name the THP's pages one by one, so that who only
# reads need not know; `huge` says that they are one entry.
cdef inline uint32_t pmd_huge(World *w, uint32_t leaf) noexcept nogil:
    """Head of the THP that this leaf's pmd maps, 0 if it maps a table of ptes or nothing."""
    return w.leaves[leaf].huge


cdef inline bint asks_pmd_none(World *w) noexcept nogil:
    """Whether it matters if a pmd is none: a huge page could come there, or fault-around begin the table."""
    return w.huge_zero != 0 or w.tr.around_spares_last


cdef inline bint pmd_none(World *w, uint32_t leaf) noexcept nogil:
    return leaf == 0 or w.leaves[leaf].none != 0


# maps a THP where nothing is mapped (`leaf` from alloc_leaf); `flags` as of a pte. False and w.error if tables are out
cdef bint set_huge_pmd(World *w, uint32_t leaf, uint32_t head, int flags) noexcept nogil
# the pmd becomes none
cdef void clear_huge_pmd(World *w, uint32_t leaf) noexcept nogil
# changes young, dirty and write of the one entry
cdef void huge_pmd_flags(World *w, uint32_t leaf, int set_flags, int clear_flags) noexcept nogil
# a table of 512 ptes takes the huge pmd's place: they map the THP's pages, or (huge zero page) the zero page each
cdef void split_huge_entries(World *w, uint32_t leaf) noexcept nogil

# leaf that holds vpn, 0 if there is none
cdef uint32_t find_leaf(World *w, uint32_t mm, int64_t vpn) noexcept nogil
# the same at no cost in virtual time: of what the kernel has in hand
cdef uint32_t leaf_at(World *w, uint32_t mm, int64_t vpn) noexcept nogil
# the same, made if missing; 0 and w.error when a pool is empty
cdef uint32_t alloc_leaf(World *w, uint32_t mm, int64_t vpn) noexcept nogil
# first page number in [vpn, end) that a leaf covers, or end: absent upper tables are skipped whole
cdef int64_t next_mapped(World *w, uint32_t mm, int64_t vpn, int64_t end) noexcept nogil
# first entry in [i, end) of a leaf that is not none, or end
cdef int search_pte(World *w, uint32_t leaf, int i, int end) noexcept nogil


cdef inline int next_pte(World *w, uint32_t leaf, int i, int end) noexcept nogil:
    """search_pte(), which is most often over at once."""
    if i < end and linear_present(&w.leaves[leaf], i):
        work(w, WK_PTE, 1)
        return i
    return search_pte(w, leaf, i, end)


# The first entry of a vma at or above vpn[0] that is not none: where it is and what it holds; false if there is none.
cdef bint vma_next_entry(World *w, Vma *vma, int64_t *vpn, uint64_t *pte) noexcept nogil
# Writes an entry that was none or is replaced. `mapping`, `pgoff`: the page is the one the page cache of that
# file holds there (mapping 0 = it is not), so that a linear leaf can keep it as a bit.
cdef void pte_set(World *w, uint32_t leaf, int i, uint64_t pte, uint32_t mapping, int64_t pgoff) noexcept nogil
# takes an empty leaf out of its tables
cdef void free_leaf(World *w, uint32_t mm, int64_t vpn) noexcept nogil
# frees every table of an mm whose entries are all none
cdef void free_tables(World *w, uint32_t mm) noexcept nogil
