# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Interval trees with the kernel's iteration order, as treaps whose nodes also sum up their subtree.

The kernel walks in order of start offset, equals in insertion order. That order does not depend on how the tree
is balanced, so a treap gives the same walk. Each node knows of its subtree the extreme bounds, the number of
nodes and the number of locked VMAs: a subtree that contains an index throughout and holds no locked VMA is
passed by one addition, so that the walk to the next locked VMA costs O(log n) here while its visit count is
the literal walk's (tests hold it against a list).
"""

from fastmlock.mm.page cimport work
from fastmlock.state.pool cimport pool_next


cdef uint32_t node_alloc(World *w, uint32_t vma, int64_t first, int64_t last) noexcept nogil:
    cdef uint32_t node = w.nodes_free
    cdef TreeNode *n
    cdef uint64_t x
    if node:
        w.nodes_free = w.nodes[node].right
    else:
        node = pool_next(w, &w.nodes_used, w.nodes_cap, ERR_NO_NODES)
        if not node:
            return 0
    n = &w.nodes[node]
    n.first = first
    n.last = last
    n.vma = vma
    n.left = n.right = n.parent = 0
    x = <uint64_t>node * <uint64_t>0x9E3779B97F4A7C15    # a fixed mix: balance without chance
    x ^= x >> 29
    x *= <uint64_t>0xBF58476D1CE4E5B9
    n.prio = <uint32_t>(x >> 32)
    pull(w, node)
    return node


cdef void node_free(World *w, uint32_t node) noexcept nogil:
    w.nodes[node].right = w.nodes_free
    w.nodes[node].vma = 0
    w.nodes_free = node


cdef inline void pull(World *w, uint32_t node) noexcept nogil:
    """Sums up the subtree from the node and its children."""
    cdef TreeNode *n = &w.nodes[node]
    cdef TreeNode *c
    cdef uint32_t child
    cdef int side
    n.subtree_last = n.subtree_min_last = n.last
    n.subtree_max_first = n.first
    n.size = 1
    n.nr_locked = 1 if w.vmas[n.vma].flags & VM_LOCKED else 0
    for side in range(2):
        child = n.right if side else n.left
        if child:
            c = &w.nodes[child]
            if c.subtree_last > n.subtree_last: n.subtree_last = c.subtree_last
            if c.subtree_min_last < n.subtree_min_last: n.subtree_min_last = c.subtree_min_last
            if c.subtree_max_first > n.subtree_max_first: n.subtree_max_first = c.subtree_max_first
            n.size += c.size
            n.nr_locked += c.nr_locked


cdef inline void pull_up(World *w, uint32_t node) noexcept nogil:
    while node:
        pull(w, node)
        node = w.nodes[node].parent


cdef inline void replace_child(World *w, uint32_t *root, uint32_t parent, uint32_t old, uint32_t new) noexcept nogil:
    if not parent:
        root[0] = new
    elif w.nodes[parent].left == old:
        w.nodes[parent].left = new
    else:
        w.nodes[parent].right = new
    if new:
        w.nodes[new].parent = parent


cdef inline void rotate_up(World *w, uint32_t *root, uint32_t node) noexcept nogil:
    """The node takes its parent's place."""
    cdef uint32_t parent = w.nodes[node].parent
    cdef uint32_t moved
    replace_child(w, root, w.nodes[parent].parent, parent, node)
    if w.nodes[parent].left == node:
        moved = w.nodes[node].right
        w.nodes[parent].left = moved
        w.nodes[node].right = parent
    else:
        moved = w.nodes[node].left
        w.nodes[parent].right = moved
        w.nodes[node].left = parent
    if moved:
        w.nodes[moved].parent = parent
    w.nodes[parent].parent = node
    pull(w, parent)
    pull(w, node)


cdef inline void settle(World *w, uint32_t *root, uint32_t node) noexcept nogil:
    """Restores the heap order above a new leaf of the tree, and the sums."""
    cdef uint32_t parent = w.nodes[node].parent
    pull(w, node)
    while parent and w.nodes[parent].prio < w.nodes[node].prio:
        rotate_up(w, root, node)
        parent = w.nodes[node].parent
    pull_up(w, parent)
    work(w, WK_TREE, 1)


cdef void tree_insert(World *w, uint32_t *root, uint32_t node) noexcept nogil:
    cdef uint32_t at = root[0], parent = 0
    cdef int64_t first = w.nodes[node].first
    cdef bint left = False
    w.nodes[node].left = w.nodes[node].right = 0
    while at:
        parent = at
        left = first < w.nodes[at].first
        at = w.nodes[at].left if left else w.nodes[at].right
    w.nodes[node].parent = parent
    if not parent:
        root[0] = node
    elif left:
        w.nodes[parent].left = node
    else:
        w.nodes[parent].right = node
    settle(w, root, node)


cdef void tree_insert_after(World *w, uint32_t *root, uint32_t prev, uint32_t node) noexcept nogil:
    cdef uint32_t at = w.nodes[prev].right
    w.nodes[node].left = w.nodes[node].right = 0
    if not at:
        w.nodes[prev].right = node
        w.nodes[node].parent = prev
    else:
        while w.nodes[at].left:
            at = w.nodes[at].left
        w.nodes[at].left = node
        w.nodes[node].parent = at
    settle(w, root, node)


cdef void tree_remove(World *w, uint32_t *root, uint32_t node) noexcept nogil:
    cdef uint32_t left, right, parent
    work(w, WK_TREE, 1)
    while True:
        left = w.nodes[node].left
        right = w.nodes[node].right
        if not left or not right:
            break
        rotate_up(w, root, left if w.nodes[left].prio > w.nodes[right].prio else right)
    parent = w.nodes[node].parent
    replace_child(w, root, parent, node, left if left else right)
    w.nodes[node].left = w.nodes[node].right = w.nodes[node].parent = 0
    pull_up(w, parent)


cdef void tree_relock(World *w, uint32_t node) noexcept nogil:
    pull_up(w, node)


cdef uint32_t find_in(World *w, uint32_t node, int64_t index, bint locked, int64_t *visits) noexcept nogil:
    cdef TreeNode *n
    cdef uint32_t found
    while node:
        n = &w.nodes[node]
        if n.subtree_last < index:
            return 0
        if locked and n.nr_locked == 0 and n.subtree_min_last >= index and n.subtree_max_first <= index:
            visits[0] += n.size
            return 0
        found = find_in(w, n.left, index, locked, visits)
        if found:
            return found
        if n.first > index:
            return 0
        if n.last >= index:
            visits[0] += 1
            if not locked or w.vmas[n.vma].flags & VM_LOCKED:
                return node
        node = n.right
    return 0


cdef uint32_t tree_next(World *w, uint32_t root, uint32_t after, int64_t index, bint locked,
                        int64_t *visits) noexcept nogil:
    cdef uint32_t found, parent
    cdef TreeNode *n
    if not after:
        return find_in(w, root, index, locked, visits)
    found = find_in(w, w.nodes[after].right, index, locked, visits)
    while not found:
        parent = w.nodes[after].parent
        if not parent:
            return 0
        if w.nodes[parent].left == after:
            n = &w.nodes[parent]
            if n.first > index:
                return 0
            if n.last >= index:
                visits[0] += 1
                if not locked or w.vmas[n.vma].flags & VM_LOCKED:
                    return parent
            found = find_in(w, n.right, index, locked, visits)
        after = parent
    return found


cdef uint32_t successor(World *w, uint32_t node) noexcept nogil:
    cdef uint32_t parent
    if w.nodes[node].right:
        node = w.nodes[node].right
        while w.nodes[node].left:
            node = w.nodes[node].left
        return node
    parent = w.nodes[node].parent
    while parent and w.nodes[parent].right == node:
        node = parent
        parent = w.nodes[node].parent
    return parent


cdef uint32_t tree_next_overlap(World *w, uint32_t root, uint32_t after, int64_t first, int64_t last) noexcept nogil:
    """Next node in tree order that overlaps [first, last]: the plain in-order walk."""
    cdef uint32_t node = after, child
    if not node:
        node = root
        while node and w.nodes[node].left:
            node = w.nodes[node].left
    else:
        node = successor(w, node)
    while node and not (w.nodes[node].first <= last and w.nodes[node].last >= first):
        node = successor(w, node)
    return node
