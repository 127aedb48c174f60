"""What a machine has to tell, as text in the forms people know: /proc/lock_stat, `perf lock contention`, and the
lines that the kernel's watchdogs print."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlock.machine.callstack import stack
from fastmlock.machine.layout import REPORTS
from fastmlock.machine.machine import LOCK_CLASSES

if TYPE_CHECKING:
    from fastmlock.machine.machine import Machine

_COLUMNS = ("con-bounces", "contentions", "waittime-min", "waittime-max", "waittime-total", "waittime-avg",
            "acq-bounces", "acquisitions", "holdtime-min", "holdtime-max", "holdtime-total", "holdtime-avg")
_RWSEMS = ("mmap_lock", "i_mmap_rwsem", "anon_vma->rwsem", "test rwsem")
_SYMBOLS = {"lru_lock": "&lruvec->lru_lock", "ptl": "ptlock_ptr(page)", "mmap_lock": "&mm->mmap_lock",
            "i_mmap_rwsem": "&mapping->i_mmap_rwsem", "anon_vma->rwsem": "&anon_vma->rwsem"}

LockStat = np.ndarray[Any, Any]


def lock_stat_text(stats: Machine | LockStat) -> str:
    """/proc/lock_stat of the locks taken so far: one line per class, rwsems as -W and -R; times in us."""
    stats = stats if isinstance(stats, np.ndarray) else stats.lock_stat
    lines = [f"{'class name':>26}" + "".join(f"{column:>16}" for column in _COLUMNS)]
    for name, row in zip(LOCK_CLASSES, stats):
        for write, stat in reversed(list(enumerate(row))):
            if not stat["acquisitions"]:
                continue
            label = _SYMBOLS.get(name, name) + (f"-{'RW'[write]}" if name in _RWSEMS else "")
            cells: list[str] = []
            for kind, count in (("wait", "contentions"), ("hold", "acquisitions")):
                n, total = int(stat[count]), int(stat[f"{kind}time_total"])
                cells += [str(stat["con_bounces" if kind == "wait" else "acq_bounces"]), str(n)]
                cells += [f"{ns / 1000:.2f}" for ns in (int(stat[f"{kind}time_min"]), int(stat[f"{kind}time_max"]),
                                                        total, total / n if n else 0)]
            lines.append(f"{label + ':':>26}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def _time(ns: float) -> str:
    """As perf prints it: two decimals and the largest unit that leaves at least 1."""
    for unit, size in (("h", 3600e9), ("m", 60e9), ("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.2f} {unit}"
    return f"{ns:.0f} ns"


def contention_text(stats: Machine | LockStat) -> str:
    """`perf lock contention -l`: the classes that were waited for, longest total wait first."""
    stats = stats if isinstance(stats, np.ndarray) else stats.lock_stat
    found = []
    for name, row in zip(LOCK_CLASSES, stats):
        for write, stat in enumerate(row):
            if stat["contentions"]:
                kind = f"rwsem:{'RW'[write]}" if name in _RWSEMS else "bit lock" if name == "page lock" else "spinlock"
                found.append((int(stat["waittime_total"]), int(stat["contentions"]), int(stat["waittime_max"]), kind,
                              _SYMBOLS.get(name, name)))
    lines = [f"{'contended':>10}{'total wait':>13}{'max wait':>13}{'avg wait':>13}{'type':>13}   symbol", ""]
    for total, n, longest, kind, symbol in sorted(found, reverse=True):
        lines.append(f"{n:>10}{_time(total):>13}{_time(longest):>13}{_time(total / n):>13}{kind:>13}   {symbol}")
    return "\n".join(lines)


def watchdog_lines(machine: Machine, comm: str = "locker", kernel: str = "") -> list[str]:
    """What dmesg would show of the watchdogs' reports: the kernel's own words. In the call trace, as in the kernel's
    innermost first, a lock's function names the lock."""
    out = []
    for report in machine.reports:
        def say(text: str, at: float = int(report["time_ns"]) / 1e9) -> None:
            out.append(f"[{at:12.6f}] {text}")
        since = int(report["time_ns"] - report["since_ns"]) // 10**9
        kind, cpu, task = REPORTS[report["kind"]], report["cpu"], int(report["task"])
        name = LOCK_CLASSES[report["lock_class"]]
        lock = f"({_SYMBOLS.get(name, name)} of {report['lock_obj']})" if report["lock_class"] >= 0 else ""
        if kind == "hung task":
            say(f"INFO: task {comm}:{task} blocked for more than {machine.costs['hung_task'].ns // 10**9} seconds.")
            if kernel:
                say(f"      Not tainted {kernel} #1")
            say('"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.')
            say(f"task:{comm:<15.15} state:D stack:    0 pid:{task:5} ppid:     1 flags:0x00000002")
        elif kind == "soft lockup":
            say(f"watchdog: BUG: soft lockup - CPU#{cpu} stuck for {since}s! [{comm}:{task}]")
        else:
            say(f"rcu: INFO: rcu_sched self-detected stall on CPU {cpu}")
            say(f"rcu: \t{cpu}-....: ({since * 250} ticks this GP)")
        say("Call Trace:")
        say(" <TASK>")
        for frame in reversed(stack(report["callstack"], lock).frames):
            say(f" {frame}")
        say(" </TASK>")
    return out
