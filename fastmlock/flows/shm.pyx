# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""SHM_LOCK and SHM_UNLOCK of a tmpfs segment, and msync. (mm/shmem.c, mm/vmscan.c, mm/msync.c)

The specification, sections 1.3, 1.7, 2.3 and 4: SHM_LOCK only marks the mapping unevictable, its pages are culled when
they next reach a list; SHM_UNLOCK scans them all and rescues those that nothing else holds.
"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.pagevec cimport pagevec_release
from fastmlock.mm.filemap cimport find_get_page
from fastmlock.mm.lru cimport *
from fastmlock.mm.rmap_walk cimport page_vma_mapped, rmap_next
from fastmlock.mm.rmap cimport rmap_address
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.vma cimport find_vma

cdef enum:
    MS_ASYNC = 1
    MS_INVALIDATE = 2
    MS_SYNC = 4


cdef enum:
    SU_GATHER = 1
    SU_PAGE = 2
    SU_LOCK = 3
    SU_LOCKED = 4
    SU_UNLOCKED = 5
    SU_DRAINED = 6
    SU_RELEASED = 7


cdef int sys_shm_lock(World *w, Task *t, Frame *f) noexcept nogil:
    """a = mapping, b = lock (1) or unlock (0). Unlocking, page by page under the lruvec lock, a pagevec at a time:
    every page is counted SCANNED, those that are evictable now RESCUED. i = position, j = batch entry, k = the lock
    held."""
    cdef Mapping *m = &w.mappings[<uint32_t>f.a]
    cdef PageVec *pv = task_pvec(w, task_index(w, t), TPV_MISC)
    cdef uint32_t page
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        if f.b:
            m.unevictable = 1
            return sysret(t, 0, 0)
        m.unevictable = 0
        pv.drained = 0
        f.pc = SU_GATHER
    while True:
        if f.pc == SU_GATHER:
            while f.i < m.capacity and pv.nr < w.tr.pvec_size:
                page = find_get_page(w, <uint32_t>f.a, f.i)
                f.i += 1
                if page:
                    get_page(w, page)
                    pv.page[pv.nr] = page
                    pv.nr += 1
            if not pv.nr:
                return sysret(t, 0, 0)
            f.j = 0
            f.pc = SU_PAGE
        if f.pc == SU_LOCKED:
            rescue_page(w, t.cpu, pv.page[f.j])
            f.j += 1
            f.pc = SU_PAGE
        if f.pc == SU_LOCK:
            f.k = lru_lock_of(w, pv.page[f.j])
            w.lru_locks += 1
            return ask(t, f, SU_LOCKED, REQ_SPIN_LOCK, LK_LRU, f.k)
        if f.pc == SU_PAGE:
            while f.j < pv.nr:
                page = pv.page[f.j]
                count_event(w, t.cpu, EV_SCANNED, nr_pages(w, page))
                if test_clear(w, page, PG_lru):
                    if lru_lock_of(w, page) != <uint32_t>f.k:
                        if f.k:
                            return ask(t, f, SU_LOCK, REQ_SPIN_UNLOCK, LK_LRU, f.k)
                        f.pc = SU_LOCK
                        return REQ_NONE
                    rescue_page(w, t.cpu, page)
                f.j += 1
            f.pc = SU_UNLOCKED
            if f.k:
                page = f.k
                f.k = 0
                return ask(t, f, SU_UNLOCKED, REQ_SPIN_UNLOCK, LK_LRU, page)
        if f.pc == SU_UNLOCKED:
            f.pc = SU_DRAINED
        if f.pc == SU_DRAINED:
            return pagevec_release(w, t, f, True, SU_DRAINED, SU_RELEASED)
        if f.pc == SU_RELEASED:
            pv.nr = 0
            f.pc = SU_GATHER
            return REQ_RESCHED


cdef void rescue_page(World *w, int cpu, uint32_t page) noexcept nogil:
    """check_move_unevictable_pages of one page whose PG_lru ticket is held."""
    cdef Page *p = &w.pages[page]
    if p.flags & PG_unevictable and page_evictable(w, page):
        del_page_from_lru_list(w, cpu, page)
        p.flags &= ~<uint32_t>PG_unevictable
        add_page_to_lru_list(w, cpu, page, False)
        count_event(w, cpu, EV_RESCUED, nr_pages(w, page))
    p.flags |= PG_lru
    touch(w, page, 1)


cdef int sys_msync(World *w, Task *t, Frame *f) noexcept nogil:
    """[a, b) in pages, c = flags, valid already. MS_INVALIDATE refuses locked VMAs; holes are passed over and reported
    at the end. MS_SYNC writes the dirty pages of shared files out, mmap_lock dropped meanwhile. d = error."""
    cdef int64_t first
    cdef uint32_t vma
    cdef Vma *v
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        return ask(t, f, 1, REQ_DOWN_READ, LK_MMAP, t.mm)
    if f.pc == 1:
        while f.a < f.b:
            vma = find_vma(w, t.mm, f.a)
            v = &w.vmas[vma]
            if not vma or v.start >= f.b:
                f.d = ENOMEM
                break
            if v.start > f.a:
                f.d = ENOMEM
            if f.c & MS_INVALIDATE and v.flags & VM_LOCKED:
                f.d = EBUSY
                break
            first = max(f.a, v.start)
            f.a = v.end
            if f.c & MS_SYNC and v.mapping and v.flags & VM_SHARED and not w.mappings[v.mapping].shmem:
                f.i = vma
                f.j = <int32_t>(first - v.start)
                return ask(t, f, 3, REQ_UP_READ, LK_MMAP, t.mm)
        return ask(t, f, 2, REQ_UP_READ, LK_MMAP, t.mm)
    if f.pc == 3:
        v = &w.vmas[f.i]
        return call(w, t, f, 0 if f.a < f.b else 4, F_FSYNC, v.mapping, v.pgoff + f.j,
                    v.pgoff + min(v.end, f.b) - v.start)
    return sysret(t, 0, <int>f.d)


cdef enum:
    FS_NEXT = 0
    FS_LOCKED = 1
    FS_WALK = 2
    FS_PTL = 3
    FS_WALKED = 4
    FS_CLEANED = 5
    FS_DONE = 6


cdef int vfs_fsync_range(World *w, Task *t, Frame *f) noexcept nogil:
    """The dirty pages [b, c) of mapping a are written and waited for, which drains the cpu's batches if there are any.
    A page that is written becomes clean everywhere: whoever writes to a shared mapping of it faults again. d = page, i
    = tree node, j = leaf, k = pages written."""
    cdef uint32_t page = <uint32_t>f.d
    cdef int64_t vpn
    cdef int entry
    while True:
        if f.pc == FS_NEXT:
            while f.b < f.c and f.b < w.mappings[<uint32_t>f.a].capacity:
                page = find_get_page(w, <uint32_t>f.a, f.b)
                f.b += 1
                if page and test(w, page, PG_dirty):
                    f.d = page
                    f.i = 0
                    f.k += 1
                    get_page(w, page)
                    return ask(t, f, FS_LOCKED, REQ_LOCK_PAGE, LK_PAGE, page)
            if f.k:
                return call(w, t, f, FS_DONE, F_DRAIN, t.cpu)
            return ret(t, 0)
        if f.pc == FS_LOCKED:
            w.mappings[<uint32_t>f.a].allocated = 1
            w.pages[page].flags &= ~<uint32_t>(PG_dirty | PG_reclaim)
            return ask(t, f, FS_WALK, REQ_DOWN_READ, LK_I_MMAP, <uint32_t>f.a)
        if f.pc == FS_WALK:
            while rmap_next(w, page, PTE_PRESENT, page, &f.i, &vpn, &f.j):
                if w.vmas[w.nodes[f.i].vma].flags & VM_SHARED:
                    return ask(t, f, FS_PTL, REQ_SPIN_LOCK, LK_PTL, f.j)
            return ask(t, f, FS_WALKED, REQ_UP_READ, LK_I_MMAP, <uint32_t>f.a)
        if f.pc == FS_PTL:
            entry = <int>(rmap_address(w, f.i, page) & 511)
            if page_vma_mapped(w, pte_get(w, f.j, entry), PTE_PRESENT, page):
                pte_flags(w, f.j, entry, 0, PTE_DIRTY | PTE_WRITE)
            return ask(t, f, FS_WALK, REQ_SPIN_UNLOCK, LK_PTL, f.j)
        if f.pc == FS_WALKED:
            return ask(t, f, FS_CLEANED, REQ_UNLOCK_PAGE, LK_PAGE, page)
        if f.pc == FS_CLEANED:
            f.pc = FS_NEXT
            if put_page_testzero(w, page):
                return call(w, t, f, FS_NEXT, F_FREE_PAGE, page)
        if f.pc == FS_DONE:
            return ret(t, 0)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_SYS_SHM_LOCK] = sys_shm_lock
    table[<int>F_SYS_MSYNC] = sys_msync
    table[<int>F_FSYNC] = vfs_fsync_range
