"""mm/mmap.c, mm/mprotect.c, and kernel/fork.c's copy of an address space: splitting and merging vmas, mapping,
unmapping (KERNEL.md 2.2, 2.3)."""
from __future__ import annotations

from dataclasses import replace
from errno import EACCES, EAGAIN, EEXIST, EINVAL, ENOMEM, EPERM
from typing import Any

from ..scenario.system import NotSupported
from . import gup, huge_memory, hugetlb, memory, mlock, rmap, swap
from .state import (
    PTRS_PER_PTE,
    VM_ACCESS,
    VM_ACCOUNT,
    VM_DONTCOPY,
    VM_DONTEXPAND,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MIXEDMAP,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_PFNMAP,
    VM_SHARED,
    VM_SPECIAL,
    VM_WIPEONFORK,
    VM_WRITE,
    AnonVma,
    File,
    Kernel,
    Mm,
    OpenFile,
    Pte,
    Task,
    Vma,
)


# ---------------------------------------------------------------- limits
def can_do_mlock(task: Task) -> bool:
    return task.rlimit != 0 or task.cap_ipc_lock


def mlock_future_check(task: Task, flags: int, pages: int) -> bool:
    """Whether `pages` more pages of a mapping with these flags keep within RLIMIT_MEMLOCK."""
    return not flags & VM_LOCKED or task.cap_ipc_lock or task.mm.locked_vm + pages <= task.rlimit >> 12


# ---------------------------------------------------------------- split and merge
def vma_adjust(vma: Vma, start: int, end: int, pgoff: int) -> None:
    """`__vma_adjust` of one vma: it leaves the file's interval tree and comes back behind its equals."""
    trees = ([vma.file.i_mmap] if vma.file else []) + [a.tree for a in vma.chain]
    for tree in trees:
        tree.remove(vma)
    vma.start, vma.end, vma.pgoff = start, end, pgoff
    for tree in trees:
        tree.insert(vma)


def _insert_vm_struct(vma: Vma) -> None:
    vma.mm.link(vma)
    if vma.file is not None:
        vma.file.i_mmap.insert(vma)


def remove_vma(vma: Vma) -> None:
    """Unlink from the mm, the anon_vmas and the file's tree."""
    vma.mm.vmas.remove(vma)
    rmap.unlink_anon_vmas(vma)
    if vma.file is not None:
        vma.file.i_mmap.remove(vma)


def split_vma(k: Kernel, mm: Mm, vma: Vma, addr: int, *, new_below: bool) -> int:
    """Split at addr; the new vma is the lower part if `new_below`. -> errno"""
    if len(mm.vmas) >= k.max_map_count:
        return ENOMEM
    return _split_vma(k, vma, addr, new_below)


def vm_area_dup(vma: Vma, **changes: Any) -> Vma:
    """A vma like it, but for these fields; on no list, and linked to no anon_vma yet."""
    return replace(vma, chain=[], **changes)


def isolate_range(k: Kernel, vma: Vma, start: int, end: int) -> None:
    """Split until `vma` is [start, end) alone; the caller has seen that the limit of vmas leaves room."""
    if vma.start < start:
        _split_vma(k, vma, start, new_below=True)
    if vma.end > end:
        _split_vma(k, vma, end, new_below=False)


def _split_vma(k: Kernel, vma: Vma, addr: int, new_below: bool) -> int:
    """Huge pages of hugetlb cannot be split. -> errno"""
    if vma.flags & VM_HUGETLB and addr % PTRS_PER_PTE:
        return EINVAL
    huge_memory.vma_adjust_trans_huge(k, vma, addr)
    new = vm_area_dup(vma, end=addr) if new_below else vm_area_dup(vma, start=addr, pgoff=vma.index(addr))
    rmap.anon_vma_clone(new, vma)
    if new_below:
        vma_adjust(vma, addr, vma.end, vma.index(addr))
    else:
        vma_adjust(vma, vma.start, addr, vma.pgoff)
    _insert_vm_struct(new)
    return 0


def _is_mergeable_anon_vma(k: Kernel, a: AnonVma | None, source: Vma | None, vma: Vma) -> bool:
    """Whether vma may take over memory that has the anon_vma `a`, the memory of `source` if that is a vma already.

    Of two with only one anon_vma between them, the one that has it must have no other (be no child of a fork). To
    6.15 the vma that takes over was asked in either case, and the empty list of an unfaulted one failed the test."""
    b = vma.anon_vma
    if a is b:
        return True
    if a is None:
        return len(vma.chain) == 1
    if b is None:
        return k.traits.merge_unfaulted and (source is None or len(source.chain) == 1)
    return False


def _mergeable(k: Kernel, vma: Vma, flags: int, anon_vma: AnonVma | None, source: Vma | None,
               vm_file: OpenFile | None, name: str | None) -> bool:
    return (vma.flags == flags and vma.vm_file is vm_file and vma.name == name and not flags & VM_SPECIAL
            and _is_mergeable_anon_vma(k, anon_vma, source, vma))


def _expand(vma: Vma, start: int, end: int, pgoff: int, victims: list[Vma]) -> Vma:
    """Let vma cover [start, end), removing the vmas it swallows and taking over an anon_vma it lacked."""
    for victim in victims:
        if vma.anon_vma is None and victim.anon_vma is not None:
            vma.anon_vma = victim.anon_vma
            rmap.anon_vma_clone(vma, victim)
    for victim in victims:
        remove_vma(victim)
    vma_adjust(vma, start, end, pgoff)
    return vma


def vma_merge(k: Kernel, mm: Mm, prev: Vma | None, addr: int, end: int, flags: int, anon_vma: AnonVma | None,
              vm_file: OpenFile | None, pgoff: int, source: Vma | None = None) -> Vma | None:
    """Give [addr, end), new or part of a vma, to a neighbour that will then look exactly alike. -> that vma

    The surviving vma is the lower neighbour if that one can take it, else the upper one."""
    if flags & VM_SPECIAL:
        return None
    area = mm.next(prev) if prev is not None else (mm.vmas[0] if mm.vmas else None)
    following = area
    if area is not None and area.end == end and area.start < end:
        following = mm.next(area)
    name = area.name if area is not None and area.start <= addr < area.end else (prev.name if prev else None)
    inside = area if area is not None and area.start < end and area.end > addr else None
    if inside is None and prev is not None and prev.end > addr:
        inside = prev
    upper = (following is not None and following.start == end and following.pgoff == pgoff + end - addr
             and _mergeable(k, following, flags, anon_vma, source, vm_file, name))
    if (prev is not None and prev.end == addr and prev.pgoff + prev.pages == pgoff
            and _mergeable(k, prev, flags, anon_vma, source, vm_file, name)):
        if upper and following is not None and (prev.anon_vma is following.anon_vma or None in (
                prev.anon_vma, following.anon_vma)):
            return _expand(prev, prev.start, following.end, prev.pgoff, [v for v in (inside, following) if v])
        if inside is None or inside.end == end:
            return _expand(prev, prev.start, end, prev.pgoff, [inside] if inside else [])
        rest = inside                                        # case 5: prev takes the head of the next vma
        huge_memory.vma_adjust_trans_huge(k, rest, end)
        if prev.anon_vma is None and rest.anon_vma is not None:
            prev.anon_vma = rest.anon_vma
            rmap.anon_vma_clone(prev, rest)
        vma_adjust(rest, end, rest.end, rest.index(end))
        vma_adjust(prev, prev.start, end, prev.pgoff)
        return prev
    if upper and following is not None:
        if inside is not None and inside.start < addr:       # case 4: the next vma takes our tail
            huge_memory.vma_adjust_trans_huge(k, inside, addr)
            if following.anon_vma is None and inside.anon_vma is not None:
                following.anon_vma = inside.anon_vma
                rmap.anon_vma_clone(following, inside)
            vma_adjust(following, addr, following.end, pgoff)
            vma_adjust(inside, inside.start, addr, inside.pgoff)
            return following
        return _expand(following, addr, following.end, pgoff, [inside] if inside else [])
    return None


def vma_modify(k: Kernel, mm: Mm, vma: Vma, prev: Vma | None, start: int, end: int, flags: int) -> tuple[int, Vma]:
    """Merge with neighbours or split, so that one vma covers [start, end) of `vma` to be given the flags; a merged one
    has them already. -> (errno, that vma, or the one a split failed at)"""
    merged = vma_merge(k, mm, prev, start, end, flags, vma.anon_vma, vma.vm_file, vma.index(start), vma)
    if merged is not None:
        return 0, merged
    if start != vma.start and (err := split_vma(k, mm, vma, start, new_below=True)):
        return err, vma
    if end != vma.end and (err := split_vma(k, mm, vma, end, new_below=False)):
        return err, vma
    return 0, vma


# ---------------------------------------------------------------- mmap
def calc_vm_flags(prot: int, shared: bool) -> int:
    flags = prot & VM_ACCESS | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
    return flags | (VM_SHARED | VM_MAYSHARE if shared else 0)


#: vm_flags that a file's own mmap method sets
_DRIVER_FLAGS = {"hugetlb": VM_HUGETLB | VM_DONTEXPAND, "packet": VM_MIXEDMAP,
                 "devmem": VM_IO | VM_PFNMAP | VM_DONTEXPAND}


def do_mmap(k: Kernel, task: Task, addr: int, pages: int, flags: int, file: File | None, pgoff: int, *, fixed: bool,
            noreplace: bool, map_locked: bool, populate: bool, vm_file: OpenFile | None = None) -> int:
    """Checks, removal of what is there, merging or a new vma, accounting, populate with errors ignored. The file is
    opened for it unless `vm_file` is given. -> errno"""
    mm = task.mm
    flags |= mm.def_flags | (VM_LOCKED if map_locked else 0)
    driver = _DRIVER_FLAGS.get(file.fs, 0) if file is not None else 0
    flags |= driver
    if len(mm.vmas) > k.max_map_count:
        return ENOMEM
    if noreplace and any(v.start < addr + pages and v.end > addr for v in mm.vmas):
        return EEXIST
    if map_locked and not can_do_mlock(task):
        return EPERM
    if not mlock_future_check(task, flags, pages):
        return EAGAIN
    if flags & VM_GROWSDOWN and file is not None:
        return EINVAL
    if fixed and (err := do_munmap(k, mm, addr, addr + pages)):
        return err if k.traits.munmap_errors else ENOMEM
    if flags & VM_WRITE and not flags & (VM_SHARED | VM_NORESERVE | VM_HUGETLB):
        flags |= VM_ACCOUNT
    if file is not None and vm_file is None:
        vm_file = OpenFile()
    vma, err = mmap_region(k, mm, addr, pages, flags, file, pgoff, task, vm_file)
    if err:
        if k.traits.unmap_drains:           # unmap_region() of what there is not
            swap.lru_add_drain(k)
        return err
    if vma.flags & VM_LOCKED and vma.flags & (VM_SPECIAL | VM_HUGETLB):
        vma.flags &= ~VM_LOCKED_MASK
    elif vma.flags & VM_LOCKED:
        mm.locked_vm += pages
    if flags & VM_LOCKED or populate:
        gup.mm_populate(k, mm, addr, addr + pages)
    return 0


def mmap_region(k: Kernel, mm: Mm, addr: int, pages: int, flags: int, file: File | None, pgoff: int,
                task: Task | None = None, vm_file: OpenFile | None = None) -> tuple[Vma, int]:
    """-> the vma, errno"""
    below = [v for v in mm.vmas if v.end <= addr]
    vma = vma_merge(k, mm, below[-1] if below else None, addr, addr + pages, flags, None, vm_file, pgoff)
    if vma is None:
        vma = Vma(mm, addr, addr + pages, flags, pgoff, file, vm_file=vm_file)
        if flags & VM_HUGETLB and (err := hugetlb.hugetlbfs_file_mmap(k, vma)):
            return vma, err
        if task is not None and vma.secretmem and (err := secretmem_mmap(k, task, vma)):
            return vma, err
        if file is not None and file.fs in ("packet", "devmem"):
            map_at_once(k, vma)
        _insert_vm_struct(vma)
    return vma, 0


def secretmem_mmap(k: Kernel, task: Task, vma: Vma) -> int:
    """Secret memory is locked by nature. -> errno"""
    if vma.private:
        return EINVAL
    if k.traits.secretmem_locks:
        if not mlock_future_check(task, VM_LOCKED, vma.pages):
            return EAGAIN
        vma.flags |= VM_LOCKED
    return 0


def map_at_once(k: Kernel, vma: Vma) -> None:
    """vm_insert_page() of all pages of a driver, or remap_pfn_range() of what has none. The VM_LOCKED of
    mlockall(MCL_FUTURE) is still set: where mlock_vma_page() does not look at all of VM_SPECIAL pages are marked."""
    assert vma.file is not None
    for addr in range(vma.start, vma.end):
        vma.mm.tables.add(addr - addr % PTRS_PER_PTE)
        page = k.zero_page if vma.flags & VM_PFNMAP else vma.file.pages[vma.index(addr)]
        vma.mm.ptes[addr] = Pte(page, write=bool(vma.flags & VM_WRITE))
        if not page.zero:
            swap.get_page(page)
            rmap.page_add_file_rmap(k, page, vma)


def remap_file_pages(k: Kernel, task: Task, start: int, pages: int, pgoff: int, *, nonblock: bool) -> int:
    """Emulated: mmap over vmas of one file that follow each other. Their lock is kept, but not that it was on fault. ->
    errno"""
    mm = task.mm
    vma = mm.lookup(start)
    if vma is None or vma.private:
        return EINVAL
    if vma.flags & VM_HUGETLB:
        raise NotSupported("remap_file_pages of huge pages of hugetlb")
    last = vma
    while last.end < start + pages:
        following = mm.next(last)
        if (following is None or following.start != last.end or following.vm_file is not vma.vm_file
                or following.flags != vma.flags):
            return EINVAL
        last = following
    return do_mmap(k, task, start, pages, calc_vm_flags(vma.flags, shared=True), vma.file, pgoff, fixed=True,
                   noreplace=False, map_locked=bool(vma.flags & VM_LOCKED), populate=not nonblock,
                   vm_file=vma.vm_file)


# ---------------------------------------------------------------- munmap, exit
def do_munmap(k: Kernel, mm: Mm, start: int, end: int) -> int:
    """Split at the ends, leave VM_LOCKED accounting, zap, unlink. To 02 locked vmas are munlocked first. -> errno"""
    if end <= start:
        return EINVAL
    vma = mm.find_vma(start)
    if vma is None or vma.start >= end:
        return 0
    if start > vma.start:
        if end < vma.end and len(mm.vmas) >= k.max_map_count:
            return ENOMEM
        if err := _split_vma(k, vma, start, new_below=False):
            return err
    last = mm.lookup(end)
    if last is not None and end > last.start and (err := _split_vma(k, last, end, new_below=True)):
        return err
    inside = [v for v in mm.vmas if v.start < end and v.end > start]
    unlock_range(k, mm, inside)
    unmap_region(k, mm, inside)
    free_pgtables(mm)
    return 0


def unlock_range(k: Kernel, mm: Mm, vmas: list[Vma]) -> None:
    """Take locked vmas out of the account; to 02 munlock all their pages, which clears their flags."""
    for vma in vmas:
        if vma.flags & VM_LOCKED:
            mm.locked_vm -= vma.pages
            if not k.traits.p03_zap_locked:
                mlock.munlock_vma_pages_range(k, vma, vma.start, vma.end)


def unmap_region(k: Kernel, mm: Mm, vmas: list[Vma]) -> None:
    """Drain, zap all, unlink each vma from its trees, then flush and free."""
    if k.traits.unmap_drains:
        swap.lru_add_drain(k)
    tlb = memory.MmuGather()
    for vma in vmas:
        memory.unmap_single_vma(k, tlb, vma, vma.start, vma.end)
    for vma in vmas:
        remove_vma(vma)
    tlb.flush(k)
    for vma in vmas:
        if vma.flags & VM_HUGETLB:
            hugetlb.hugetlb_vm_op_close(k, vma)


def free_pgtables(mm: Mm) -> None:
    """Page tables that no vma needs any more go."""
    mm.tables = {at for at in mm.tables if any(v.start < at + PTRS_PER_PTE and v.end > at for v in mm.vmas)}


def exit_mmap(k: Kernel, mm: Mm) -> None:
    vmas = list(mm.vmas)
    if not k.traits.p03_zap_locked:
        unlock_range(k, mm, vmas)
    unmap_region(k, mm, vmas)
    mm.locked_vm = 0


# ---------------------------------------------------------------- fork
def dup_mmap(k: Kernel, parent: Mm) -> Mm:
    """The child's vmas are unlocked, its locked_vm is 0, and def_flags keep only VM_NOHUGEPAGE."""
    child = Mm(def_flags=parent.def_flags & VM_NOHUGEPAGE, brk=parent.brk)
    for vma in parent.vmas:
        if vma.flags & VM_DONTCOPY:
            continue
        new = vm_area_dup(vma, mm=child, flags=vma.flags & ~VM_LOCKED_MASK, anon_vma=None, resv=None,
                          resv_unmapped=False)
        if not vma.flags & VM_WIPEONFORK:
            rmap.anon_vma_fork(new, vma)
        child.vmas.append(new)
        if new.file is not None:
            new.file.i_mmap.insert_after(new, vma)
        if not vma.flags & VM_WIPEONFORK:
            memory.copy_page_range(k, new, vma)
    return child


# ---------------------------------------------------------------- mprotect
def do_mprotect(k: Kernel, mm: Mm, start: int, end: int, prot: int) -> int:
    """Vma by vma up to the first hole. -> errno"""
    vma = mm.find_vma(start)
    if vma is None or vma.start > start:
        return ENOMEM
    prev = vma if start > vma.start else mm.prev(vma)
    at = start
    while True:
        newflags = vma.flags & ~VM_ACCESS | prot & VM_ACCESS
        if newflags & ~(newflags >> 4) & VM_ACCESS:
            return EACCES
        upto = min(vma.end, end)
        err, prev = mprotect_fixup(k, mm, vma, prev, at, upto, newflags)
        if err:
            return err
        at = max(upto, prev.end)
        if at >= end:
            return 0
        following = mm.next(prev)
        if following is None or following.start != at:
            return ENOMEM
        vma = following


def mprotect_fixup(k: Kernel, mm: Mm, vma: Vma, prev: Vma | None, start: int, end: int,
                   newflags: int) -> tuple[int, Vma]:
    """A locked private vma that becomes writable breaks COW now. -> (errno, the vma to go on behind)"""
    oldflags = vma.flags
    if newflags == oldflags:
        return 0, vma
    if newflags & VM_WRITE and not oldflags & (VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE):
        newflags |= VM_ACCOUNT
    elif k.traits.mprotect_uncharges and not newflags & VM_WRITE and vma.file is None and vma.anon_vma is None:
        newflags &= ~VM_ACCOUNT
    err, vma = vma_modify(k, mm, vma, prev, start, end, newflags)
    if err:
        return err, vma
    vma.flags = newflags
    huge_memory.change_huge_pmd(mm, start, end, vma.pte_write_default)
    for _, pte in mm.present(start, end):                    # change_protection(): vm_page_prot's write bit
        pte.write = vma.pte_write_default or _writenotify_dirty(vma, pte.dirty)
    if oldflags & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and newflags & VM_WRITE:
        gup.populate_vma_page_range(k, vma, start, end)
    return 0, vma


def _writenotify_dirty(vma: Vma, dirty: bool) -> bool:
    """A dirty pte of a shared mapping whose writes are tracked needs no further notice."""
    return dirty and vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED


