"""How much memory a run may take."""
from __future__ import annotations


def available_bytes() -> int:
    """What the host can give without swapping, by its own account, and within a cgroup's limit; without either, no
    limit is known."""
    limit = 1 << 62
    try:
        with open("/proc/meminfo") as meminfo:
            for line in meminfo:
                if line.startswith("MemAvailable:"):
                    limit = int(line.split()[1]) << 10
    except OSError:
        pass
    try:
        with open("/sys/fs/cgroup/memory.max") as most, open("/sys/fs/cgroup/memory.current") as now:
            word = most.read().strip()
            if word != "max":
                limit = min(limit, int(word) - int(now.read()))
    except (OSError, ValueError):
        pass
    return max(limit, 0)
