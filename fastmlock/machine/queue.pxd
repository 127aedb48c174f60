# The next events of all cpus: a tournament tree of keys (time << CPU_BITS | cpu) over the cpus that have one.
#
# Most cpus of a machine that fights for one lock wait for somebody else and have no event of their own. A cpu gets a
# place among the leaves with its first event and gives it back when it has none, and the tree is at most four times
# as wide as what is in use. Replaying a leaf's matches takes no branch that a processor could guess wrong.
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint64_t
from fastmlock.machine.types cimport CPU_MASK, Queue

cdef enum:
    LEAST_WIDTH = 2


cdef inline void play(int64_t *tree, uint64_t at, int64_t key) noexcept nogil:
    """Gives a leaf a key and replays its matches up to the root."""
    cdef int64_t other
    tree[at] = key
    while at > 1:
        other = tree[at ^ 1]
        at >>= 1
        key = other if other < key else key
        tree[at] = key


cdef inline int64_t queue_key(Queue *q, int cpu) noexcept nogil:
    """When the cpu has its next event; INT64_MAX if it has none."""
    return q.tree[q.size.width + q.slot[cpu]] if q.slot[cpu] >= 0 else INT64_MAX


cdef inline int64_t queue_again(Queue *q, int64_t key) noexcept nogil:
    """queue_set() of the cpu whose event is the earliest; returns the earliest key of all others.

    That is known before the new key is: one pass that waits for no comparison with it.
    """
    cdef int64_t *tree = q.tree
    cdef uint64_t at = <uint64_t> (q.size.width + q.slot[key & CPU_MASK])
    cdef int64_t rival = INT64_MAX, other
    tree[at] = key
    while at > 1:
        other = tree[at ^ 1]
        at >>= 1
        rival = other if other < rival else rival
        tree[at] = key if key < rival else rival
    return rival


cdef inline void queue_resize(Queue *q, int width) noexcept nogil:
    """The same keys at the same leaves of a wider or narrower tree."""
    cdef int64_t *tree = q.tree
    cdef int old = q.size.width
    cdef int i
    if width < old:
        for i in range(width):
            tree[width + i] = tree[old + i]
    else:
        for i in range(old):
            tree[width + i] = tree[old + i]
        for i in range(old, width):
            tree[width + i] = INT64_MAX
    for i in range(width - 1, 0, -1):
        tree[i] = tree[2 * i] if tree[2 * i] < tree[2 * i + 1] else tree[2 * i + 1]
    q.size.width = width


cdef inline void queue_set(Queue *q, int64_t key) noexcept nogil:
    """The next event of the cpu in the key is then, whatever it was before."""
    cdef int at = q.slot[key & CPU_MASK]
    if at < 0:
        if q.size.used == q.size.width:
            queue_resize(q, 2 * q.size.width)
        at = q.size.used
        q.slot[key & CPU_MASK] = at
        q.size.used += 1
    play(q.tree, <uint64_t> (q.size.width + at), key)


cdef inline void queue_remove(Queue *q, int cpu) noexcept nogil:
    """The cpu has no event; the last leaf takes its place."""
    cdef int at = q.slot[cpu]
    cdef int last = q.size.used - 1
    cdef int64_t key
    if at < 0:
        return
    q.slot[cpu] = -1
    q.size.used = last
    key = q.tree[q.size.width + last]
    play(q.tree, <uint64_t> (q.size.width + last), INT64_MAX)
    if at != last:
        q.slot[key & CPU_MASK] = at
        play(q.tree, <uint64_t> (q.size.width + at), key)
    if 4 * last <= q.size.width and q.size.width > LEAST_WIDTH:
        queue_resize(q, q.size.width // 2)
