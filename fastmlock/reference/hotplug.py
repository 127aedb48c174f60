"""mm/memory_hotplug.c and what mm/page_alloc.c does for a dead cpu: memory and cpus that leave (KERNEL.md 1.4)."""
from __future__ import annotations

from . import migrate, swap
from .state import Kernel

OFFLINE_PASSES = 5


def page_alloc_cpu_dead(k: Kernel, cpu: int) -> None:
    """A dead cpu's batches are drained, the mlock batch last; its free frames are nobody's own any more."""
    here, k.cpu = k.cpu, cpu
    swap.lru_add_drain(k)
    k.cpu = here
    k.free_frames[cpu].clear()


def offline_pages(k: Kernel, first: int, pages: int) -> bool:
    """The frames leave the machine; what is in them, locked or not, moves away. From 5.13 no batch holds a page
    meanwhile. -> whether all could; else none has left"""
    frames = set(range(first, first + pages))
    k.lru_disabled = k.traits.lru_cache_disable
    _isolate_free(k, frames)
    for _ in range(OFFLINE_PASSES):
        if not frames & set(k.pages):
            break
        swap.lru_add_drain_all(k)
        for pfn in sorted(frames & set(k.pages)):
            if pfn in k.pages and k.pages[pfn].lru:
                migrate.migrate_page(k, k.pages[pfn])
                _isolate_free(k, frames)
    k.lru_disabled = False
    if frames & set(k.pages) or k.zero_page.pfn in frames:
        return False
    k.offline_frames |= frames
    return True


def _isolate_free(k: Kernel, frames: set[int]) -> None:
    for free in k.free_frames:
        free[:] = [pfn for pfn in free if pfn not in frames]
