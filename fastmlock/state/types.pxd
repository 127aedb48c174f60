# The records that the whole laboratory keeps, one C struct each.
#
# Every array of these records is a NumPy structured array that Python can look at without copying
# (fastmlock.state.world). Index 0 of every pool is "none", as NULL is in the kernel. Virtual addresses
# are kept as page numbers (address >> 12), called vpn.
from libc.stdint cimport (int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t)

cdef enum:
    PTRS_PER_PTE = 512
    PTE_SHIFT = 9
    PVEC_MAX = 31           # slots of a batch record; how many are used is a trait (15, 31 from 6.9)
    FRAMES = 16             # depth of a task's flow stack
    TOUCH_MAX = 4096        # cache-line touches between two requests
    GATHER_MAX = 9690       # pages one mmu_gather holds before it must be flushed (19 chunks of 510)
    PCP_LISTS = 1024        # per-cpu lists of free pages; cpus beyond share them
    SHADOW = 0xffffffff     # page-cache slot of a page that reclaim took away
    SWAPPED = 0x80000000    # page-cache slot of a page that lies on the swap device: this and the swap slot
    FAULT_AROUND = 16       # pages mapped around a read fault (64 KiB)
    THP_ORDER = 9
    THP_PAGES = 512
    CONTENT_UNKNOWN = 256   # content of a page that came back from swap: any byte
    STACK_GUARD_GAP = 256   # pages that a mapping which grows downwards keeps free below it
    STACK_LIMIT = 2048      # RLIMIT_STACK in pages: 8 MiB

# page flags: our own bit numbers, the kernel's names
cdef enum PageFlag:
    PG_locked = 1 << 0
    PG_waiters = 1 << 1
    PG_lru = 1 << 2
    PG_active = 1 << 3
    PG_referenced = 1 << 4
    PG_uptodate = 1 << 5
    PG_dirty = 1 << 6
    PG_swapbacked = 1 << 7
    PG_unevictable = 1 << 8
    PG_mlocked = 1 << 9
    PG_workingset = 1 << 10
    PG_swapcache = 1 << 11
    PG_writeback = 1 << 12
    PG_anon = 1 << 13           # the low bit of page->mapping in the kernel
    PG_ksm = 1 << 14
    PG_head = 1 << 15
    PG_tail = 1 << 16
    PG_buddy = 1 << 17
    PG_reserved = 1 << 18       # the zero page
    PG_reclaim = 1 << 19
    PG_readahead = 1 << 19      # the same bit, as there
    PG_anon_exclusive = 1 << 20
    PG_offline = 1 << 22        # a frame that was taken out of the machine
    PG_hugetlb = 1 << 23        # head of a page of the hugetlb pool ...
    PG_restore_reserve = 1 << 26    # ... that is reserved again when it comes back there
    PG_left_marked = 1 << 27    # for the checks alone: MREMAP_DONTUNMAP unlocked a vma around it, and did not unmark it
    PG_double_map = 1 << 24     # THP head: mapped by a pmd here and by ptes there (through 6.1)
    PG_partially_mapped = 1 << 25   # THP head: on the queue of those to be split

# vm_flags, the kernel's own values
cdef enum VmFlag:
    VM_READ = 0x1
    VM_WRITE = 0x2
    VM_EXEC = 0x4
    VM_SHARED = 0x8
    VM_GROWSDOWN = 0x100
    VM_PFNMAP = 0x400
    VM_LOCKED = 0x2000
    VM_IO = 0x4000
    VM_DONTEXPAND = 0x40000
    VM_LOCKONFAULT = 0x80000
    VM_ACCOUNT = 0x100000
    VM_HUGETLB = 0x400000
    VM_SEQ_READ = 0x8000
    VM_RAND_READ = 0x10000
    VM_DONTCOPY = 0x20000
    VM_NORESERVE = 0x200000
    VM_WIPEONFORK = 0x2000000
    VM_HUGEPAGE = 0x20000000
    VM_NOHUGEPAGE = 0x40000000
    VM_MERGEABLE = 0x80000000
    VM_ACCESS_FLAGS = 0x7
    VM_MIXEDMAP = 0x10000000
    VM_SPECIAL = 0x4000 | 0x40000 | 0x400 | 0x10000000
    VM_LOCKED_MASK = 0x2000 | 0x80000

# which VMAs get huge pages
cdef enum ThpEnabled:
    THP_NEVER = 0
    THP_MADVISE = 1
    THP_ALWAYS = 2

# what a record of `mappings` is
cdef enum MappingKind:
    MAPPING_FILE = 0
    MAPPING_HUGETLB = 1         # a file of huge pages: a slot of the page cache for each of them
    MAPPING_RESV = 2            # no file: which huge pages are reserved (hugetlb's resv_map), a slot for each
    MAPPING_SECRETMEM = 3       # memfd_secret: locked by nature, out of get_user_pages()'s reach
    MAPPING_RING = 4            # a driver's pages, mapped all at once by vm_insert_page(): a packet socket's ring
    MAPPING_MEM = 5             # physical memory without pages: remap_pfn_range() of /dev/mem

# the five lists of a lruvec
cdef enum LruList:
    LRU_INACTIVE_ANON = 0
    LRU_ACTIVE_ANON = 1
    LRU_INACTIVE_FILE = 2
    LRU_ACTIVE_FILE = 3
    LRU_UNEVICTABLE = 4
    NR_LRU_LISTS = 5

# the per-cpu batches, in the order in which lru_add_drain() processes them
cdef enum PvecKind:
    PVEC_LRU_ADD = 0
    PVEC_ROTATE = 1
    PVEC_DEACTIVATE_FILE = 2
    PVEC_DEACTIVATE = 3
    PVEC_LAZYFREE = 4
    PVEC_ACTIVATE = 5
    PVEC_MLOCK = 6
    NR_PVECS = 7

# kind of a mlock batch entry, kept beside the page as the kernel keeps it in the low pointer bits
cdef enum MlockEntry:
    MUNLOCK_PAGE = 0
    LRU_PAGE = 1
    NEW_PAGE = 2

# a task's own on-stack batches
cdef enum TaskPvec:
    TPV_WORK = 0            # munlock batch, pages to work on
    TPV_PUTBACK = 1         # munlock batch, fast put-back
    TPV_FREE = 2            # pages whose last reference went
    TPV_MISC = 3
    NR_TPVECS = 4

cdef enum VmEvent:
    EV_CULLED = 0
    EV_SCANNED = 1
    EV_RESCUED = 2
    EV_MLOCKED = 3
    EV_MUNLOCKED = 4
    EV_CLEARED = 5
    EV_STRANDED = 6
    NR_EVENTS = 7

# counters kept with per-cpu differences and a folding threshold
cdef enum VmStat:
    ST_INACTIVE_ANON = 0    # the same order as LruList
    ST_ACTIVE_ANON = 1
    ST_INACTIVE_FILE = 2
    ST_ACTIVE_FILE = 3
    ST_UNEVICTABLE = 4
    ST_MLOCK = 5
    ST_FILE_MAPPED = 6
    ST_ANON_MAPPED = 7
    NR_STATS = 8

# work counted by mm and flows between two requests; the machine turns it into nanoseconds
cdef enum Work:
    WK_STEP = 0             # a flow state entered
    WK_PTE = 1              # page-table entries looked at
    WK_PTE_SET = 2          # page-table entries written
    WK_LEVEL = 3            # page-table levels descended
    WK_RMAP_VMA = 4         # VMAs visited by an rmap walk
    WK_ATOMIC = 5           # atomic operations on lines that are already here
    WK_LIST = 6             # pages linked into a list and out of one
    WK_PVEC = 7             # entries put into or taken out of a batch
    WK_ALLOC = 8            # pages allocated and zeroed
    WK_COPY = 9             # pages copied
    WK_FREE = 10            # pages freed
    WK_VMA = 11             # VMAs made, changed, split, merged or freed
    WK_TREE = 12            # interval-tree insertions and removals
    WK_FAULT = 13           # page faults taken
    WK_SYSCALL = 14         # system calls entered
    WK_TLB = 15             # TLB flushes
    WK_DRAIN = 16           # looks at a cpu's batches
    WK_LRU_SIZE = 17        # sizes of LRU lists changed, with the counters of zone, node and memory cgroup
    NR_WORK = 18

# what a flow asks of whoever drives it
cdef enum Req:
    REQ_NONE = 0            # call the flow again (internal)
    REQ_DONE = 1            # the task's program is over; ret and err are set
    REQ_SPIN_LOCK = 2
    REQ_SPIN_UNLOCK = 3
    REQ_DOWN_READ = 4
    REQ_UP_READ = 5
    REQ_DOWN_WRITE = 6
    REQ_UP_WRITE = 7
    REQ_DOWNGRADE = 8
    REQ_DOWN_READ_TRYLOCK = 9   # res = 1 if taken
    REQ_LOCK_PAGE = 10
    REQ_UNLOCK_PAGE = 11
    REQ_RESCHED = 12        # cond_resched(): a point where the cpu may be given up
    REQ_WORK = 13           # let the work counted so far pass as time, nothing else
    REQ_DELAY = 14          # req_arg nanoseconds of plain work (synthetic loops)
    REQ_EXIT = 15           # the task is gone
    REQ_ERROR = 16          # world.error says why
    REQ_WAIT_PAGE = 17      # until PG_locked of the page is clear, without taking it

# classes of locks; (class, object index) names one lock
cdef enum LockClass:
    LK_LRU = 0              # lruvec->lru_lock, object = lruvec (qspinlock, interrupts off)
    LK_PTL = 1              # page-table lock, object = leaf (qspinlock)
    LK_MMAP = 2             # mm->mmap_lock, object = mm (rwsem)
    LK_I_MMAP = 3           # mapping->i_mmap_rwsem, object = mapping (rwsem)
    LK_ANON_VMA = 4         # root anon_vma->rwsem, object = root anon_vma (rwsem)
    LK_PAGE = 5             # PG_locked, object = page
    LK_TEST_SPIN = 6        # synthetic loops: a spinlock
    LK_TEST_RWSEM = 7       # synthetic loops: a rwsem
    NR_LOCK_CLASSES = 8

cdef enum WorldError:
    ERR_NONE = 0
    ERR_NO_PAGES = 1
    ERR_NO_VMAS = 2
    ERR_NO_NODES = 3
    ERR_NO_LEAVES = 4
    ERR_NO_TABLES = 5
    ERR_NO_PTES = 6
    ERR_NO_ANON_VMAS = 7
    ERR_NO_AVCS = 8
    ERR_NO_TASKS = 9
    ERR_NO_MMS = 10
    ERR_STACK = 11          # flow stack too deep
    ERR_DEADLOCK = 12       # a lock that nobody will release
    ERR_UNSUPPORTED = 13    # a path the model has not: world.unsupported says which
    ERR_BUG = 14            # a VM_BUG_ON of the model

# One struct page: 64 bytes, one cache line, as in the kernel.
cdef struct Page:
    uint32_t flags
    int32_t refcount
    int32_t mapcount        # number of page-table entries (the kernel stores this minus one)
    uint32_t mapping        # mapping (file) or anon_vma (PG_anon); 0 = truncated or free
    int64_t index           # pgoff in the file, or linear page offset of anonymous memory
    uint32_t lru_next       # list linkage ...
    uint32_t lru_prev       # ... whose second word is mlock_count while PG_lru and PG_unevictable are both
                            # set, from patch 06 on
    uint32_t lruvec
    uint16_t node
    uint16_t memcg
    uint32_t compound_head  # head page of a tail, else 0
    int32_t compound_mapcount   # pmd maps of a THP head; mapcount of its pages is their pte maps alone
    uint32_t order
    uint32_t private_       # swap entry
    uint64_t content        # the byte that its user wrote, all others being zero; or CONTENT_UNKNOWN

cdef struct Lruvec:
    uint32_t head[5]        # first page of each list; 0 = empty
    uint32_t tail[5]
    int64_t nr[5]           # pages accounted on each list (base pages)
    uint16_t node
    uint16_t memcg
    uint32_t spare

cdef struct PageVec:
    int32_t nr
    uint32_t page[31]
    uint8_t kind[31]        # MlockEntry, mlock batch only
    uint8_t drained         # releasing a private one drains its cpu, the first time (percpu_pvec_drained)

# Bits of 64 entries of a linear leaf.
cdef struct PteBits:
    uint64_t present
    uint64_t young
    uint64_t dirty
    uint64_t write

# One page-table page (512 entries). A file mapping's entries need only bits: the page is the one the page
# cache holds at (pgoff of entry 0) + i. The first entry that is anything else gives the leaf a full table.
cdef struct Leaf:
    int64_t first           # linear: where in World.cache the page of entry 0 stands, or would
    uint32_t mapping        # linear: whose pages; 0 = nothing mapped linearly yet
    uint32_t full           # index of the full table of 512 entries, 0 = linear
    uint32_t mm
    int32_t nr_present      # entries that are not none
    int64_t vpn             # first page number covered
    PteBits bits[8]         # linear: of all entries
    uint32_t huge           # head page of the THP that a pmd maps here; the full table spells its 512 pages out
    uint32_t none           # the pmd is none: a huge one was cleared, and no page table has taken its place

# file_ra_state: what was read ahead last through one open file, in pages.
cdef struct Readahead:
    int64_t start
    int32_t size
    int32_t async_size      # so far before the end, the page that starts more carries PG_readahead

# struct file: what mmap() was given. Every mmap() opens its file anew; splits, copies and children share it.
cdef struct File:
    Readahead f_ra
    uint32_t f_count        # vmas that have it
    uint32_t next           # free list

cdef struct Vma:
    int64_t start           # vpn
    int64_t end             # vpn, exclusive
    int64_t pgoff
    uint64_t flags          # vm_flags
    uint32_t mm
    uint32_t mapping        # 0 = anonymous memory
    uint32_t file           # the open file of that mapping
    uint32_t anon_vma       # set by the first anonymous page
    uint32_t i_mmap_node    # its node in mapping->i_mmap, 0 = not linked
    uint32_t avc            # first of its anon_vma_chain
    uint32_t next           # by address
    uint32_t prev
    uint32_t swap_ra        # where it was last swapped in, and how far that read ahead (mm.swapfile); of huge pages,
                            # which are never swapped: its reservations (mm.hugetlb)

cdef struct Mm:
    int64_t locked_vm       # pages
    int64_t total_vm        # pages
    uint64_t def_flags
    uint32_t vma            # first by address
    int32_t map_count
    uint32_t pgd            # root table, 0 = none yet
    int32_t users
    uint32_t vmacache
    uint32_t exiting
    int64_t rss             # present entries
    int64_t start_brk       # bytes; the heap is [start_brk, brk)
    int64_t brk

cdef struct Mapping:
    int64_t nrpages
    int64_t size            # i_size in pages
    int64_t capacity        # slots in the page-cache array
    int64_t base            # first slot
    uint32_t root           # i_mmap: root node of the interval tree, 0 = empty
    int32_t nr_vmas
    uint32_t shmem          # 1 = tmpfs or hugetlbfs: nothing is ever written back
    uint32_t unevictable    # SHM_LOCK, ramfs
    int64_t nr_locked       # VM_LOCKED vmas in i_mmap
    uint8_t kind            # MappingKind
    uint8_t huge            # 1 = tmpfs mounted huge=always: a hole becomes a THP where one fits
    uint16_t interleave     # 1 = pages spread over nodes
    uint32_t node
    uint32_t allocated      # 1 = on the disk it has blocks
    Readahead ra            # of the descriptor that reads it
    int64_t prev_pos        # page behind the last one read, + 1; 0 = none was

# One slot of the swap device.
cdef struct SwapSlot:
    int32_t count           # page-table entries and files that refer to it (swap_map)
    uint32_t page           # its page in the swap cache, 0 = none
    uint32_t shadow         # 1 = reclaim took its page away
    uint32_t memcg          # whom its page was charged to, and will be again

# A node of an interval tree (i_mmap or anon_vma): ordered by first, equals in insertion order.
cdef struct TreeNode:
    int64_t first           # pgoff
    int64_t last            # pgoff, inclusive
    int64_t subtree_last    # greatest last below
    int64_t subtree_min_last    # least last below
    int64_t subtree_max_first   # greatest first below (of the subtree)
    uint32_t vma
    uint32_t left
    uint32_t right
    uint32_t parent
    uint32_t prio
    int32_t size            # nodes in the subtree
    int32_t nr_locked       # VM_LOCKED vmas in the subtree
    uint32_t spare

cdef struct AnonVma:
    uint32_t root           # whose rwsem protects the whole family
    uint32_t parent
    uint32_t tree           # interval tree root
    int32_t degree          # children + vmas that point here
    int32_t refs            # 0 = free
    uint32_t spare

cdef struct AnonVmaChain:
    uint32_t vma
    uint32_t anon_vma
    uint32_t node           # its node in the anon_vma's tree
    uint32_t next           # the vma's next chain link

# One place that was merged into a KSM page. (struct rmap_item)
cdef struct KsmItem:
    int64_t vpn
    uint32_t page           # 0 = free
    uint32_t anon_vma
    uint32_t mm
    uint32_t next           # the page's next place

# One state of one flow: where it is and its few locals.
cdef struct Frame:
    int16_t fn
    int16_t pc
    int32_t i
    int32_t j
    int32_t k
    int64_t a
    int64_t b
    int64_t c
    int64_t d

cdef struct Task:
    int32_t cpu
    int32_t mm              # 0 = gone
    int32_t depth           # top of the flow stack, -1 = idle
    int32_t req             # Req
    int32_t req_class       # LockClass
    uint32_t req_obj
    int64_t req_arg
    int64_t res             # what the last call or try-lock answered
    int64_t ret             # of the system call
    int32_t err             # errno, 0 = success
    int32_t sig
    int64_t rlimit_memlock  # bytes
    int32_t cap_ipc_lock
    int32_t uid
    int32_t gather          # pages in its mmu_gather
    int32_t locks_held
    int32_t pid
    int32_t flags
    int32_t memcg           # whom its pages are charged to
    int32_t node            # where its pages come from: a node + 1, or 0 for that of its cpu
    Frame stack[16]

# What differs between kernels; see fastmlock.kernels for the meaning of each and the table of releases.
cdef struct Traits:
    int32_t p01
    int32_t p02
    int32_t p03
    int32_t p04
    int32_t p05
    int32_t p06
    int32_t p07
    int32_t p08
    int32_t p09
    int32_t p10
    int32_t p11
    int32_t p12
    int32_t p13
    int32_t pvec_size           # lru batches
    int32_t mlock_pvec_size
    int32_t drain_on_populate   # ece369c7e104
    int32_t special_check       # c8263bd60500
    int32_t local_lock          # adb11e78c5dc: no effect without PREEMPT_RT
    int32_t gather_drains       # freeing after a TLB flush drains the local batches (through 6.12)
    int32_t munmap_drains       # munmap and exit drain before zapping (through 6.12)
    int32_t madv_populate       # 5.14
    int32_t madv_dontneed_locked    # 5.18
    int32_t madv_collapse
    int32_t lru_lock_per_memcg  # 5.11
    int32_t i_mmap_read_truncate    # 5.18
    int32_t exit_mmap_read      # 6.0
    int32_t unlink_batch        # vmas unlinked under one i_mmap write lock (8 from 6.11, else 1)
    int32_t smaps_lf            # 6.6
    int32_t large_folio         # 6.7
    int32_t cow_reuse_refcount  # 5.18: anonymous exclusive pages
    int32_t rmap_trylock        # 5.19
    int32_t anon_exclusive      # 5.19: PG_anon_exclusive decides reuse at COW
    int32_t delayed_rmap        # 6.2: dirty file ptes leave the rmap when the gather is flushed
    int32_t dontunmap_any       # 5.13: MREMAP_DONTUNMAP beyond private anonymous memory
    int32_t populate_walks_holes    # to 6.8: MADV_POPULATE passes over holes; later it stops, and drains if refused
    int32_t populate_checks_first   # 6.12: a refused populate does not drain
    int32_t mremap_positive_efault  # 5.16 to 5.18: mremap of no vma answers 14 as if it were an address
    int32_t dirty_ptes          # a writable entry of a dirty page is born dirty (6.18)
    int32_t mremap_looks_first  # 5.16: mremap fails at once where no vma is
    int32_t mremap_many         # 6.17: MREMAP_FIXED moves a range of several vmas
    int32_t merge_unfaulted     # 6.16: a vma without anon_vma takes in one that has a single one
    int32_t read_past_end       # a read behind the end of a disk file leaves a page there (through 5.10)
    int32_t async_ra            # read-ahead that a marker starts goes its own way (6.11)
    int32_t ra_huge             # a fault under MADV_HUGEPAGE reads the file around in huge pages' size (5.18)
    int32_t ra_exec             # a fault of memory that may be executed reads ahead, not around, within its vma (6.17)
    int32_t ra_large_folios     # disk filesystems have large folios: read-ahead is no longer by pages (6.16)
    int32_t pread_marks_next    # reading on there is seen from the last page read, not from the one behind it
    int32_t ra_from_last        # and so does read-ahead
    int32_t around_spares_last  # fault-around begins no page table with a disk file's last page
    int32_t child_runs_first    # after a fork the child writes before its parent does (EEVDF, 6.6)
    int32_t write_prefaults     # write() faults its buffer in before it looks the page up (through 6.15)
    int32_t drop_caches_drains  # drop_caches drains every CPU first (6.0)
    int32_t remove_maywrite     # MADV_REMOVE asks whether a shared mapping may be written, not whether it is (6.7)
    int32_t dontunmap_accounts  # MREMAP_DONTUNMAP of a locked mapping adds to locked_vm (6.15)
    int32_t dontunmap_unlinks   # MREMAP_DONTUNMAP of a whole mapping leaves it without anon_vma (5.12)
    int32_t dontunmap_splits    # MREMAP_DONTUNMAP of a part of a locked mapping unlocks that part alone (stable 6.1, 6.12)
    int32_t mprotect_uncharges  # read-only anonymous memory without anon_vma loses VM_ACCOUNT (6.6)
    int32_t mremap_checks_first # mremap looks at the old VMA before it unmaps anything (6.17)
    int32_t random_is_old       # zapping a MADV_RANDOM VMA marks nothing accessed either (6.3)
    int32_t release_reverses    # release_pages() frees its last page first (through 6.8)
    int32_t ksm_unshares        # KSM pages are given up by a fault that writes nothing (6.2)
    int32_t folio_page_flags    # kpageflags shows of every page of a THP the flags of the whole (6.9)
    int32_t pt_reclaim          # MADV_DONTNEED of all that a page table covers frees the table (6.14)
    int32_t huge_zero_cow       # a write to the huge zero page gets a THP, not ptes (6.13)
    int32_t huge_pmd_accessed   # zapping a young huge pmd of a file marks it accessed
    int32_t collapse_read_only  # memory that may not be written is collapsed too (6.17)
    int32_t cow_reuse_large     # 6.15: a large folio all of whose references are one mm's maps is not copied
    int32_t walk_marks_thp      # page_mlock() marks a file's THP too (5.15, not 5.10)
    int32_t split_smaller       # truncation splits a THP into large folios, not pages (6.15)
    int32_t shmem_swaps_whole   # a THP of tmpfs is reclaimed without being split (6.12)
    int32_t collapse_ptes       # khugepaged and MADV_COLLAPSE take away ptes of a THP that a pmd could map (6.1)
    int32_t retract_all         # collapse of a file takes everybody's page tables, without mmap_lock (6.6)
    int32_t partial_dirties     # a hole in a THP dirties what is left of it (5.17)
    int32_t nohuge_no_pmd       # MADV_NOHUGEPAGE keeps pmds from mapping a file's THPs (6.12)
    int32_t mlock_whole_folio   # rmap adding of all ptes of a large folio at once mlocks it (6.17)
    int32_t split_zeroes        # splitting a THP gives its zero-filled pages up for the zero page (6.12)
    int32_t cow_frees_swap_cache    # 5.14: a COW's old page that nobody maps any more leaves the swap cache
    int32_t zap_keeps_swap      # to 5.17, not in stable 5.10: unmap_mapping_range() passes over swap entries
    int32_t swapin_marks        # to 6.10: a page read in from swap is mlocked where it is mapped first
    int32_t swapin_writable     # 6.11: a page that is this process's alone is mapped writable on a read too
    int32_t shmem_swapin_direct # tmpfs reads past the swap cache too (6.15)
    int32_t locked_count_clamps     # what is locked already is counted up to the last address, where a length wraps (6.1)
    int32_t brk_finds_vma       # brk shrinks nothing where no vma is (6.1)
    int32_t madvise_eagain      # advice that would need one vma too many answers EAGAIN, not ENOMEM (5.17)
    int32_t protnone_hides      # looking up a page of PROT_NONE memory finds nothing (6.1 to 6.11)
    int32_t move_pages_efault   # move_pages of anonymous memory that is not there answers EFAULT (6.12 not)
    int32_t gup_populates_stack # a stack that get_user_pages extends is populated if it is locked (to 6.4, not stable 6.1)
    int32_t secretmem           # memfd_secret() is there (5.14)
    int32_t secretmem_locks     # its mappings are VM_LOCKED and accounted (not on stable 6.1 and 6.12)
    int32_t hugetlb_mremap      # huge pages of hugetlb can be moved (5.16)
    int32_t hugetlb_dontneed    # and given up by MADV_DONTNEED: 1, rounded up to whole ones (5.18), 2, rounded down (6.1)
    int32_t hugetlb_restores    # who has reserved a huge page has it reserved again when it is unmapped (6.9)
    int32_t hugetlb_lazy_fork   # fork leaves a shared mapping of them to be faulted in again (6.0)
    int32_t munmap_errors       # mmap over what cannot be unmapped answers why, not ENOMEM
    int32_t lru_cache_disable   # moving pages to another node or out of the machine holds no batches (5.13)
    int32_t release             # major * 100 + minor, for reports only
    int64_t rlimit_memlock      # default soft limit, bytes

cdef struct World:
    Traits tr
    int32_t nr_cpus
    int32_t nr_nodes
    int32_t nr_lruvecs
    int32_t nr_tasks
    int32_t stat_threshold
    int32_t touch_max           # line touches that may be logged between two requests: TOUCH_MAX in a timed run, else 0
    int32_t error               # WorldError
    int32_t unsupported         # which path
    int32_t max_map_count       # sysctl vm.max_map_count
    int32_t lru_disabled        # lru_cache_disable(): batches are processed at every addition
    Page *pages
    Vma *vmas
    File *files                 # as many as vmas
    Mm *mms
    Mapping *mappings
    TreeNode *nodes
    AnonVma *anon_vmas
    AnonVmaChain *avcs
    KsmItem *ksm_items
    Leaf *leaves
    uint64_t *ptes              # full tables, 512 entries each
    uint32_t *tables            # upper tables, 512 entries each
    uint32_t *cache             # page-cache slots of all mappings
    SwapSlot *swap
    Lruvec *lruvecs
    PageVec *pvecs              # [cpu][NR_PVECS]
    PageVec *tpvecs             # [task][NR_TPVECS]
    Task *tasks
    uint32_t *gathers           # [task][GATHER_MAX]
    int64_t *events             # [cpu][NR_EVENTS]
    int64_t *stat               # [NR_STATS], folded
    int32_t *stat_diff          # [cpu][NR_STATS]
    # pools: capacity, high-water mark, free list (linked through a field of the record)
    uint32_t pages_cap, pages_used, pages_free, pages_nfree     # pages_free: free pages of no cpu's list
    uint32_t vmas_cap, vmas_used, vmas_free
    uint32_t files_used, files_free
    uint32_t mms_cap, mms_used, mms_free
    uint32_t mappings_cap, mappings_used
    uint32_t nodes_cap, nodes_used, nodes_free
    uint32_t anon_vmas_cap, anon_vmas_used, anon_vmas_free
    uint32_t avcs_cap, avcs_used, avcs_free
    uint32_t ksm_items_cap, ksm_items_used, ksm_items_free
    uint32_t leaves_cap, leaves_used, leaves_free
    uint32_t ptes_cap, ptes_used, ptes_free
    uint32_t tables_cap, tables_used, tables_free
    uint32_t tasks_cap
    int64_t cache_cap, cache_used
    int64_t swap_pages          # of the swap device, its header with it; 0 = none is on
    int64_t swap_used, swap_clusters_used
    uint32_t swap_next[1024]    # the slot that a cpu takes next (PCP_LISTS)
    int32_t swapin_hits         # reading ahead for files: pages wanted since, the window before that, where it was
    int32_t swapin_window
    int64_t swapin_prev
    uint32_t zero_page
    uint32_t huge_zero          # stands for the huge zero page; 0 while there were never huge pages
    uint32_t huge_free          # free THPs, linked by their heads' lru_next; not among pages_nfree
    uint32_t huge_nfree         # base pages of these
    uint32_t hugetlb_pool       # hugetlb's free pages, linked by lru_next, the last one given back first
    int64_t hugetlb_total, hugetlb_free, hugetlb_resv, hugetlb_surplus      # in huge pages, as /proc/meminfo has them
    int32_t buddy_cached        # ext4: its buddy cache, an inode like the files', has pages
    int32_t thp_enabled         # /sys/kernel/mm/transparent_hugepage/enabled: ThpEnabled
    int32_t fine                # let time pass after each page of a batch, not after the whole batch
    # counts of what happened, never reset by the model
    int64_t rmap_walks
    int64_t rmap_vmas
    int64_t lru_locks
    int64_t munlocks            # munlock_page calls (patch 04 on) or pages put through a munlock batch
    uint32_t pcp[1024]          # free pages that a cpu gave back, last one first (PCP_LISTS)
    # what a unit of each kind of work costs, as the machine has it
    int64_t work_ps[18]
    # work and touches since the driver last looked
    int64_t spent_ps
    int32_t nr_touch
    uint32_t last_touch         # the page touched last, 0 = none yet
    uint64_t touch[4096]        # page << 32 | number of atomic operations
