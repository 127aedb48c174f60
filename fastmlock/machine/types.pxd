# The records of the machine layer. All mutable state lives in flat arrays of these, so that a checkpoint is
# a copy of arrays. Times are int64 nanoseconds of virtual time and end in _ns. Fields named after a cpu of
# type int16 hold cpu + 1, fields named after a task hold task + 1, so that zeroed memory means "none".
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmlock.state.types cimport World

cdef enum:
    CPU_BITS = 12           # a tree key or a line word is time << CPU_BITS | cpu
    CPU_MASK = 4095
    MAX_CPUS = 4094
    PAGE_QUEUES = 256       # hashed wait queues of the page lock
    WRITE_HELD = 6          # rwsems a task may hold for writing at once
    MAX_REPORTS = 1024
    MAX_IDLE = 8            # idle states of a cpu
    SLEEPS = 8              # idle times that the idle governor remembers
    NODE_LEVEL = 20         # bits of a cpu's position that tell it from others of its node

# what a time of "never" and an answer of "waiting" look like
cdef enum:
    WAIT = -1

# One cache line: busy_ns << CPU_BITS | owner cpu + 1. Zero: in memory, owned by nobody.
ctypedef int64_t Line

# What a cpu's time is charged to. For i_mmap_rwsem, other rwsems and the page lock, _SLEEP is the time in
# which the cpu had nothing to run because its task was asleep there.
cdef enum Account:
    ACC_WORK = 0
    ACC_PAGE_LINE = 1
    ACC_LOCK_LINE = 2
    ACC_LRU_SPIN = 3
    ACC_PTL_SPIN = 4
    ACC_OTHER_SPIN = 5
    ACC_I_MMAP_READ_SPIN = 6
    ACC_I_MMAP_READ_SLEEP = 7
    ACC_I_MMAP_WRITE_SPIN = 8
    ACC_I_MMAP_WRITE_SLEEP = 9
    ACC_RWSEM_READ_SPIN = 10
    ACC_RWSEM_READ_SLEEP = 11
    ACC_RWSEM_WRITE_SPIN = 12
    ACC_RWSEM_WRITE_SLEEP = 13
    ACC_PAGE_SPIN = 14
    ACC_PAGE_SLEEP = 15
    ACC_SWITCH = 16
    ACC_IDLE = 17
    NR_ACCOUNTS = 18

# where a task is, seen from the machine
cdef enum TaskState:
    TASK_NEW = 0
    TASK_RUNNABLE = 1
    TASK_RUNNING = 2            # current on its cpu
    TASK_UNINTERRUPTIBLE = 3
    TASK_DEAD = 4

# what the next event of a task's cpu means to that task
cdef enum Phase:
    PH_STEP = 0                 # call the flow
    PH_REQ = 1                  # perform its request
    PH_SPIN = 2                 # a spinlock was granted
    PH_DELAY = 3                # plain work, may be preempted
    PH_RW_REVOKE = 4            # a writer waits until readers that took no count have left
    PH_RW_UNDO = 5              # a writer takes its bias back (before 5.2)
    PH_RW_SECTION = 6           # the rwsem's wait_lock was granted
    PH_RW_BLOCK = 7             # about to sleep on a rwsem, or woken from it
    PH_RW_OSQ = 8               # queued behind another spinner
    PH_RW_SPIN = 9              # the one that spins on the rwsem
    PH_RW_HANDOFF = 10          # first waiter with handoff, spins on the owner
    PH_PAGE_SECTION = 11        # the wait queue's lock was granted
    PH_PAGE_BLOCK = 12          # about to sleep on a page, or woken from it

# The first 64 bytes are what every event needs.
cdef struct Cpu:
    int64_t acct_ns             # charged up to here
    int64_t last_page           # the page it touched last
    int32_t curr                # task + 1
    int32_t fills               # lines brought in since the last epoch began
    int32_t epoch
    int32_t nr_queued
    int64_t touch_ns            # last moment at which anything could have been scheduled
    int64_t ready_ns            # from when a queued spinner looks at the lock word
    int64_t tick_ns             # when its next timer tick is due
    int32_t granted_by          # cpu that handed it the spinlock it holds
    int16_t mcs_next
    int16_t osq_next
    int16_t osq_prev
    int16_t spin_prev           # owner state seen by the previous look
    int32_t rq_head             # task + 1
    int64_t picked_ns           # when its task was put on it
    int64_t slice_end_ns
    int64_t spin_end_ns         # end of the time to spin on readers
    int64_t lockup_ns           # last soft-lockup report
    int64_t stall_ns            # last rcu report
    int64_t local_ns            # CNA: since when its lock has stayed on its node
    int64_t idle_ns             # since when it has had nothing to run
    int64_t idle_mean_ns        # running mean of its idle times
    int32_t slept_us[8]         # its last idle times
    int32_t slept_at            # the oldest of them
    int32_t asleep              # in an idle state
    int32_t idle_depth          # which
    int32_t ticking             # its tick goes on although it is idle
    int32_t rq_tail
    int32_t park_state          # Account: what the time until the next event is charged to
    int32_t idle_state          # Account: what it waits for when it has nothing to run
    int32_t spare
    int64_t epochs[16]          # when it had brought in each 16th of its cache's lines

cdef struct TaskRec:
    int32_t phase
    int32_t state
    int32_t cpu
    int32_t wait_class
    uint32_t wait_obj
    int32_t wait_write
    int32_t waiting             # 1 from request to grant
    int32_t contended
    int16_t spin_depth
    int16_t irqs_off            # spinlocks held with interrupts off
    int32_t rq_next
    int64_t wait_ns             # when it asked for what it waits for
    int64_t delay_end_ns        # end of a delay; what is left of it while switched out
    int64_t ready_ns            # runnable, or granted, from then on
    int64_t sleep_ns            # when it was last switched out to sleep
    int64_t slept_ns            # sum of its sleeps
    int64_t switches
    int64_t deadline_ns         # after which a queued waiter asks for handoff
    int32_t section             # what it does under an inner spinlock
    int32_t wait_next           # wait list of a rwsem or of a page queue
    int32_t wait_prev
    int32_t wake_next
    int32_t granted
    int32_t woken
    int32_t handoff_set
    int32_t unfairness
    int32_t spin_owner          # owner seen when it began to spin
    int32_t biased              # a reader whose bias is in the count
    int32_t saw_nonspinnable
    int32_t nr_write_held
    int32_t fast_held           # classes, as bits, whose rwsem it reads without having counted itself
    int32_t split               # locks of the nodes that it has taken or given back so far
    int64_t held_ns[8]          # since when it holds a lock of each class
    int64_t write_held[6]       # rwsems held for writing: class << 32 | object
    int64_t start_ns
    int64_t exit_ns             # -1 until it is over
    int64_t seen_switches       # khungtaskd
    int64_t seen_ns

# A qspinlock word and its line: 24 bytes.
cdef struct SpinLock:
    Line line
    int64_t held_ns             # since when it is held
    int16_t locked              # holder
    int16_t pending             # the second comer
    int16_t head                # head of the MCS queue
    int16_t tail                # its tail

# struct rw_semaphore: one cache line of 64 bytes; what follows wait_lock belongs to the what-ifs.
cdef struct RwSem:
    Line line
    int64_t count
    int32_t owner               # task
    int32_t owner_flags
    int32_t head                # wait list, task
    int32_t tail
    int16_t osq_tail
    int16_t spinner             # head of the OSQ
    int16_t handoff_spinner
    int16_t unbiased            # readers must count themselves
    SpinLock wait_lock
    int64_t inhibit_ns          # no bias towards readers before then
    int32_t fast                # readers inside that took no count
    int32_t revoker             # the writer that waits for them, task

cdef struct WaitQueue:
    SpinLock lock
    int32_t head
    int32_t tail

# the columns of /proc/lock_stat
cdef struct LockStat:
    int64_t con_bounces
    int64_t contentions
    int64_t waittime_min
    int64_t waittime_max
    int64_t waittime_total
    int64_t acq_bounces
    int64_t acquisitions
    int64_t holdtime_min
    int64_t holdtime_max
    int64_t holdtime_total

cdef enum Callstack:
    CALLSTACK = 22
    BATCH_KIND = 4096           # of F_PVEC's number in a callstack: so much for each kind of batch, from 1

cdef enum ReportKind:
    REPORT_HUNG_TASK = 0
    REPORT_SOFT_LOCKUP = 1
    REPORT_RCU_STALL = 2

cdef struct Report:
    int64_t time_ns
    int64_t since_ns
    int32_t kind
    int32_t task
    int32_t cpu
    int32_t lock_class          # -1: waits for no lock
    uint32_t lock_obj
    int32_t write
    int32_t callstack[22]       # what the task was doing (CALLSTACK): a row of fastmlock.machine.callstack

cdef struct Costs:
    int64_t work_ps[18]         # picoseconds per unit of each Work kind
    int64_t atomic_ns
    int64_t store_ns
    int64_t prefetch_ns
    int64_t switch_ns
    int64_t wake_ns
    int64_t wake_latency_ns
    int64_t slice_ns
    int64_t wake_granularity_ns
    int64_t tick_ns             # 0: no ticks
    int64_t tick_work_ns
    int64_t spin_loop_ns
    int64_t rwsem_slow_ns
    int64_t rwsem_queue_ns
    int64_t rwsem_grant_ns
    int64_t rwsem_scan_ns
    int64_t rwsem_timeout_ns
    int64_t rwsem_spin_base_ns
    int64_t rwsem_spin_reader_ns
    int64_t bias_inhibit_factor_ns
    int64_t bias_scan_ns
    int64_t percpu_sync_ns
    int64_t cna_threshold_ns
    int64_t page_slow_ns
    int64_t page_queue_ns
    int64_t watchdog_sample_ns
    int64_t soft_lockup_ns
    int64_t hung_task_ns
    int64_t rcu_stall_ns

cdef enum SpinKind:
    SPIN_QUEUED = 0
    SPIN_TICKET = 1
    SPIN_TAS = 2
    SPIN_CNA = 3

cdef enum RwBias:
    BIAS_NONE = 0
    BIAS_BRAVO = 1
    BIAS_PERCPU = 2

# how the locks of a kernel, or of a what-if, behave
cdef struct LockTraits:
    int32_t rwsem_handoff           # waiters may ask for handoff
    int32_t rwsem_handoff_setter    # it binds only if the first waiter itself set it (6.1)
    int32_t rwsem_steal             # readers may join past the queue
    int32_t rwsem_spin              # writers spin before they queue
    int32_t rwsem_reader_spin       # readers too, instead of joining past the queue (5.2 to 5.10)
    int32_t rwsem_wake_readers      # readers granted by one wake
    int32_t rwsem_spin_readers      # writers that spin also wait a while for readers (not before 5.3)
    int32_t rwsem_wake_skip         # a wake of readers passes over writers between them (not before 5.3)
    int32_t rwsem_xadd              # writers add their bias before they look (before 5.2)
    int32_t wake_off_cpu            # a waker waits until the sleeper is off its cpu (before 5.8)
    int32_t rwsem_bias              # RwBias: readers that take no count
    int32_t i_mmap_split            # one i_mmap_rwsem per node: writers take theirs, readers all
    int32_t spin_kind               # SpinKind
    int32_t page_unfairness         # retries before the page lock is handed over

# the few scalars that change
cdef struct Clock:
    int64_t now_ns
    int64_t events
    int64_t next_sample_ns
    int64_t next_hung_ns
    int64_t live                # tasks started and not over
    int64_t nr_reports
    int64_t hung_reports
    int64_t transfers           # lines that came from another cpu or from memory
    int64_t error

# the next events, see machine/queue.pxd
cdef struct QueueSize:
    int32_t width               # leaves
    int32_t used                # the first of them are
cdef struct Queue:
    int64_t *tree               # [2 * width] keys, the root in 1
    int32_t *slot               # [cpu] its leaf; -1 = it has no event
    QueueSize *size

cdef struct Mach:
    World *w
    int32_t nr_cpus
    int32_t nr_tasks
    int32_t nr_nodes
    Queue queue
    Cpu *cpus
    TaskRec *tasks
    int64_t *evicted_ns         # [cpu + 1] its cache keeps no line that it used last before then; nobody keeps none
    int64_t *acct               # [cpu][NR_ACCOUNTS]
    LockStat *stats             # [class][read, write]
    Report *reports
    Clock *clock
    Line *pages                 # [pages_cap]
    SpinLock *spins[8]          # by class; NULL for the classes that are no spinlocks
    RwSem *rwsems[8]
    WaitQueue *queues           # [PAGE_QUEUES]
    uint32_t *pos               # [cpu] socket | node | cluster | core | thread
    uint16_t *cpu_node          # [cpu]
    int32_t *memory_ns          # [node][node] memory
    int32_t epoch_lines         # a 16th of a cpu's cache, in lines
    int32_t level_ns[33]        # line transfer between two cpus, by length of the difference of their positions
    int64_t row_ns              # the next of a row of lines that another cpu has; 0: as any line
    int32_t nr_idle             # idle states, shallow to deep
    int64_t idle_exit_ns[8]
    int64_t idle_residency_ns[8]
    Costs costs
    LockTraits traits
