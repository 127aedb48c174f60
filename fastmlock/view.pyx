# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""What can be seen of a simulated machine from outside: /proc/vmstat, smaps, pagemap, kpageflags and their like."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from fastmlock.mm.filemap cimport find_get_page, swapped_slot
from fastmlock.mm.page cimport compound_head, page_mapcount
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.vma cimport find_vma
from fastmlock.state.types cimport *

import numpy as np

from fastmlock.state.layout import K

_LETTERS = ((K.PG_lru, "L"), (K.PG_unevictable, "U"), (K.PG_mlocked, "M"), (K.PG_active, "A"),
            (K.PG_referenced, "R"), (K.PG_dirty, "D"), (K.PG_anon, "a"), (K.PG_swapbacked, "s"),
            (K.PG_swapcache, "S"), (K.PG_writeback, "W"), (K.PG_locked, "K"), (K.PG_head, "T"), (K.PG_reserved, "z"))
_EVENTS = ("culled", "scanned", "rescued", "mlocked", "munlocked", "cleared", "stranded")


cdef uint32_t tail_flags(World *w, long pfn):
    """What /proc/kpageflags shows of a page of a THP that is not its head: from 6.9 the flags of the whole, before that
    its own, which are few; that it is anonymous and of a THP always."""
    cdef Page *p = &w.pages[pfn]
    cdef uint32_t head = w.pages[p.compound_head].flags
    if w.tr.folio_page_flags:
        return head
    return p.flags & PG_anon | (PG_head if head & (PG_lru | PG_anon) else 0)


cdef class View(WorldHandle):
    """The half of a `fastmlock.system.System` that only looks. Processes and files are its numbers."""

    def vmstat(self):
        stat = self.stat_refresh()
        events = self.vm_events()
        out = {"nr_mlock": int(stat[K.ST_MLOCK]), "nr_unevictable": int(stat[K.ST_UNEVICTABLE])}
        out.update((f"unevictable_pgs_{name}", int(events[i])) for i, name in enumerate(_EVENTS))
        out.update(nr_inactive_anon=int(stat[0]), nr_active_anon=int(stat[1]), nr_inactive_file=int(stat[2]),
                   nr_active_file=int(stat[3]))
        out.update(HugePages_Free=self.w.hugetlb_free, HugePages_Rsvd=self.w.hugetlb_resv)
        return out

    def vm_lck(self, int pid):
        return self.w.mms[self.w.tasks[pid].mm].locked_vm * 4

    def vmas(self, int pid):
        cdef World *w = self.w
        cdef uint32_t vma = w.mms[w.tasks[pid].mm].vma
        out = []
        while vma:
            out.append(self.smaps(vma))
            vma = w.vmas[vma].next
        return out

    cdef tuple smaps(self, uint32_t vma):
        """One entry of smaps: Locked is the proportional share of the pages present in a locked vma."""
        cdef World *w = self.w
        cdef Vma *v = &w.vmas[vma]
        cdef int64_t vpn = v.start, rss = 0, pss = 0
        cdef uint64_t pte
        while not v.flags & VM_HUGETLB and vma_next_entry(w, v, &vpn, &pte):
            vpn += 1
            if (pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT:
                rss += 4096
                pss += (<int64_t>4096 << 12) // max(page_mapcount(w, pte_pfn(pte)), 1)
        return (v.start << 12, v.end << 12, v.flags & 0x7fffffffffff, pss >> 22 if v.flags & VM_LOCKED else 0, rss >> 10)

    cdef uint32_t find(self, int pid, addr):
        cdef uint32_t vma = find_vma(self.w, self.w.tasks[pid].mm, addr >> 12)
        return vma if vma and self.w.vmas[vma].start <= addr >> 12 else 0

    def mapping_of(self, int pid, addr):
        """Number of the file that the vma at `addr` maps, 0 for anonymous memory or no vma."""
        return self.w.vmas[self.find(pid, addr)].mapping

    def file_of(self, int pid, addr):
        """The file that the vma at `addr` maps, None for private anonymous memory."""
        return self.mapping_of(pid, addr) or None

    def offset_of(self, int pid, addr):
        """Byte offset in its file of the first byte of the vma at `addr`."""
        return self.w.vmas[self.find(pid, addr)].pgoff << 12

    def pte(self, int pid, addr):
        cdef World *w = self.w
        cdef uint32_t leaf = find_leaf(w, w.tasks[pid].mm, addr >> 12)
        cdef uint64_t pte = pte_get(w, leaf, (addr >> 12) & 511) if leaf else 0
        if pte & (PTE_SWAP | PTE_MIGRATION):
            return "s", 0
        if not pte & PTE_PRESENT:
            return "-", 0
        vma = self.find(pid, addr)
        if w.vmas[vma].flags & VM_PFNMAP:
            return "-", 0               # which pagemap passes over
        anon = pte & PTE_SPECIAL or w.pages[pte_pfn(pte)].flags & PG_anon
        if pmd_huge(w, leaf) and pte_pfn(pte) == w.huge_zero:
            anon = False                # pagemap takes it for a file's
        return "a" if anon else "f", pte_pfn(pte)

    def ptes(self, int pid, addr, long pages):
        """The page-table entries of `pages` pages from `addr` on: uint64[pages], PTE_* bits below bit 12, pfn above;
        0 where there is none."""
        cdef World *w = self.w
        cdef int64_t vpn = addr >> 12, at
        cdef uint32_t leaf
        out = np.zeros(max(pages, 0), np.uint64)
        cdef uint64_t[::1] entries = out
        at = next_mapped(w, w.tasks[pid].mm, vpn, vpn + pages)
        while at < vpn + pages:
            leaf = find_leaf(w, w.tasks[pid].mm, at)
            entries[at - vpn] = pte_get(w, leaf, <int>(at & 511))
            at = next_mapped(w, w.tasks[pid].mm, at + 1, vpn + pages)
        return out

    def memory_stat(self, int memcg):
        """memory.stat of a memory cgroup, the lines of its LRU lists in bytes: inactive_anon ... unevictable."""
        rows = self.lruvecs[1:][self.lruvecs[1:]["memcg"] == memcg]["nr"].sum(axis=0)
        names = ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable")
        return {name: int(rows[i]) * 4096 for i, name in enumerate(names)}

    @property
    def swap_sizes(self):
        """Slots of the swap device, how many are in use, and of how many the page is in the swap cache; 0 0 0
        without."""
        cached = int((self.swap["page"] != 0).sum())
        return max(self.w.swap_pages - 1, 0), self.w.swap_used, cached

    def swapped(self, int pid, addr, long pages):
        """What of [addr, addr + pages) lies on the swap device, as smaps has it: (pages with a swap entry, their
        proportional share in bytes, pages of a tmpfs file that are swapped out and not mapped here)."""
        cdef World *w = self.w
        cdef uint32_t vma = self.find(pid, addr)
        cdef Vma *v = &w.vmas[vma]
        cdef int64_t entries = 0, share = 0, shmem = 0, vpn = addr >> 12
        own = v.flags & VM_WRITE and not v.flags & VM_SHARED
        for i, pte in enumerate(self.ptes(pid, addr, pages).tolist()):
            if pte & PTE_SWAP:
                entries += 1
                share += (4096 << 12) // max(w.swap[pte >> 12].count, 1)
            if vma and v.mapping and not (own and pte) and swapped_slot(w, v.mapping, vpn + i - v.start + v.pgoff):
                shmem += 1
        return entries, share >> 12, shmem

    def page(self, long pfn):
        """(mapcount, flag letters, mlock_count or -1 where it is not valid)"""
        cdef Page *p = &self.w.pages[pfn]
        if p.flags & PG_buddy:
            return 0, "", -1
        flags = p.flags
        if flags & PG_tail:
            flags = tail_flags(self.w, pfn)
        if self.w.pages[compound_head(self.w, pfn)].flags & PG_hugetlb:
            flags &= ~<uint32_t>PG_head             # no THP
        counted = self.w.tr.p06 and (p.flags & (PG_lru | PG_unevictable)) == (PG_lru | PG_unevictable)
        return (page_mapcount(self.w, pfn), "".join(letter for flag, letter in _LETTERS if flags & <uint32_t>flag),
                p.lru_prev if counted else -1)

    def file_pages(self, int file):
        return self.w.mappings[file].size

    def cached(self, int file, long index):
        """What mincore() sees: the page cache, and for what is swapped out the swap cache. 0 if nothing is there."""
        slot = swapped_slot(self.w, file, index)
        return self.w.swap[<uint32_t>slot].page if slot else find_get_page(self.w, file, index)
