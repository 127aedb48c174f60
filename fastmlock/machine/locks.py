"""Other locks than the kernel's own, by name: what ``--lock NAME=VALUE`` may say, and the traits it stands for."""
from __future__ import annotations

from collections.abc import Iterable

#: name -> value -> changes to fastmlock.machine.machine.LOCK_TRAITS
LOCKS: dict[str, dict[str, dict[str, int]]] = {
    "spin": {
        "queued": {"spin_kind": 0}, "ticket": {"spin_kind": 1}, "test-and-set": {"spin_kind": 2},
        "cna": {"spin_kind": 3},
    },
    "rwsem": {
        "5.1": {"rwsem_handoff": 0, "rwsem_steal": 0, "rwsem_reader_spin": 0, "rwsem_spin_readers": 0,
                "rwsem_wake_skip": 0, "rwsem_wake_readers": 1 << 30, "rwsem_xadd": 1},
        "5.10": {"rwsem_reader_spin": 1, "rwsem_steal": 0, "rwsem_handoff_setter": 0},
        "5.17": {"rwsem_reader_spin": 0, "rwsem_steal": 1, "rwsem_handoff_setter": 0},
        "6.1": {"rwsem_reader_spin": 0, "rwsem_steal": 1, "rwsem_handoff_setter": 1},
        "no-handoff": {"rwsem_handoff": 0}, "no-stealing": {"rwsem_steal": 0}, "no-spinning": {"rwsem_spin": 0},
    },
    "i_mmap": {
        "plain": {"rwsem_bias": 0, "i_mmap_split": 0}, "bravo": {"rwsem_bias": 1}, "percpu": {"rwsem_bias": 2},
        "split": {"i_mmap_split": 1},
    },
}


class LockError(ValueError):
    """A lock that there is not; the text is one line."""


def lock_options(options: Iterable[str]) -> dict[str, int]:
    """The traits of options such as "spin=ticket"; later ones win. Raises LockError."""
    out: dict[str, int] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in LOCKS:
            raise LockError(f"--lock {option}: NAME=VALUE is needed, NAME one of {', '.join(LOCKS)}")
        if value not in LOCKS[name]:
            raise LockError(f"--lock {option}: {name} is one of {', '.join(LOCKS[name])}")
        out.update(LOCKS[name][value])
    if out.get("rwsem_bias") and out.get("i_mmap_split"):
        raise LockError("--lock: an i_mmap_rwsem split per node cannot be biased towards readers as well")
    return out
