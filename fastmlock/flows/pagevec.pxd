# A task's private pagevec is let go of.
from fastmlock.flows.frame cimport *
from fastmlock.mm.lru cimport task_pvec


cdef inline int pagevec_release(World *w, Task *t, Frame *f, bint holds, int again, int released) noexcept nogil:
    """Drops the references of TPV_MISC; the first time that it `holds` any the cpu is drained before. The flow goes on
    in `again`, which calls this once more, or in `released`."""
    cdef int ti = task_index(w, t)
    cdef PageVec *pv = task_pvec(w, ti, TPV_MISC)
    if holds and not pv.drained:
        pv.drained = 1
        return call(w, t, f, again, F_DRAIN, t.cpu)
    return call(w, t, f, released, F_RELEASE, list_ref(LIST_TASK_PVEC, ti * NR_TPVECS + TPV_MISC), pv.nr)
