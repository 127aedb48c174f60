"""mm/mremap.c: resizing and moving. Moved ptes carry no reverse-map change (KERNEL.md 2.3)."""
from __future__ import annotations

from errno import EAGAIN, EFAULT, EINVAL, ENOMEM

from . import gup, huge_memory, mmap, rmap
from .brk import vm_start_gap
from .state import (
    PTRS_PER_PTE,
    VM_DONTEXPAND,
    VM_HUGETLB,
    VM_LOCKED,
    VM_LOCKED_MASK,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_SHARED,
    Kernel,
    Mm,
    Task,
    Vma,
    pmd_start,
)

MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
WRAP = 1 << 52
"""Pages that 64 bits can count in bytes: sums of addresses and lengths start again there."""
LAST_PAGE = (1 << 35) - 1
"""One behind the last page that a process may map."""


def do_mremap(k: Kernel, task: Task, addr: int, old: int, new: int, flags: int, new_addr: int) -> tuple[int, int]:
    """-> (new start, errno). Only growth of a locked mapping is populated."""
    mm = task.mm
    if flags & ~7 or (flags & MREMAP_FIXED and not flags & MREMAP_MAYMOVE):
        return -1, EINVAL
    if flags & MREMAP_DONTUNMAP and (not flags & MREMAP_MAYMOVE or old != new):
        return -1, EINVAL
    if not new:
        return -1, EINVAL
    if k.traits.mremap_looks_first and mm.lookup(addr) is None:
        return (EFAULT, 0) if k.traits.mremap_positive_efault else (-1, EFAULT)
    if k.traits.mremap_many and flags & MREMAP_FIXED and old == new:
        return remap_move(k, task, addr, old, flags, new_addr)
    if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP):
        return mremap_to(k, task, addr, old, new, flags, new_addr)
    if old >= new:
        if addr + old > LAST_PAGE:
            return -1, EINVAL
        if old > new and (err := mmap.do_munmap(k, mm, addr + new, addr + old)):
            return -1, err
        return addr, 0
    vma, err = vma_to_resize(k, task, addr, old, new, flags)
    if vma is None:
        return -1, err
    if old == vma.end - addr and _vma_expandable(mm, vma, new - old):
        locked = bool(vma.flags & VM_LOCKED)
        mmap.vma_adjust(vma, vma.start, addr + new, vma.pgoff)
        if locked:
            mm.locked_vm += new - old
            gup.mm_populate(k, mm, addr + old, addr + new)
        return addr, 0
    if not flags & MREMAP_MAYMOVE:
        return -1, ENOMEM
    return move_vma(k, mm, vma, addr, old, new, get_unmapped_area(mm, new), dontunmap=False)


def remap_move(k: Kernel, task: Task, addr: int, pages: int, flags: int, new_addr: int) -> tuple[int, int]:
    """6.17: each vma of the range goes to the place that keeps its distance; the range must begin in one."""
    first = task.mm.lookup(addr)
    if first is None:
        return -1, EFAULT
    for vma in [v for v in task.mm.vmas if v.start < addr + pages and v.end > addr]:
        start, end = max(vma.start, addr), min(vma.end, addr + pages)
        ret, err = mremap_to(k, task, start, end - start, end - start, flags, new_addr + start - addr)
        if err:
            return ret, err
    return new_addr, 0


def mremap_to(k: Kernel, task: Task, addr: int, old: int, new: int, flags: int, new_addr: int) -> tuple[int, int]:
    """MREMAP_FIXED and MREMAP_DONTUNMAP: what lies at the destination goes first."""
    mm = task.mm
    if k.traits.mremap_checks_first:
        vma, err = vma_to_resize(k, task, addr, min(old, new), new, flags)     # what a shrink cuts off may lie anywhere
        if vma is None:
            return -1, err
    if flags & MREMAP_FIXED:
        if addr < new_addr + new and new_addr < (addr + old) % WRAP:
            return -1, EINVAL
        if len(mm.vmas) + 2 >= k.max_map_count - 3:
            return -1, ENOMEM
        if err := mmap.do_munmap(k, mm, new_addr, new_addr + new):
            return -1, err
    if old > new:
        if addr + old > LAST_PAGE:
            return -1, EINVAL
        if err := mmap.do_munmap(k, mm, addr + new, addr + old):
            return -1, err
        old = new
    vma, err = vma_to_resize(k, task, addr, old, new, flags)
    if vma is None:
        return -1, err
    if not flags & MREMAP_FIXED:
        new_addr = get_unmapped_area(mm, new)
    return move_vma(k, mm, vma, addr, old, new, new_addr, dontunmap=bool(flags & MREMAP_DONTUNMAP))


def vma_to_resize(k: Kernel, task: Task, addr: int, old: int, new: int, flags: int) -> tuple[Vma | None, int]:
    vma = task.mm.lookup(addr)
    if vma is None:
        return None, EFAULT
    if not old and not vma.flags & (VM_SHARED | VM_MAYSHARE):
        return None, EINVAL
    if flags & MREMAP_DONTUNMAP:
        if k.traits.dontunmap_any:
            if vma.flags & (VM_DONTEXPAND | VM_PFNMAP):
                return None, EINVAL
        elif vma.file is not None or vma.flags & VM_SHARED:
            return None, EINVAL
    if vma.flags & VM_HUGETLB and not k.traits.hugetlb_mremap:
        return None, EINVAL
    if old > vma.end - addr:
        return None, EFAULT
    if new == old or (k.traits.mremap_checks_first and new < old):
        return vma, 0
    if vma.flags & (VM_DONTEXPAND | VM_PFNMAP):
        return None, EFAULT
    if not mmap.mlock_future_check(task, vma.flags, new - old):
        return None, EAGAIN
    return vma, 0


def _vma_expandable(mm: Mm, vma: Vma, delta: int) -> bool:
    following = mm.next(vma)
    return following is None or following.start >= vma.end + delta


def get_unmapped_area(mm: Mm, pages: int) -> int:
    """The highest free place, from the top downwards; the real choice depends on the whole process."""
    top = 0x7ffff7fff                           # mmap_base without randomisation
    while any(vm_start_gap(v) < top and v.end > top - pages for v in mm.vmas):
        top = min(vm_start_gap(v) for v in mm.vmas if vm_start_gap(v) < top and v.end > top - pages)
    return top - pages


def move_vma(k: Kernel, mm: Mm, vma: Vma, addr: int, old: int, new: int, new_addr: int, *,
             dontunmap: bool) -> tuple[int, int]:
    """Copy the vma, move its ptes, unmap the old range or (DONTUNMAP) leave it empty and unlocked."""
    if len(mm.vmas) >= k.max_map_count - 3:
        return -1, ENOMEM
    flags = vma.flags
    copy = copy_vma(k, mm, vma, addr, new, new_addr)
    move_page_tables(k, mm, vma, addr, old, new_addr)
    vma.resv = None                         # clear_vma_resv_huge_pages(): the copy has them
    if dontunmap:
        if k.traits.dontunmap_splits and flags & VM_LOCKED:
            mmap.isolate_range(k, vma, addr, addr + old)
        else:
            mm.dontunmapped = mm.dontunmapped or bool(flags & VM_LOCKED)
        vma.flags &= ~VM_LOCKED_MASK
        if k.traits.dontunmap_accounts and flags & VM_LOCKED:
            mm.locked_vm += new
        if k.traits.dontunmap_unlinks and copy is not vma and vma.start == addr and vma.end == addr + old:
            rmap.unlink_anon_vmas(vma)
        return new_addr, 0
    if old and (err := mmap.do_munmap(k, mm, addr, addr + old)):
        return -1, err
    if flags & VM_LOCKED:
        mm.locked_vm += new
        if new > old:
            gup.mm_populate(k, mm, new_addr + old, new_addr + new)
    return new_addr, 0


def copy_vma(k: Kernel, mm: Mm, vma: Vma, addr: int, pages: int, new_addr: int) -> Vma:
    """A vma for the same memory elsewhere, merged with a neighbour there if it fits. Anonymous memory that was never
    faulted takes the page offset of its new place."""
    pgoff = vma.index(addr)
    if vma.file is None and vma.anon_vma is None:
        pgoff = new_addr
    below = [v for v in mm.vmas if v.end <= new_addr]
    merged = mmap.vma_merge(k, mm, below[-1] if below else None, new_addr, new_addr + pages, vma.flags, vma.anon_vma,
                            vma.vm_file, pgoff, vma)
    if merged is not None:
        return merged
    new = mmap.vm_area_dup(vma, start=new_addr, end=new_addr + pages, pgoff=pgoff, name=None)
    rmap.anon_vma_clone(new, vma)
    mm.link(new)
    if new.file is not None:
        new.file.i_mmap.insert(new)
    return new


def move_page_tables(k: Kernel, mm: Mm, vma: Vma, addr: int, pages: int, new_addr: int) -> None:
    """A table at a time, as far as it reaches on either side; one that moves whole leaves its pmd empty."""
    while pages:
        step = min(pages, PTRS_PER_PTE - addr % PTRS_PER_PTE, PTRS_PER_PTE - new_addr % PTRS_PER_PTE)
        whole = mm.huge_pmd(addr) is not None and huge_memory.move_huge_pmd(k, vma, addr, new_addr, pages)
        if not whole and pmd_start(addr) in mm.tables:
            mm.tables.add(pmd_start(new_addr))
            for at, pte in list(mm.present(addr, addr + step)):
                del mm.ptes[at]
                mm.ptes[new_addr + at - addr] = pte
            for at in [a for a in mm.swapped if addr <= a < addr + step]:
                mm.swapped[new_addr + at - addr] = mm.swapped.pop(at)
            if step == PTRS_PER_PTE:
                mm.tables.discard(addr)
        addr, new_addr, pages = addr + step, new_addr + step, pages - step
