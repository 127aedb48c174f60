"""What must hold between any two system calls, whatever the program: references, mappings, lists, counters add up."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .state import HPAGE_PMD_NR, LIST_LINKAGE, VM_LOCKED, Kernel, Mm, Page, page_lru, pmd_start
from .system import ReferenceSystem


def problems(system: ReferenceSystem) -> list[str]:
    """Everything wrong with a system at rest, in words; empty if it is consistent."""
    k, mms = system.k, system.address_spaces()
    return [*_references(k, mms), *_lists(k), *_counters(k), *_vmas(mms)]


def _held(k: Kernel) -> Iterator[Page]:
    """Every page that a batch holds, once per entry."""
    for b in k.cpus:
        for batch in (b.lru_add, b.lru_deactivate_file, b.lru_deactivate, b.lru_lazyfree, b.activate):
            yield from batch
        yield from (page for _, page in b.mlock)


def _references(k: Kernel, mms: list[Mm]) -> Iterator[str]:
    mapped = Counter(pte.page for mm in mms for pte in mm.ptes.values() if not pte.page.zero)
    huge = Counter(pmd.page for mm in mms for pmd in mm.pmds.values() if not pmd.page.zero)
    held = Counter(_held(k))
    for page in (*mapped, *held):
        if page.pfn not in k.pages:
            yield f"page {page.pfn:#x} is in use but freed"
    for page in k.pages.values():
        if page.mapcount != mapped[page]:
            yield f"page {page.pfn:#x}: mapcount {page.mapcount}, {mapped[page]} ptes"
        if page.pmd_mapcount != huge[page]:
            yield f"page {page.pfn:#x}: mapped by {page.pmd_mapcount} huge pmds, {huge[page]} there are"
        if page.head is not None:
            if page.head.pfn not in k.pages or page not in page.head.tails or held[page] or page.lru or page.mlocked:
                yield f"page {page.pfn:#x} is a tail gone astray"
            continue
        want = huge[page] + sum(mapped[one] + held[one] + (one.mapping is not None) for one in page.subpages)
        if page.refcount != want:
            yield f"page {page.pfn:#x}: refcount {page.refcount}, {want} holders"
        if page.mapping is not None and page.mapping.pages.get(page.index) is not page:
            yield f"page {page.pfn:#x} is not where its mapping has it"


def _lists(k: Kernel) -> Iterator[str]:
    on = Counter(page.on_list for page in k.pages.values() if page.on_list is not None)
    for name, pages in k.lists.items():
        if len(pages) != on[name] or any(page.on_list != name for page in pages):
            yield f"list {name}: {len(pages)} entries, {on[name]} pages"
    for page in k.pages.values():
        if page.lru != (page.on_list is not None) or (page.lru and page.on_list != page_lru(page)):
            yield f"page {page.pfn:#x}: flags and list {page.on_list} disagree"
        if page.lru and page.unevictable and k.traits.p06_mlock_count and page.lru_word == LIST_LINKAGE:
            yield f"page {page.pfn:#x}: unevictable without an mlock_count"
        if page.lru and page.unevictable and page.active:
            yield f"page {page.pfn:#x}: active and unevictable"


def _counters(k: Kernel) -> Iterator[str]:
    marked = sum(page.nr for page in k.pages.values() if page.mlocked)
    if k.nr_mlock != marked:
        yield f"nr_mlock {k.nr_mlock}, {marked} pages marked"
    e = k.events
    if k.traits.p06_mlock_count and k.nr_mlock != e["mlocked"] - e["munlocked"] - e["stranded"] - e["cleared"]:
        yield "nr_mlock is not mlocked - munlocked - stranded - cleared"


def _vmas(mms: list[Mm]) -> Iterator[str]:
    for mm in mms:
        for a, b in zip(mm.vmas, mm.vmas[1:], strict=False):
            if a.end > b.start:
                yield f"vmas {a.start:#x} and {b.start:#x} overlap"
        for vma in mm.vmas:
            if vma.start >= vma.end:
                yield f"vma {vma.start:#x} is empty"
            if vma.file is not None and vma not in vma.file.i_mmap.vmas:
                yield f"vma {vma.start:#x} is not in its file's tree"
            if any(vma not in a.tree.vmas for a in vma.chain) or vma.anon_vma not in [None, *vma.chain]:
                yield f"vma {vma.start:#x} and its anon_vmas disagree"
        for addr in mm.ptes:
            if mm.lookup(addr) is None:
                yield f"pte {addr:#x} without a vma"
            if pmd_start(addr) not in mm.tables:
                yield f"pte {addr:#x} without a page table"
        for addr in mm.pmds:
            within = mm.lookup(addr)
            if within is None or addr + HPAGE_PMD_NR > within.end or addr in mm.tables:
                yield f"huge pmd {addr:#x} without a vma around it, or over a page table"
        locked = sum(v.pages for v in mm.vmas if v.flags & VM_LOCKED)
        if mm.locked_vm != locked and not (mm.dontunmapped and mm.locked_vm > locked):
            yield f"locked_vm {mm.locked_vm}, {locked} pages in locked vmas"
