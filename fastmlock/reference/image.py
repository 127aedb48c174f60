"""The part of a worker process that no scenario names: program, static data, heap, stack.

A scenario sees it in three ways. mlockall() locks it too (VmLck and the counters). A process that writes static data
for the first time since a fork gets a copy, which takes a place in its cpu's lru_add batch. And the observer does the
same on the controller's cpu. The layout is the recorder's own (a static program with large static buffers); where its
pages are shared with the controller is known to within a few, since that depends on how much it has printed.
"""
from __future__ import annotations

from . import memory, mmap, shmem, swap
from .state import (
    VM_DONTEXPAND,
    VM_EXEC,
    VM_IO,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYWRITE,
    VM_PFNMAP,
    VM_READ,
    VM_WRITE,
    File,
    Kernel,
    Mm,
    Pte,
    Vma,
)

MAY = VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
TEXT_FILE_PAGES = 200
COMMAND_PAGE, BUFFER_FIRST, BUFFER_LAST, TOUCH_PAGE, PROCESS_TABLE = 0x4D0, 0x513, 0xA13, 0x613, 0xA54
HEAP, STACK_TOP = 0xA80, 0x7FFFFFFFE
TLS_PAGE = HEAP + 1
SEGMENTS = (                    # name, first page, pages, flags, page of the program file
    ("header", 0x400, 1, VM_READ, 0), ("text", 0x401, 156, VM_READ | VM_EXEC, 1), ("rodata", 0x49D, 43, VM_READ, 157),
    ("relro", 0x4C8, 4, VM_READ, 199), ("data", 0x4CC, 3, VM_READ | VM_WRITE, 203),
    ("bss", 0x4CF, 1447, VM_READ | VM_WRITE, None), ("heap", HEAP, 34, VM_READ | VM_WRITE, None),
    ("page", 0x7FFFF7FF0, 1, VM_READ | VM_WRITE, None), ("stack", STACK_TOP - 32, 33, VM_READ | VM_WRITE, None),
    ("vvar", 0x7FFFFFFFF + 0x10, 4, VM_READ | VM_IO | VM_PFNMAP | VM_DONTEXPAND, None),
    ("vdso", 0x7FFFFFFFF + 0x14, 2, VM_READ | VM_EXEC | VM_DONTEXPAND, None))
WARM_STACK = range(STACK_TOP - 10, STACK_TOP - 1)
OWN_DATA = (0x4CC, *range(HEAP + 2, HEAP + 7))
SCENARIO_TEXT = range(0x4D2, 0x4D5)     # as long as a scenario of 40 to 60 lines
USED_TEXT = (0x400, 0x401, 0x410 + 1, 0x49D)       # three windows of fault-around
FIRST_LOOK_PAGES = 12


class Program:
    """The controller's own image, from which every worker is forked."""

    def __init__(self, k: Kernel, controller: Mm) -> None:
        self.k, self.mm = k, controller
        self.looked = self.counted = False
        program = File(-2, "tmpfs", TEXT_FILE_PAGES + 6)
        for name, start, pages, flags, pgoff in SEGMENTS:
            file = program if pgoff is not None else None
            vma = Vma(controller, start, start + pages, flags | MAY, start if pgoff is None else pgoff, file, name=name)
            controller.vmas.append(vma)
            if file is not None:
                file.i_mmap.insert(vma)
        controller.vmas.sort(key=lambda v: v.start)
        written = [*range(0x4CC, 0x4CF), *SCENARIO_TEXT, *range(BUFFER_FIRST, BUFFER_LAST + 1), TLS_PAGE, 0x7FFFF7FF0,
                   STACK_TOP, STACK_TOP - 1, *WARM_STACK]
        for index in range(TEXT_FILE_PAGES + 6):
            shmem.shmem_file_write(k, program, index)
        memory.user_access(k, controller, 0x4C8, False)
        for page in range(0x4C9, 0x4CC):                     # written by the start-up code, then made read-only
            memory.user_access(k, controller, page, False)
            memory.wp_page_copy(k, _vma(controller, page), page, controller.ptes[page].page)
            controller.ptes[page].write = False
        for page in written:
            memory.user_access(k, controller, page, True)
        swap.lru_add_drain_all(k)
        for text in program.pages.values():                  # in constant use
            swap.activate_page(k, text)
        swap.lru_add_drain_all(k)

    def new_process(self) -> Mm:
        """fork, and what the worker and the controller write until the worker answers its first call."""
        mm = mmap.dup_mmap(self.k, self.mm)
        memory.user_access(self.k, self.mm, PROCESS_TABLE, True)
        for page in (COMMAND_PAGE, TLS_PAGE, STACK_TOP - 1, *WARM_STACK, *OWN_DATA):
            memory.user_access(self.k, mm, page, True)
        for page in USED_TEXT:
            memory.user_access(self.k, mm, page, False)
        return mm

    def count(self) -> None:
        """The controller reads the counters for the first time."""
        if not self.counted:
            self.counted = True
            for page in (TOUCH_PAGE, *range(BUFFER_FIRST, BUFFER_FIRST + 3)):
                memory.user_access(self.k, self.mm, page, True)

    def look(self) -> None:
        """The controller looks at a process's pages for the first time: its own buffers for that are new."""
        if not self.looked:
            self.looked = True
            for page in range(0x4F0, 0x4F0 + FIRST_LOOK_PAGES):
                memory.user_access(self.k, self.mm, page, True)


def _vma(mm: Mm, page: int) -> Vma:
    vma = mm.lookup(page)
    assert vma is not None
    return vma


def user_mode(k: Kernel, mm: Mm) -> None:
    """A worker receives a command: it writes its command block, its thread's data and its stack."""
    for page in (COMMAND_PAGE, TLS_PAGE, STACK_TOP - 1):
        pte: Pte | None = mm.ptes.get(page)
        if pte is None or not pte.write:
            memory.user_access(k, mm, page, True)


def first_touch(k: Kernel, mm: Mm) -> None:
    """Before it touches memory a worker saves where to go on after a signal."""
    memory.user_access(k, mm, TOUCH_PAGE, True)


def after_fork(k: Kernel, parent: Mm, child: Mm) -> None:
    """Who runs first copies what it writes, the other finds its pages unshared. The new thread's data is written by
    the child alone."""
    for mm in (child, parent) if k.traits.child_runs_first else (parent, child):
        for page in (COMMAND_PAGE, STACK_TOP - 1) if mm is parent else (COMMAND_PAGE, STACK_TOP - 1, TLS_PAGE):
            memory.user_access(k, mm, page, True)
