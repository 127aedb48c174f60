"""/proc/kpageflags, /proc/kpagecount and /proc/PID/pagemap: one 64-bit word a page. (fs/proc/page.c, task_mmu.c)"""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastmlock.state.layout import K

if TYPE_CHECKING:
    from fastmlock.system import System

Words = npt.NDArray[np.uint64]

# bit numbers of include/uapi/linux/kernel-page-flags.h and, from 32 on, of the kernel's own header
KPF_NOPAGE, KPF_MMAP, KPF_BUDDY, KPF_HUGE = 20, 11, 10, 17
KPF = {
    K.PG_locked: 0, K.PG_referenced: 2, K.PG_uptodate: 3, K.PG_dirty: 4, K.PG_lru: 5, K.PG_active: 6,
    K.PG_writeback: 8, K.PG_reclaim: 9, K.PG_buddy: KPF_BUDDY, K.PG_anon: 12, K.PG_swapcache: 13,
    K.PG_swapbacked: 14, K.PG_head: 15, K.PG_tail: 16, K.PG_unevictable: 18, K.PG_ksm: 21,
    K.PG_offline: 23, K.PG_mlocked: 33,
}
KPF_ZERO_PAGE, KPF_RESERVED = 24, 32
PTE_PRESENT, PTE_SPECIAL, PTE_SWAP, PTE_MIGRATION = 1, 16, 32, 64
PM_MMAP_EXCLUSIVE, PM_FILE, PM_SWAP, PM_PRESENT = (np.uint64(1 << bit) for bit in (56, 61, 62, 63))


def _frames(system: System, pfns: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Frame numbers, and which of them the machine has."""
    numbers = np.atleast_1d(np.asarray(pfns, np.int64))
    return numbers, (numbers > 0) & (numbers < len(system.pages))


def _heads(system: System, pages: np.ndarray) -> np.ndarray:
    """The page that stands for each: the head of a tail's huge page."""
    return np.where(pages["flags"] & np.uint32(K.PG_tail), system.pages[pages["compound_head"]], pages)


def _maps(system: System, pages: np.ndarray) -> npt.NDArray[np.int32]:
    """How often each is mapped, by ptes and as part of a huge page."""
    return np.asarray(pages["mapcount"] + _heads(system, pages)["compound_mapcount"], np.int32)


def kpageflags(system: System, pfns: npt.ArrayLike) -> Words:
    """The word of /proc/kpageflags for each frame: uint64, bits as KPF_* number them; KPF_NOPAGE alone for a frame that
    the machine has not."""
    numbers, there = _frames(system, pfns)
    pages = system.pages[np.where(there, numbers, 0)]
    out = np.zeros(len(numbers), np.uint64)
    for flag, bit in KPF.items():
        out |= np.where(pages["flags"] & np.uint32(flag), np.uint64(1 << bit), np.uint64(0))
    hugetlb = _heads(system, pages)["flags"] & np.uint32(K.PG_hugetlb)
    out |= np.where(hugetlb, np.uint64(1 << KPF_HUGE), np.uint64(0))
    out |= np.where(_maps(system, pages) > 0, np.uint64(1 << KPF_MMAP), np.uint64(0))
    zero = (pages["flags"] & np.uint32(K.PG_reserved)) != 0
    out |= np.where(zero, np.uint64(1 << KPF_ZERO_PAGE | 1 << KPF_RESERVED), np.uint64(0))
    return np.where(there, out, np.uint64(1 << KPF_NOPAGE))


def kpagecount(system: System, pfns: npt.ArrayLike) -> Words:
    """The word of /proc/kpagecount for each frame: uint64, how often it is mapped; 0 for one that is not there."""
    numbers, there = _frames(system, pfns)
    counts = _maps(system, system.pages[np.where(there, numbers, 0)])
    return np.where(there, np.maximum(counts, 0), 0).astype(np.uint64)


def pagemap(system: System, pid: int, addr: int, pages: int) -> Words:
    """The words of /proc/PID/pagemap for `pages` pages from byte `addr` on, as root sees them: uint64, pfn in bits 0 to
    54, bit 56 mapped once only, 61 a page of a file or shared memory, 62 a swap or migration entry, 63 present."""
    entries = system.ptes(pid, addr, pages)
    present = (entries & np.uint64(PTE_PRESENT)) != 0
    normal = present & ((entries & np.uint64(PTE_SPECIAL)) == 0)
    pfn = np.where(present, entries >> np.uint64(12), np.uint64(0))
    page = system.pages[pfn.astype(np.int64)]
    out = pfn | np.where(present, PM_PRESENT, np.uint64(0))
    out |= np.where(normal & ((page["flags"] & np.uint32(K.PG_anon)) == 0), PM_FILE, np.uint64(0))
    out |= np.where(normal & (_maps(system, page) == 1), PM_MMAP_EXCLUSIVE, np.uint64(0))
    waiting = (entries & np.uint64(PTE_SWAP | PTE_MIGRATION)) != 0
    out |= np.where(waiting, PM_SWAP, np.uint64(0))
    return out.astype(np.uint64)
