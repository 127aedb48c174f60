"""Where a worker process keeps its own memory; worker.c is compiled with these numbers."""
from __future__ import annotations

from fastmlock.scenario.system import HEAP, PAGE_SIZE

__all__ = ["CODE_PAGES", "DATA", "DATA_PAGES", "DRAIN", "HEAP", "IMAGE", "IMAGE_PAGES"]

IMAGE = 0x10000000
"""Address of the only VMA of a worker that it uses itself, private, anonymous and all of it written."""
CODE_PAGES = 1
IMAGE_PAGES = 6
DATA = IMAGE + CODE_PAGES * PAGE_SIZE
"""From here on a process writes to it after a fork; the first page of it holds arguments and results."""
DATA_PAGES = IMAGE_PAGES - CODE_PAGES
DRAIN = IMAGE + IMAGE_PAGES * PAGE_SIZE
"""A PROT_NONE page, never touched: MADV_WILLNEED on it is lru_add_drain() and nothing else (5.10 to 6.18)."""
