"""mm/ksm.c: pages of equal content that several places share (KERNEL.md 2.8, patches 01 and 04).

A page's content is the one byte that a user wrote; it stands for the kernel's checksum and for its comparison."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..scenario.system import NotSupported
from . import memory, mlock, rmap, swap
from .state import VM_LOCKED, VM_MERGEABLE, AnonVma, Kernel, Mm, Page, Pte, Vma

MAX_PAGE_SHARING = 256


@dataclass(eq=False, repr=False)
class RmapItem:
    """One place that was merged: an address, and the anon_vma that its vma had."""

    mm: Mm
    addr: int
    anon_vma: AnonVma


@dataclass(eq=False, repr=False)
class Ksmd:
    """What ksmd remembers between scans."""

    mms: list[Mm] = field(default_factory=list)
    checksums: dict[tuple[Mm, int], int | None] = field(default_factory=dict)
    stable_tree: dict[int, Page] = field(default_factory=dict)


@dataclass(eq=False, repr=False)
class Candidate:
    vma: Vma
    addr: int
    page: Page


def mergeable(mm: Mm) -> Iterator[Vma]:
    for vma in list(mm.vmas):
        if vma.flags & VM_MERGEABLE and vma.anon_vma is not None:
            if vma.file is not None:
                raise NotSupported("KSM of copies of file pages")
            yield vma


def ksm_run(k: Kernel, ksmd: Ksmd) -> None:
    """Full scans, each behind a drain of all cpus, until one changes nothing."""
    again = True
    while again:
        swap.lru_add_drain_all(k)
        again = ksm_do_scan(k, ksmd)


def ksm_do_scan(k: Kernel, ksmd: Ksmd) -> bool:
    """Every page once. -> whether anything is different now"""
    changed = False
    seen: dict[tuple[Mm, int], int | None] = {}
    unstable_tree: dict[int, Candidate] = {}
    for mm in ksmd.mms:
        for vma in mergeable(mm):
            entries = list(mm.present(vma.start, vma.end))
            if mm.huge_pmds(vma.start, vma.end) or any(pte.page.compound for _, pte in entries):
                raise NotSupported("KSM of huge pages")
            for addr, pte in entries:
                if pte.page.anon:
                    seen[mm, addr] = ksmd.checksums.get((mm, addr))
                    changed |= cmp_and_merge_page(k, ksmd, vma, addr, pte.page, seen, unstable_tree)
    ksmd.checksums = seen
    return changed


def cmp_and_merge_page(k: Kernel, ksmd: Ksmd, vma: Vma, addr: int, page: Page, seen: dict[tuple[Mm, int], int | None],
                       unstable_tree: dict[int, Candidate]) -> bool:
    """Merge with a KSM page of that content; else, if the content has not changed since the last scan, with a page of
    it that this scan has met already. -> whether anything is different now"""
    if page.ksm is not None:
        if any(item.mm is vma.mm and item.addr == addr for item in page.ksm):
            return False
        stable_tree_append(page, vma, addr)                  # shared since a fork
        return True
    found = ksmd.stable_tree.get(page.content)
    if (found is not None and found.ksm is not None and k.pages.get(found.pfn) is found
            and found.content == page.content):
        return try_to_merge_with_ksm_page(k, vma, addr, page, found)
    if seen[vma.mm, addr] != page.content:
        seen[vma.mm, addr] = page.content
        return True
    other = unstable_tree.get(page.content)
    if other is None:
        unstable_tree[page.content] = Candidate(vma, addr, page)
        return False
    if other.page is page or not try_to_merge_with_ksm_page(k, vma, addr, page, None):
        return False
    del unstable_tree[page.content]
    try_to_merge_with_ksm_page(k, other.vma, other.addr, other.page, page)
    ksmd.stable_tree[page.content] = page
    return True


def stable_tree_append(page: Page, vma: Vma, addr: int) -> None:
    """The place comes first in the page's list. Places that no longer have the page are forgotten on the way."""
    assert vma.anon_vma is not None
    page.ksm = [item for item in page.ksm or () if (pte := item.mm.ptes.get(item.addr)) and pte.page is page]
    if len(page.ksm) >= MAX_PAGE_SHARING:
        raise NotSupported(f"more than {MAX_PAGE_SHARING} places that share a KSM page")
    page.ksm.insert(0, RmapItem(vma.mm, addr, vma.anon_vma))


def try_to_merge_with_ksm_page(k: Kernel, vma: Vma, addr: int, page: Page, kpage: Page | None) -> bool:
    """The page becomes a KSM page, or gives its place to `kpage`. To 03 the lock of a locked vma is moved by hand."""
    pte = vma.mm.ptes[addr]
    swap.get_page(page)
    merged = write_protect_page(page, pte)
    if merged and kpage is None:
        page.ksm = []
        page.anon_vma = None
        swap.mark_page_accessed(k, page)
        page.dirty = True
    elif merged and kpage is not None:
        replace_page(k, vma, addr, page, kpage)
        if not k.traits.p04_rmap_mlocks and vma.flags & VM_LOCKED:
            mlock.munlock_vma_page_locked(k, page)
            if not kpage.mlocked:
                mlock.mlock_vma_page_locked(k, kpage)
    if merged:
        stable_tree_append(kpage or page, vma, addr)
    swap.put_page(k, page)
    return merged


def write_protect_page(page: Page, pte: Pte) -> bool:
    """Only ksmd may hold the page beside those who map it."""
    if page.mapcount + 1 != page.refcount:
        return False
    page.exclusive = False
    page.dirty = page.dirty or pte.dirty
    pte.dirty = pte.write = False
    return True


def replace_page(k: Kernel, vma: Vma, addr: int, page: Page, kpage: Page) -> None:
    swap.get_page(kpage)
    rmap.page_add_anon_rmap(k, kpage, vma)
    vma.mm.ptes[addr] = Pte(kpage, young=True)
    rmap.page_remove_rmap(k, page, vma)
    swap.put_page(k, page)


def rmap_walk_ksm(page: Page) -> Iterator[tuple[Vma, int]]:
    """First every merged place in its own mm, then the forks that have it too."""
    for forks in (False, True):
        for item in page.ksm or ():
            for vma in item.anon_vma.tree.vmas:
                if vma.start <= item.addr < vma.end and (vma.mm is not item.mm) == forks:
                    yield vma, item.addr


def unmerge_ksm_pages(k: Kernel, vma: Vma, start: int, end: int) -> None:
    """Each place gets a copy, by a fault that pretends to write, or (6.2) says that it does not."""
    for addr, pte in list(vma.mm.present(start, end)):
        if pte.page.ksm is not None:
            memory.wp_page_copy(k, vma, addr, pte.page, unshare=k.traits.ksm_unshares)


def unmerge_and_remove_all_rmap_items(k: Kernel, ksmd: Ksmd) -> None:
    for mm in ksmd.mms:
        for vma in mergeable(mm):
            unmerge_ksm_pages(k, vma, vma.start, vma.end)
    ksmd.checksums, ksmd.stable_tree = {}, {}
