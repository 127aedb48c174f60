# A FIFO of waiting tasks, linked through wait_next and wait_prev; head and tail hold task + 1, 0 if empty.
from libc.stdint cimport int32_t
from fastmlock.machine.types cimport Mach, TaskRec


cdef inline void wait_add(Mach *m, int32_t *head, int32_t *tail, int task) noexcept nogil:
    """Appends a task."""
    cdef TaskRec *r = &m.tasks[task]
    r.wait_next = 0
    r.wait_prev = tail[0]
    if tail[0]:
        m.tasks[tail[0] - 1].wait_next = task + 1
    else:
        head[0] = task + 1
    tail[0] = task + 1


cdef inline void wait_del(Mach *m, int32_t *head, int32_t *tail, int task) noexcept nogil:
    """Takes a task out, wherever it stands."""
    cdef TaskRec *r = &m.tasks[task]
    if r.wait_prev:
        m.tasks[r.wait_prev - 1].wait_next = r.wait_next
    else:
        head[0] = r.wait_next
    if r.wait_next:
        m.tasks[r.wait_next - 1].wait_prev = r.wait_prev
    else:
        tail[0] = r.wait_prev
