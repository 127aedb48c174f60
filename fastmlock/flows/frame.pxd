# The shape of a flow: a function that is entered again and again until its frame is popped.
#
# A flow is one kernel function that can wait. It keeps where it is (`pc`) and its locals in its Frame, and each
# time it is entered it goes on from there:
#     return call(t, f, NEXT, F_OTHER, ...)       calls another flow; goes on at NEXT, its answer in t.res
#     return ask(t, f, NEXT, REQ_..., LK_..., o)  asks the driver for a lock; goes on at NEXT when granted
#     return ret(t, value)                        returns to the calling flow
# What happens between two of these is atomic to everybody else.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from fastmlock.state.types cimport *

cdef enum Flow:
    F_NONE = 0
    F_DRAIN                 # lru_add_drain: a = cpu
    F_PVEC                  # pagevec_lru_move_fn, mlock_pagevec: one batch: a = cpu, b = kind
    F_RELEASE               # release_pages: a = list, b = pages
    F_FREE_PAGE             # __put_page: the last reference went: a = page
    F_ISOLATE               # isolate_lru_page: a = page; res = won
    F_PUTBACK               # putback_lru_page: a = page
    F_DRAIN_ALL             # lru_add_drain_all
    F_MLOCK_PAGE            # mlock_vma_page, mlock_page: a = page
    F_MUNLOCK_PAGE          # munlock_vma_page (single page), munlock_page: a = page
    F_CLEAR_MLOCK           # clear_page_mlock: a = page
    F_PAGE_MLOCK            # page_mlock, the walk: a = page
    F_MUNLOCK_PVEC          # __munlock_pagevec on the task's own batch
    F_MUNLOCK_RANGE         # munlock_vma_pages_range: a = vma, b = start, c = end
    F_MLOCK_RANGE           # mlock_vma_pages_range (07): a = vma, b = start, c = end, d = flags
    F_MLOCK_FIXUP           # a = vma, b = start, c = end, d = flags; res = vma or -errno
    F_APPLY_LOCK            # apply_vma_lock_flags: a = start, b = end, c = flags; res = 0 or -errno
    F_APPLY_LOCK_ALL        # apply_mlockall_flags: c = flags
    F_VMA_SPLIT             # a = vma, b = vpn, c = new below; res = 0 or -errno
    F_VMA_MERGE             # a = prev, b = start, c = end, d = flags, i = model vma; res = vma or 0
    F_FAULT                 # handle_mm_fault: a = vma, b = vpn, c = FaultFlag; res = 0, FAULT_RETRY or -signal
    F_GUP                   # __get_user_pages: a = vma, b = start, c = end, d = FollFlag; res = pages or -errno
    F_POPULATE              # __mm_populate: a = start, b = end, c = ignore errors; res = 0 or -errno
    F_ZAP                   # zap_page_range of one vma: a = vma, b = start, c = end, d = ZapFlag
    F_FLUSH                 # tlb_flush_mmu: frees what the task gathered
    F_UNLINK_VMAS           # free_pgtables (unlink_anon_vmas, unlink_file_vma): a = first vma, b = end (page number)
    F_UNMAP_REGION          # __do_munmap: a = start, b = end (page numbers), mmap_lock held; res = 0 or -errno
    F_EXIT_MMAP             # a = mm
    # system calls
    F_TOUCH = 64            # do_user_addr_fault: a = vpn, b = pages, c = write; ret = pages done, sig
    F_SYS_MMAP              # a = addr, b = length, c = prot | flags << 32, d = mapping | pgoff << 20
    F_SYS_MUNMAP            # a = addr, b = length
    F_SYS_MLOCK             # a = addr, b = length, c = VM_LOCKED [| VM_LOCKONFAULT]
    F_SYS_MUNLOCK           # a = addr, b = length
    F_SYS_MLOCKALL          # a = flags
    F_SYS_MUNLOCKALL
    F_SYS_MPROTECT          # a = start, b = end (page numbers), c = prot
    F_SYS_MREMAP            # a = addr, b = old pages, c = new pages | flags << 40, d = new addr
    F_SYS_MADVISE           # a = start, b = end (page numbers), c = advice
    F_SYS_FORK              # a = child task
    F_SYS_EXIT
    F_LOCAL_DRAIN
    F_SYS_DRAIN_ALL
    F_FILE_WRITE            # a = mapping, b = pgoff, c = pages, d = FileFlag
    F_FILE_READ             # a = mapping, b = pgoff, c = pages
    F_TRUNCATE              # a = mapping, b = first page gone, c = first page kept behind, d = new size or -1
    F_FADVISE               # a = mapping, b = first page, c = end page
    F_MOVE_PAGES            # move_pages of one page: a = page, b = node + 1; ret = moved
    F_DROP_CACHES           # a = mapping
    F_MAP_LOOP              # a bystander's loop of mmap and munmap: a = addr, b = mapping, c to d = tasks that must be gone
    F_ZAP_FILE              # unmap_mapping_range: a = mapping, b = first page, c = end page, d = even COWed
    F_READAHEAD             # page_cache_ra_unbounded: a = mapping, b = pgoff, c = pages, d = page to mark + 1
    F_VMA_FLAGS             # merge or split so that a vma covers [b, c) with flags d: a = vma; res = vma or -errno
    F_MPROTECT_FIXUP        # a = vma, b = start, c = end, d = flags; res = vma or -errno
    F_MADVISE_VMA           # a = vma, b = start, c = end, d = advice; res = vma or -errno
    F_MADV_POPULATE         # madvise_populate: a = start, b = end, c = write; res = 0 or -errno
    F_COLD                  # madvise_cold (or pageout) of one vma: a = vma, b = start, c = end, d = pageout
    F_MOVE_TABLES           # move_page_tables: a = old vpn, b = new vpn, c = pages
    F_MOVE_VMA              # a = vma, b = old vpn, c = old pages | new pages << 32, d = new vpn; res = vpn or -errno
    F_TRY_TO_UNMAP          # a = page; res = unmapped everywhere
    F_SHRINK_PAGE           # shrink_page_list of one isolated page: a = page, b = SHRINK_...; res = freed
    F_PAGE_REFERENCED       # page_referenced: a = page; res = SEEN_..., or -1
    F_THP_REFERENCED        # page_referenced of a THP: a = head; res = SEEN_..., or -1
    F_SHRINK_LIST           # a = lruvec, b = list, c = pages; res = freed
    F_SYS_RECLAIM           # a = pages of each list, -1 for all that can be had; ret = freed
    F_OOM_REAP              # oom_reap_task_mm: a = mm
    F_MIGRATE               # unmap_and_move: a = page, b = node + 1 or 0; res = moved
    F_TRY_TO_MIGRATE        # a = page
    F_REMOVE_MIGRATION      # remove_migration_ptes: a = old page, b = new page
    F_COMPACT
    F_MREMAP_TO             # a = vpn, b = old pages, c = new pages | flags << 40, d = new vpn; res = vpn or -errno
    F_SYS_MSYNC             # a = start, b = end (page numbers), c = flags
    F_SYS_SHM_LOCK          # a = mapping, b = lock or unlock
    F_HUGE_FAULT            # do_huge_pmd_anonymous_page: a = vma, b = vpn, c = write; res = 1
    F_HUGE_WP               # do_huge_pmd_wp_page: a = vma, b = vpn; res = done, or 0: a matter of ptes
    F_SPLIT_PMD             # split_huge_pmd: a = vma, b = vpn
    F_SET_PMD               # do_set_pmd: a = vma, b = vpn, c = page, d = write; ptl held; res = mapped
    F_ZAP_PMD               # zap_huge_pmd: a = vma, b = vpn
    F_COPY_HUGE_PMD         # a = vma, b = child's vma, c = vpn
    F_SPLIT_PAGE            # split_huge_page: a = head, locked, referenced; b = tails to the gather; res = split
    F_SPLIT_DEFERRED        # deferred_split_scan: every THP that is mapped in part
    F_COLLAPSE              # collapse_huge_page: a = vma, b = vpn; res = collapsed
    F_COLLAPSE_FILE         # collapse_file: a = mapping | mm << 32, b = first page; res = SCAN_...
    F_COLLAPSE_FILE_PMD     # one pmd of a file: as F_COLLAPSE
    F_COLLAPSE_PTES         # collapse_pte_mapped_thp: a = vma, b = vpn, c = a pmd takes their place; res = SCAN_...
    F_RETRACT_TABLES        # retract_page_tables: a = mapping | mm << 32, b = first page
    F_KHUGEPAGED            # one scan of everything that may be collapsed
    F_MADV_COLLAPSE         # madvise_collapse: a = vma, b = start, c = end; res = 0 or -errno
    F_SWAP_FAULT            # do_swap_page: as F_FAULT
    F_SWAP_READ             # swapin_readahead: a = vma (0: around the slot), b = vpn, c = slot; res = page
    F_SWAP_WILLNEED         # a = vma, b = start, c = end
    F_LOCAL_LRU_DRAIN       # lru_add_drain of the task's cpu
    F_SHMEM_SWAPIN          # shmem_swapin_page: a = mapping, b = pgoff; res = page
    F_SYS_BRK               # a = the break asked for, in bytes; ret = the break
    F_EXPAND_STACK          # a = vma, b = vpn; res = 0 or -errno
    F_ACCESS_REMOTE_VM      # a = mm, b = vpn, c = write; ret = pages reached
    F_SYS_EXEC              # a = the new mm
    F_KSM_MERGE             # try_to_merge_one_page: a = vma, b = vpn, c = KSM page or 0: it becomes one; ret = merged
    F_KSM_UNMERGE           # unmerge_ksm_pages: a = vma, b = start, c = end
    F_FSYNC                 # vfs_fsync_range: a = mapping, b = first page, c = end page
    F_SYS_REMAP_FILE_PAGES  # a = start, b = pages, c = file page, d = MAP_NONBLOCK or 0
    F_OFFLINE               # offline_pages: a = first frame, b = end; ret = frames still in use
    F_CPU_DEAD              # page_alloc_cpu_dead: a = cpu
    F_SWAPOFF               # sys_swapoff
    F_UNUSE_PTE             # a = vma, b = vpn
    F_HUGETLB_FAULT         # hugetlb_fault: as F_FAULT
    F_HUGETLB_UNMAP         # __unmap_hugepage_range_final: a = vma, b = start, c = end
    F_REMOVE_RMAP           # page_remove_rmap: a = page, b = vma, c = RmapFlag
    # synthetic.pyx
    F_LOCK_LOOP
    F_RWSEM_LOOP
    F_TWO_LOCKS
    F_MLOCK_LOOP
    NR_FLOWS = 256

cdef enum FaultFlag:
    FAULT_WRITE = 1
    FAULT_UNSHARE = 2       # a KSM page is copied, but not to be written
    FAULT_PTE = 4           # no huge page here: the pmd's turn is over
    FAULT_RETRYABLE = 8     # mmap_lock may be dropped to read something in; the answer is then FAULT_RETRY
    FAULT_TRIED = 16        # begun again after mmap_lock was dropped

cdef enum:
    FAULT_RETRY = 1

cdef enum FollFlag:
    FOLL_WRITE = 1
    FOLL_TOUCH = 2
    FOLL_POPULATE = 4
    FOLL_MLOCK = 8
    FOLL_UNLOCKABLE = 16    # mmap_lock may be dropped: less than asked for is answered then, perhaps 0

cdef enum ZapFlag:
    ZAP_KEEP_COWED = 1      # only pages of the file itself (hole punch keeps private copies)
    ZAP_OF_FILE = 2         # unmap_mapping_range()
    ZAP_RECLAIM_PT = 4      # a page table that is left empty may go (MADV_DONTNEED)

cdef enum RmapFlag:
    RMAP_COMPOUND = 1       # the pmd of a THP, whose head the page is
    RMAP_IF_MLOCKED = 2     # part of a THP takes a lock back only while that is PG_mlocked

cdef enum ListKind:
    LIST_CPU_PVEC = 0
    LIST_TASK_PVEC = 1
    LIST_GATHER = 2

cdef enum TaskFlag:
    TASK_DONTUNMAPPED = 1   # MREMAP_DONTUNMAP left its locked_vm above what is locked

cdef enum Errno:
    EPERM = 1
    ESRCH = 3
    EINTR = 4
    EIO = 5
    EAGAIN = 11
    ENOMEM = 12
    EFAULT = 14
    EBUSY = 16
    EEXIST = 17
    EINVAL = 22
    SIGBUS = 7
    SIGSEGV = 11


cdef inline int task_index(World *w, Task *t) noexcept nogil:
    return <int>(t - w.tasks)


cdef inline int call(World *w, Task *t, Frame *f, int next, int fn, int64_t a, int64_t b=0, int64_t c=0,
                     int64_t d=0) noexcept nogil:
    cdef Frame *g
    f.pc = next
    if t.depth + 1 >= FRAMES:
        w.error = ERR_STACK
        return REQ_ERROR
    t.depth += 1
    g = &t.stack[t.depth]
    g.fn = fn
    g.pc = 0
    g.i = g.j = g.k = 0
    g.a = a
    g.b = b
    g.c = c
    g.d = d
    return REQ_NONE


cdef inline int ret(Task *t, int64_t res) noexcept nogil:
    t.res = res
    t.depth -= 1
    return REQ_NONE


cdef inline int become(Task *t, Frame *f, int fn) noexcept nogil:
    """Goes on as another flow with the same arguments, which answers the caller (a tail call)."""
    f.fn = fn
    f.pc = 0
    f.i = f.j = f.k = 0
    return REQ_NONE


cdef inline int sysret(Task *t, int64_t value, int err) noexcept nogil:
    """The end of a system call: -1 and an errno, or a value."""
    t.ret = -1 if err else value
    t.err = err
    t.depth -= 1
    return REQ_NONE


cdef inline int ask(Task *t, Frame *f, int next, int req, int lock_class, uint32_t obj) noexcept nogil:
    f.pc = next
    t.req_class = lock_class
    t.req_obj = obj
    return req


cdef inline int unsupported(World *w, int fn) noexcept nogil:
    """The model has not this flow, or not for what it was called with."""
    w.error = ERR_UNSUPPORTED
    w.unsupported = fn
    return REQ_ERROR


cdef inline int bug(World *w) noexcept nogil:
    w.error = ERR_BUG
    return REQ_ERROR


cdef inline int64_t list_ref(int kind, int64_t index) noexcept nogil:
    return (<int64_t>kind << 40) | index


cdef inline uint32_t *list_pages(World *w, int64_t ref) noexcept nogil:
    """The page numbers of a list: a batch of a cpu or of a task, or a task's gather."""
    cdef int64_t index = ref & ((<int64_t>1 << 40) - 1)
    cdef int kind = <int>(ref >> 40)
    if kind == LIST_CPU_PVEC:
        return &w.pvecs[index].page[0]
    if kind == LIST_TASK_PVEC:
        return &w.tpvecs[index].page[0]
    return &w.gathers[index * GATHER_MAX]
