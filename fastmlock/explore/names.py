"""What locks are called in schedules and reports, in the order of `LockClass`."""
from __future__ import annotations

LOCKS = ("lru_lock", "ptl", "mmap_lock", "i_mmap_rwsem", "anon_vma", "page_lock", "test_spinlock", "test_rwsem")

#: the locks that a schedule can name
SCHEDULED = LOCKS[:6]
