"""mm/mmap.c: the heap, and stacks that grow under a fault or under somebody else's look (KERNEL.md 2.3)."""
from __future__ import annotations

from errno import EIO, ENOMEM, EPERM

from ..scenario.system import HEAP
from . import gup, mmap, rmap
from .state import (
    PTRS_PER_PTE,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_IO,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_PFNMAP,
    VM_READ,
    VM_WRITE,
    Kernel,
    Mm,
    Task,
    Vma,
    folio_mark_dirty,
)

STACK_GUARD_GAP = 256           # pages
STACK_LIMIT = 2048              # pages: RLIMIT_STACK of 8 MiB
MMAP_MIN_PAGE = 16
LAST_PAGE = (1 << 35) - 1
HEAP_FLAGS = VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_ACCOUNT


def vm_start_gap(vma: Vma) -> int:
    """A stack keeps its guard gap free below it."""
    return vma.start - STACK_GUARD_GAP if vma.flags & VM_GROWSDOWN else vma.start


def brk(k: Kernel, task: Task, address: int) -> int:
    """Moves the break, in bytes. -> the break there is then, the old one if it cannot be moved"""
    mm = task.mm
    old_end, new_end = mm.brk + 4095 >> 12, address + 4095 >> 12
    if address < HEAP or new_end > LAST_PAGE:
        return mm.brk
    if address <= mm.brk and new_end < old_end:
        vma = mm.find_vma(new_end)
        if k.traits.brk_finds_vma and (vma is None or vma.start >= old_end):
            return mm.brk
        if mmap.do_munmap(k, mm, new_end, old_end):
            return mm.brk
    elif new_end > old_end and not do_brk_flags(k, task, old_end, new_end):
        return mm.brk
    mm.brk = address
    if new_end > old_end and mm.def_flags & VM_LOCKED:
        gup.mm_populate(k, mm, old_end, new_end)
    return address


def do_brk_flags(k: Kernel, task: Task, start: int, end: int) -> bool:
    """A page must stay free above the heap; the limit is that of new mappings, as mlockall(MCL_FUTURE) left them."""
    mm = task.mm
    above = mm.find_vma(start)
    if above is not None and end + 1 > vm_start_gap(above):
        return False
    if not mmap.mlock_future_check(task, mm.def_flags, end - start) or len(mm.vmas) > k.max_map_count:
        return False
    flags = HEAP_FLAGS | mm.def_flags
    mmap.mmap_region(k, mm, start, end - start, flags, None, start)
    if flags & VM_LOCKED:
        mm.locked_vm += end - start
    return True


def expand_downwards(task: Task, vma: Vma, addr: int) -> int:
    """Let the stack begin at addr. It gets its anon_vma even if it then must not grow. `task` is whose limit counts. ->
    errno"""
    mm = vma.mm
    prev = mm.prev(vma)
    if addr < MMAP_MIN_PAGE:
        return EPERM
    if (prev is not None and not prev.flags & VM_GROWSDOWN and prev.accessible
            and addr - prev.end < STACK_GUARD_GAP):
        return ENOMEM
    rmap.anon_vma_prepare(vma)
    grow = vma.start - addr
    if grow > vma.pgoff or not acct_stack_growth(task, vma, grow):
        return ENOMEM
    if vma.flags & VM_LOCKED:
        mm.locked_vm += grow
    mmap.vma_adjust(vma, addr, vma.end, vma.pgoff - grow)
    return 0


def acct_stack_growth(task: Task, vma: Vma, grow: int) -> bool:
    """Within RLIMIT_STACK as a whole, and within RLIMIT_MEMLOCK if it is locked."""
    if vma.pages + grow > STACK_LIMIT:
        return False
    return not vma.flags & VM_LOCKED or task.cap_ipc_lock or vma.mm.locked_vm + grow <= task.rlimit >> 12


def find_extend_vma(k: Kernel, task: Task, mm: Mm, addr: int) -> Vma | None:
    """The vma at addr, if need be by growing a stack. To 6.4, but not on stable 6.1, get_user_pages() then
    populated a locked one."""
    vma = mm.find_vma(addr)
    if vma is None or vma.start <= addr:
        return vma
    start = vma.start
    if not vma.flags & VM_GROWSDOWN or expand_downwards(task, vma, addr):
        return None
    if k.traits.gup_populates_stack and vma.flags & VM_LOCKED:
        gup.populate_vma_page_range(k, vma, addr, start)
    return vma


def access_remote_vm(k: Kernel, task: Task, mm: Mm, addr: int, write: bool) -> int:
    """`task` looks at a page of `mm`, or writes to it. -> errno"""
    vma = find_extend_vma(k, task, mm, addr)
    if vma is None or vma.flags & (VM_IO | VM_PFNMAP):
        return EIO
    done, _ = gup.get_user_pages(k, vma, addr, addr + 1, write=write, force=False, foll_mlock=False,
                                 foll_populate=False)
    if done and write:
        pmd = mm.huge_pmd(addr)
        page = mm.ptes[addr].page if pmd is None else pmd.page.subpages[addr % PTRS_PER_PTE]
        folio_mark_dirty(page.folio)
        page.content = 0
    return 0 if done else EIO
