# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""ksmd: looks through the memory that processes call mergeable for pages of equal content. (mm/ksm.c)

The kernel's runs for ever, some pages at a time; here a run is as many full scans as change something, and it is the
controller's work. A page's content is the one byte that a process wrote (`Page.content`), which stands for the kernel's
checksum and for its comparison too. Up to 256 places share a page (max_page_sharing); more are not modelled.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from fastmlock.flows.frame cimport F_KSM_MERGE, F_KSM_UNMERGE
from fastmlock.mm.ksm cimport ksm_prune
from fastmlock.mm.pgtable cimport *
from fastmlock.state.types cimport *
from fastmlock.system cimport System

from fastmlock.scenario.system import NotSupported

MAX_PAGE_SHARING = 256


cdef class Ksmd:
    """What ksmd remembers of one machine between its scans."""

    cdef System system
    cdef dict checksums         # (mm, vpn) -> content when it was last looked at
    cdef dict stable            # content -> KSM page

    def __init__(self, System system):
        self.system = system
        self.checksums = {}
        self.stable = {}

    def run(self):
        """Full scans, each with all batches drained before, until one changes nothing."""
        again = True
        while again:
            self.system.drain_all()
            again = self.scan()
            ksm_prune(self.system.w)

    def unmerge(self):
        """Every place gets a page of its own again, and all is forgotten."""
        cdef World *w = self.system.w
        for mm in self.system.ksm_mms:
            for vma in self.areas(mm):
                self.system.make_room(w.vmas[<uint32_t>vma].end - w.vmas[<uint32_t>vma].start)
                self.system.call(self.system.controller, F_KSM_UNMERGE, vma, w.vmas[<uint32_t>vma].start,
                                 w.vmas[<uint32_t>vma].end)
        self.checksums.clear()
        self.stable.clear()
        ksm_prune(w)
        self.system.drain_all()

    def areas(self, int mm):
        """The vmas of an mm that have pages to merge."""
        cdef World *w = self.system.w
        cdef uint32_t vma = w.mms[mm].vma
        found = []
        while vma:
            if w.vmas[vma].flags & VM_MERGEABLE and w.vmas[vma].anon_vma:
                if w.vmas[vma].mapping:
                    raise NotSupported("KSM of copies of file pages")
                found.append(vma)
            vma = w.vmas[vma].next
        return found

    def scan(self):
        """One look at every page. -> whether anything is different now"""
        cdef World *w = self.system.w
        cdef int64_t vpn
        cdef uint64_t pte
        cdef uint32_t vma, page
        changed, unstable, seen = False, {}, {}
        for mm in self.system.ksm_mms:
            for vma in self.areas(mm):
                vpn = w.vmas[vma].start
                while vma_next_entry(w, &w.vmas[vma], &vpn, &pte):
                    page = pte_pfn(pte)
                    if (pte & (PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT and w.pages[page].flags & PG_anon:
                        if w.pages[page].flags & (PG_head | PG_tail):
                            raise NotSupported("KSM of huge pages")
                        key = mm, vpn
                        seen[key] = self.checksums.get(key)
                        changed |= self.look(key, vma, page, unstable, seen)
                    vpn += 1
        self.checksums = seen
        return changed

    cdef bint look(self, tuple key, uint32_t vma, uint32_t page, dict unstable, dict seen) except -1:
        """cmp_and_merge_page."""
        cdef World *w = self.system.w
        content = w.pages[page].content
        vpn = key[1]
        if w.pages[page].flags & PG_ksm:
            return not self.knows(page, key) and self.merge(vma, vpn, page)
        kept = self.stable.get(content, 0)
        if kept and w.pages[<uint32_t>kept].flags & PG_ksm and w.pages[<uint32_t>kept].content == content:
            return self.merge(vma, vpn, kept)
        if seen[key] != content:
            seen[key] = content
            return True
        if content not in unstable:
            unstable[content] = vma, vpn, page
            return False
        other_vma, other_vpn, other = unstable[content]
        if other == page or not self.merge(vma, vpn, 0):
            return False
        del unstable[content]
        self.merge(other_vma, other_vpn, page)
        self.stable[content] = page
        return True

    cdef bint knows(self, uint32_t page, tuple key) except -1:
        cdef World *w = self.system.w
        cdef uint32_t item = w.pages[page].mapping
        places = 0
        while item:
            if (w.ksm_items[item].mm, w.ksm_items[item].vpn) == key:
                return True
            item = w.ksm_items[item].next
            places += 1
        if places >= MAX_PAGE_SHARING:
            raise NotSupported(f"more than {MAX_PAGE_SHARING} places that share a KSM page")
        return False

    cdef bint merge(self, uint32_t vma, int64_t vpn, uint32_t page) except -1:
        if page:
            self.knows(page, (0, 0))
        self.system.reserve(ksm_items=1)
        return self.system.call(self.system.controller, F_KSM_MERGE, vma, vpn, page)[0] > 0
