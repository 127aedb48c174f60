# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""mmap and remap_file_pages. (mm/mmap.c; the specification, section 2.3)"""
from fastmlock.flows.frame cimport *
from fastmlock.flows.mlock cimport mlock_page
from fastmlock.flows.step cimport flow_fn
from fastmlock.mm.hugetlb cimport hugetlb_reserve_pages
from fastmlock.mm.filemap cimport find_get_page
from fastmlock.mm.mlock cimport vma_counts_mlock
from fastmlock.mm.page cimport get_page, work
from fastmlock.mm.pgtable cimport *
from fastmlock.mm.rmap cimport page_add_file_rmap
from fastmlock.mm.vma cimport *

cdef enum:
    MAP_SHARED = 0x01
    MAP_FIXED = 0x10
    MAP_GROWSDOWN = 0x100
    MAP_LOCKED = 0x2000
    MAP_NORESERVE = 0x4000
    MAP_POPULATE = 0x8000
    MAP_NONBLOCK = 0x10000
    MAP_FIXED_NOREPLACE = 0x100000

cdef enum:
    MM_LOCKED = 1
    MM_UNMAPPED = 2
    MM_LINK = 3
    MM_LINKED = 4
    MM_UNLOCKED = 5
    MM_POPULATED = 6
    MM_FAILED = 7
    MM_REFUSED = 8
    MM_INSERT = 9
    MM_UNDONE = 10


cdef inline uint64_t driver_flags(World *w, uint32_t mapping) noexcept nogil:
    """vm_flags that the file's own mmap method sets, VM_LOCKED apart."""
    if w.mappings[mapping].kind == MAPPING_HUGETLB:
        return VM_HUGETLB | VM_DONTEXPAND
    if w.mappings[mapping].kind == MAPPING_RING:
        return VM_MIXEDMAP
    if w.mappings[mapping].kind == MAPPING_MEM:
        return VM_IO | VM_PFNMAP | VM_DONTEXPAND
    return 0


cdef int call_mmap(World *w, Task *t, uint32_t vma, uint32_t resv) noexcept nogil:
    """The file's own mmap method. 0 or an errno"""
    cdef Vma *v = &w.vmas[vma]
    if v.flags & VM_HUGETLB:
        return hugetlbfs_file_mmap(w, vma, resv)
    if vma_is_secretmem(w, v):
        if not v.flags & VM_SHARED:
            return EINVAL
        if w.tr.secretmem_locks:
            if not t.cap_ipc_lock and w.mms[v.mm].locked_vm + vma_pages(v) > t.rlimit_memlock >> 12:
                return EAGAIN
            v.flags |= VM_LOCKED
    return 0


cdef int hugetlbfs_file_mmap(World *w, uint32_t vma, uint32_t resv) noexcept nogil:
    """The new vma reserves its huge pages; a writable mapping beyond the end of the file makes that longer. 0 or an
    errno"""
    cdef Vma *v = &w.vmas[vma]
    cdef Mapping *m = &w.mappings[v.mapping]
    v.swap_ra = 0
    if v.pgoff & 511:
        return EINVAL
    if not hugetlb_reserve_pages(w, v, v.pgoff >> 9, vma_pages(v) >> 9, resv):
        return ENOMEM
    if v.flags & VM_WRITE:
        m.size = max(m.size, v.pgoff + vma_pages(v))
    return 0


cdef int insert_next(World *w, Task *t, Frame *f, uint32_t vma) noexcept nogil:
    """Maps all of a driver's memory at once: pages by vm_insert_page(), what has none by remap_pfn_range(). The vma
    still has the VM_LOCKED of mlockall(MCL_FUTURE): where mlock_vma_page() does not look at all of VM_SPECIAL (patch 04
    to c8263bd60500), pages that have no business there are marked. -1: done. k = pages mapped."""
    cdef Vma *v = &w.vmas[vma]
    cdef int flags = PTE_PRESENT | (PTE_WRITE if v.flags & VM_WRITE else 0), called
    cdef uint32_t leaf, page
    while v.start + f.k < v.end:
        leaf = alloc_leaf(w, v.mm, v.start + f.k)
        if not leaf:
            return REQ_ERROR
        f.k += 1
        if v.flags & VM_PFNMAP:
            pte_set(w, leaf, <int>(v.start + f.k - 1 & 511), mk_pte(w.zero_page, flags | PTE_SPECIAL), 0, 0)
            continue
        page = find_get_page(w, v.mapping, v.pgoff + f.k - 1)
        get_page(w, page)
        page_add_file_rmap(w, t.cpu, page)
        w.mms[v.mm].rss += 1
        pte_set(w, leaf, <int>(v.start + f.k - 1 & 511), mk_pte(page, flags), v.mapping, v.pgoff + f.k - 1)
        if w.tr.p04 and vma_counts_mlock(w, v, page):
            called = mlock_page(w, t, f, MM_INSERT, page)
            if called != -1:
                return called
    return -1


cdef int sys_mmap(World *w, Task *t, Frame *f) noexcept nogil:
    """a = address, b = length in bytes (page aligned), c = prot | flags << 32, d = mapping | pgoff << 20. Of huge pages
    c has, from bit 3 on, an empty record for what a private mapping reserves. j = the open file, 0 = one opened for
    this. ret = the address. i = error, j = the new vma's part is populated, k = pages of a driver mapped."""
    cdef Mm *mm = &w.mms[t.mm]
    cdef int64_t flags = f.c >> 32, prot = f.c & 7
    cdef uint32_t mapping = <uint32_t>(f.d & 0xfffff)
    cdef int64_t start = f.a >> 12, end = start + ((f.b + 4095) >> 12)
    cdef int64_t pgoff = f.d >> 20 if mapping else start
    cdef uint64_t vm_flags = <uint64_t>prot | (VM_SHARED if flags & MAP_SHARED else 0) | mm.def_flags
    cdef uint32_t prev, vma
    cdef int k
    if flags & MAP_LOCKED:
        vm_flags |= VM_LOCKED
    if flags & MAP_GROWSDOWN:
        vm_flags |= VM_GROWSDOWN
    if flags & MAP_NORESERVE:
        vm_flags |= VM_NORESERVE
    elif vm_flags & VM_WRITE and not vm_flags & VM_SHARED and w.mappings[mapping].kind != MAPPING_HUGETLB:
        vm_flags |= VM_ACCOUNT
    vm_flags |= driver_flags(w, mapping)
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        if f.a & 4095 or f.b <= 0:
            return sysret(t, 0, EINVAL)
        return ask(t, f, MM_LOCKED, REQ_DOWN_WRITE, LK_MMAP, t.mm)
    if f.pc == MM_LOCKED:
        vma = find_vma(w, t.mm, start)
        if vma and w.vmas[vma].start < end and not flags & MAP_FIXED:
            f.i = EEXIST
        elif mm.map_count > w.max_map_count:
            f.i = ENOMEM
        elif flags & MAP_LOCKED and not t.rlimit_memlock and not t.cap_ipc_lock:
            f.i = EPERM
        elif vm_flags & VM_LOCKED and not t.cap_ipc_lock and mm.locked_vm + (end - start) > t.rlimit_memlock >> 12:
            f.i = EAGAIN
        elif flags & MAP_GROWSDOWN and mapping:
            f.i = EINVAL
        if f.i:
            return ask(t, f, MM_FAILED, REQ_UP_WRITE, LK_MMAP, t.mm)
        return call(w, t, f, MM_UNMAPPED, F_UNMAP_REGION, start, end)
    if f.pc == MM_UNMAPPED:
        if t.res < 0:
            f.i = <int32_t>-t.res if w.tr.munmap_errors else ENOMEM
            return ask(t, f, MM_FAILED, REQ_UP_WRITE, LK_MMAP, t.mm)
        f.pc = MM_LINK
        if mapping:
            return ask(t, f, MM_LINK, REQ_DOWN_WRITE, LK_I_MMAP, mapping)
    if f.pc == MM_LINK:
        prev = find_vma_before(w, t.mm, start)
        vma = 0
        if f.j or not mapping:
            vma = vma_merge(w, t.mm, prev, start, end, vm_flags, 0, <uint32_t>f.j, pgoff, 0)
        if not vma:
            vma = vma_alloc(w, t.mm, start, end, vm_flags, pgoff, mapping)
            if not vma:
                return REQ_ERROR
            if f.j:
                w.vmas[vma].file = get_file(w, <uint32_t>f.j)
            elif mapping and not open_file(w, vma):
                return REQ_ERROR
            f.i = call_mmap(w, t, vma, <uint32_t>(f.c >> 3 & 0xffffff))
            if f.i:
                vma_free(w, vma)
                return ask(t, f, MM_REFUSED, REQ_UP_WRITE, LK_I_MMAP, mapping)
            if mapping and not vma_link_file(w, vma, 0):
                return REQ_ERROR
            vma_list_insert(w, vma)
        f.pc = MM_INSERT
        if mapping:
            return ask(t, f, MM_INSERT, REQ_UP_WRITE, LK_I_MMAP, mapping)
    if f.pc == MM_REFUSED:
        f.pc = MM_UNDONE
        if w.tr.munmap_drains:              # unmap_region()
            return call(w, t, f, MM_UNDONE, F_DRAIN, t.cpu)
    if f.pc == MM_UNDONE:
        return ask(t, f, MM_FAILED, REQ_UP_WRITE, LK_MMAP, t.mm)
    if f.pc == MM_INSERT:
        if vm_flags & (VM_MIXEDMAP | VM_PFNMAP):
            k = insert_next(w, t, f, find_vma(w, t.mm, start))
            if k != -1:
                return k
        f.pc = MM_LINKED
    if f.pc == MM_LINKED:
        mm.total_vm += end - start
        vma = find_vma(w, t.mm, start)
        if w.vmas[vma].flags & VM_LOCKED:
            if w.vmas[vma].flags & (VM_SPECIAL | VM_HUGETLB):
                set_vm_flags(w, vma, w.vmas[vma].flags & ~<uint64_t>VM_LOCKED_MASK)
            else:
                mm.locked_vm += end - start
        f.j = 1 if vm_flags & VM_LOCKED or (flags & (MAP_POPULATE | MAP_NONBLOCK)) == MAP_POPULATE else 0
        return ask(t, f, MM_UNLOCKED, REQ_UP_WRITE, LK_MMAP, t.mm)
    if f.pc == MM_UNLOCKED:
        if f.j:
            return call(w, t, f, MM_POPULATED, F_POPULATE, start, end, 1)
    return sysret(t, f.a, f.i)


cdef int sys_remap_file_pages(World *w, Task *t, Frame *f) noexcept nogil:
    """Emulated: the pages [a, a + b) of a shared mapping of one file are mapped again, from file page c on, as by mmap
    with MAP_FIXED and MAP_POPULATE (d = MAP_NONBLOCK: without). What was locked is so again, on fault or not as new
    mappings are. i = vma, j = its open file."""
    cdef Vma *v
    cdef uint32_t vma
    cdef int64_t flags
    if f.pc == 0:
        work(w, WK_SYSCALL, 1)
        return ask(t, f, 1, REQ_DOWN_WRITE, LK_MMAP, t.mm)
    if f.pc == 1:
        f.i = find_vma(w, t.mm, f.a)
        v = &w.vmas[f.i]
        if not f.i or v.start > f.a or not v.flags & VM_SHARED:
            return ask(t, f, 2, REQ_UP_WRITE, LK_MMAP, t.mm)
        if v.flags & VM_HUGETLB:
            return unsupported(w, f.fn)
        vma = f.i
        while w.vmas[vma].end < f.a + f.b:
            if (not w.vmas[vma].next or w.vmas[w.vmas[vma].next].start != w.vmas[vma].end
                    or w.vmas[w.vmas[vma].next].file != v.file or w.vmas[w.vmas[vma].next].flags != v.flags):
                return ask(t, f, 2, REQ_UP_WRITE, LK_MMAP, t.mm)
            vma = w.vmas[vma].next
        flags = MAP_SHARED | MAP_FIXED | MAP_POPULATE | f.d | (MAP_LOCKED if v.flags & VM_LOCKED else 0)
        call(w, t, f, 3, F_SYS_MMAP, f.a << 12, f.b << 12, <int64_t>(v.flags & VM_ACCESS_FLAGS) | flags << 32,
             v.mapping | f.c << 20)
        f.j = <int32_t>get_file(w, v.file)
        t.stack[t.depth].j = f.j
        t.stack[t.depth].pc = MM_LOCKED         # mmap_lock is held already
        return REQ_NONE
    if f.pc == 2:
        return sysret(t, 0, EINVAL)
    fput(w, <uint32_t>f.j)
    return sysret(t, 0, t.err)


cdef int map_loop(World *w, Task *t, Frame *f) noexcept nogil:
    """A bystander: maps and unmaps one page of mapping b at address a, again and again, until tasks c to d (exclusive)
    are gone. ret = rounds made. i = rounds."""
    if f.pc == 1:
        return call(w, t, f, 2, F_SYS_MUNMAP, f.a, 4096)
    if f.pc == 2:
        f.i += 1
    while f.c < f.d and not w.tasks[f.c].mm:
        f.c += 1
    if f.c == f.d:
        return sysret(t, f.i, 0)
    return call(w, t, f, 1, F_SYS_MMAP, f.a, 4096, 1 | <int64_t>(MAP_SHARED | MAP_FIXED_NOREPLACE) << 32, f.b)


cdef void register(flow_fn *table) noexcept:
    table[<int>F_MAP_LOOP] = map_loop
    table[<int>F_SYS_MMAP] = sys_mmap
    table[<int>F_SYS_REMAP_FILE_PAGES] = sys_remap_file_pages
