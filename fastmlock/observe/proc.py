"""/proc/vmstat, /proc/meminfo, /proc/PID/status and /proc/PID/smaps as text. (mm/vmstat.c, fs/proc/)"""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastmlock.state.layout import K

if TYPE_CHECKING:
    from fastmlock.system import System

PTE_PRESENT, PTE_YOUNG, PTE_DIRTY, PTE_SPECIAL = 1, 2, 4, 16
PSS_SHIFT = 12
_MEMINFO = (("Active:", (1, 3)), ("Inactive:", (0, 2)), ("Active(anon):", (1,)), ("Inactive(anon):", (0,)),
            ("Active(file):", (3,)), ("Inactive(file):", (2,)), ("Unevictable:", (K.ST_UNEVICTABLE,)),
            ("Mlocked:", (K.ST_MLOCK,)), ("AnonPages:", (K.ST_ANON_MAPPED,)), ("Mapped:", (K.ST_FILE_MAPPED,)))
#: VmFlags in the kernel's order; the compiled model keeps none but these
_VM_FLAGS = ((0x1, "rd"), (0x2, "wr"), (0x4, "ex"), (0x8, "sh"), (0x100, "gd"), (0x400, "pf"), (0x2000, "lo"),
             (0x4000, "io"), (0x8000, "sr"), (0x10000, "rr"), (0x20000, "dc"), (0x40000, "de"), (0x80000, "lf"),
             (0x100000, "ac"), (0x200000, "nr"), (0x400000, "ht"), (0x2000000, "wf"), (0x10000000, "mm"),
             (0x20000000, "hg"), (0x40000000, "nh"), (0x80000000, "mg"))
VM_SHARED, VM_LOCKED, VM_HUGETLB = 0x8, 0x2000, 0x400000


def vmstat(system: System) -> str:
    """/proc/vmstat after /proc/sys/vm/stat_refresh: the counters that the model keeps, in base pages."""
    stat = system.stat_refresh()
    lines = [("nr_zone_unevictable", stat[K.ST_UNEVICTABLE]), ("nr_mlock", stat[K.ST_MLOCK])]
    lines += [(f"nr_{name}", stat[i]) for i, name in enumerate(
        ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable"))]
    lines += [("nr_anon_pages", stat[K.ST_ANON_MAPPED]), ("nr_mapped", stat[K.ST_FILE_MAPPED])]
    events = system.vm_events()
    lines += [(f"unevictable_pgs_{name}", events[i]) for i, name in enumerate(
        ("culled", "scanned", "rescued", "mlocked", "munlocked", "cleared", "stranded"))]
    return "".join(f"{name} {value}\n" for name, value in lines)


def meminfo(system: System) -> str:
    """/proc/meminfo: the lines of swap, the LRU lists, Unevictable, Mlocked, what is mapped, in kB; and of hugetlb."""
    stat = system.stat_refresh()
    total, used, cached = system.swap_sizes
    lines = [("SwapCached:", cached)] + [(name, int(sum(stat[i] for i in which))) for name, which in _MEMINFO]
    lines[9:9] = [("SwapTotal:", total), ("SwapFree:", total - used)]
    pool = zip(("Total", "Free", "Rsvd", "Surp"), system.hugetlb, strict=True)
    return ("".join(f"{name:<16}{pages * 4:8} kB\n" for name, pages in lines)
            + "".join(f"HugePages_{name}:{pages:8}\n" for name, pages in pool)
            + f"Hugepagesize:   {2048:8} kB\nHugetlb:        {system.hugetlb[0] * 2048:8} kB\n")


def _entries(system: System, pid: int) -> list[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """Of each vma: what `System.vmas` says, its normal present entries, the pages they map."""
    out = []
    for vma in system.vmas(pid):
        raw = system.ptes(pid, vma[0], (vma[1] - vma[0]) >> 12)
        normal = raw[(raw & np.uint64(PTE_PRESENT | PTE_SPECIAL)) == PTE_PRESENT]
        out.append((vma, normal, system.pages[(normal >> np.uint64(12)).astype(np.int64)]))
    return out


def status(system: System, pid: int) -> str:
    """/proc/PID/status: its number, cpu and memory lines, in kB."""
    rss = {"RssAnon": 0, "RssFile": 0, "RssShmem": 0}
    size = swapped = 0
    for vma, _, pages in _entries(system, pid):
        size += vma[1] - vma[0]
        if vma[2] & VM_HUGETLB:
            continue
        swapped += 4 * system.swapped(pid, vma[0], (vma[1] - vma[0]) >> 12)[0]
        anon = (pages["flags"] & np.uint32(K.PG_anon)) != 0
        shmem = ~anon & ((pages["flags"] & np.uint32(K.PG_swapbacked)) != 0)
        for name, which in (("RssAnon", anon), ("RssShmem", shmem), ("RssFile", ~anon & ~shmem)):
            rss[name] += 4 * int(which.sum())
    lines = [("VmSize", size >> 10), ("VmLck", system.vm_lck(pid)), ("VmRSS", sum(rss.values())), *rss.items(),
             ("VmSwap", swapped)]
    return f"Pid:\t{pid}\n" + "".join(f"{name}:\t{value:8} kB\n" for name, value in lines)


def smaps(system: System, pid: int) -> str:
    """/proc/PID/smaps: every VMA with its proportional sizes in kB and its VmFlags."""
    text = []
    for vma, entries, pages in _entries(system, pid):
        start, end, flags = vma[:3]
        file = system.mapping_of(pid, start)
        offset = system.offset_of(pid, start) if file else 0
        rights = "".join(letter if flags & bit else "-" for bit, letter in ((1, "r"), (2, "w"), (4, "x")))
        head = f"{start:08x}-{end:08x} {rights}{'s' if flags & VM_SHARED else 'p'} {offset:08x} 00:00 {file} "
        text.append(head.ljust(73) + f"file{file}\n" if file else head + "\n")
        text += [f"{name + ':':<16}{value:8} kB\n" for name, value in _sizes(system, pid, vma, entries, pages)]
        text.append(f"THPeligible:    {0:8}\nVmFlags: ")
        text += [f"{word} " for bit, word in _VM_FLAGS if flags & bit and (word != "lf" or system.smaps_shows_lf)]
        text.append("\n")
    return "".join(text)


def _sizes(system: System, pid: int, vma: tuple[int, ...], entries: np.ndarray,
           pages: np.ndarray) -> list[tuple[str, int]]:
    """The size fields of one VMA, in the kernel's order (smaps_account, __show_smap). Huge pages of hugetlb have two of
    their own and count nowhere else."""
    maps = pages["mapcount"] + system.pages["compound_mapcount"][np.where(
        pages["flags"] & np.uint32(K.PG_tail), pages["compound_head"], (entries >> np.uint64(12)).astype(np.int64))]
    huge, once = bool(vma[2] & VM_HUGETLB), int((maps == 1).sum()) * 4
    own = (4 * len(pages) - once, once) if huge else (0, 0)
    if huge:
        entries, pages, maps = entries[:0], pages[:0], maps[:0]
    flags = pages["flags"]
    mapcount = np.maximum(maps, 1).astype(np.int64)
    pss = (np.int64(4096) << PSS_SHIFT) // mapcount
    dirty = ((entries & np.uint64(PTE_DIRTY)) != 0) | ((flags & np.uint32(K.PG_dirty)) != 0)
    young = ((entries & np.uint64(PTE_YOUNG)) != 0) | ((flags & np.uint32(K.PG_referenced)) != 0)
    anon = (flags & np.uint32(K.PG_anon)) != 0
    lazy = anon & ((flags & np.uint32(K.PG_swapbacked)) == 0) & ~dirty
    alone = mapcount == 1

    def kb(which: np.ndarray) -> int:
        return 4 * int(which.sum())

    def share(which: np.ndarray) -> int:
        return int(pss[which].sum()) >> (10 + PSS_SHIFT)

    every = np.ones(len(pages), bool)
    swapped, swap_pss, of_file = system.swapped(pid, vma[0], (vma[1] - vma[0]) >> 12)
    page_size = 2048 if huge else 4
    out = [("Size", (vma[1] - vma[0]) >> 10), ("KernelPageSize", page_size), ("MMUPageSize", page_size),
           ("Rss", kb(every)), ("Pss", share(every))]
    if system.release >= 600:
        out.append(("Pss_Dirty", share(dirty)))
    out += [("Shared_Clean", kb(~alone & ~dirty)), ("Shared_Dirty", kb(~alone & dirty)),
            ("Private_Clean", kb(alone & ~dirty)), ("Private_Dirty", kb(alone & dirty)), ("Referenced", kb(young)),
            ("Anonymous", kb(anon))]
    if system.release >= 604:
        out.append(("KSM", kb((flags & np.uint32(K.PG_ksm)) != 0)))
    out += [("LazyFree", kb(lazy)), ("AnonHugePages", 0), ("ShmemPmdMapped", 0), ("FilePmdMapped", 0),
            ("Shared_Hugetlb", own[0]), ("Private_Hugetlb", own[1]), ("Swap", 4 * (swapped + of_file)),
            ("SwapPss", swap_pss >> 10),
            ("Locked", share(every) if vma[2] & VM_LOCKED else 0)]
    return out
