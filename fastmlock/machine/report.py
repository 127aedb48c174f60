"""What a machine has to tell, as text in the forms the kernel prints: /proc/lock_stat and the watchdogs' lines."""
from __future__ import annotations

from typing import TYPE_CHECKING

from fastmlock.machine.layout import REPORTS
from fastmlock.machine.machine import LOCK_CLASSES

if TYPE_CHECKING:
    from fastmlock.machine.machine import Machine

_COLUMNS = ("con-bounces", "contentions", "waittime-min", "waittime-max", "waittime-total", "waittime-avg",
            "acq-bounces", "acquisitions", "holdtime-min", "holdtime-max", "holdtime-total", "holdtime-avg")
_RWSEMS = ("mmap_lock", "i_mmap_rwsem", "anon_vma->rwsem", "test rwsem")


def lock_stat_text(machine: Machine) -> str:
    """/proc/lock_stat of the locks taken so far: one line per class, rwsems as -W and -R; times in us."""
    lines = [f"{'class name':>24}" + "".join(f"{column:>16}" for column in _COLUMNS)]
    for name, row in zip(LOCK_CLASSES, machine.lock_stat):
        for write, stat in reversed(list(enumerate(row))):
            if not stat["acquisitions"]:
                continue
            label = f"{name}-{'RW'[write]}" if name in _RWSEMS else name
            cells: list[str] = []
            for kind, count in (("wait", "contentions"), ("hold", "acquisitions")):
                n, total = int(stat[count]), int(stat[f"{kind}time_total"])
                cells += [str(stat["con_bounces" if kind == "wait" else "acq_bounces"]), str(n)]
                cells += [f"{ns / 1000:.2f}" for ns in (int(stat[f"{kind}time_min"]), int(stat[f"{kind}time_max"]),
                                                        total, total / n if n else 0)]
            lines.append(f"{label + ':':>24}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def watchdog_lines(machine: Machine) -> list[str]:
    """One line per watchdog report, worded as the kernel does, with what the task waited for."""
    out = []
    for report in machine.reports:
        at, since = int(report["time_ns"]) / 1e9, int(report["time_ns"] - report["since_ns"]) // 10**9
        kind, cpu, task = REPORTS[report["kind"]], report["cpu"], report["task"]
        if kind == "hung task":
            limit = machine.costs["hung_task"].ns // 10**9
            text = f"INFO: task {task} blocked for more than {limit} seconds."
        elif kind == "soft lockup":
            text = f"watchdog: BUG: soft lockup - CPU#{cpu} stuck for {since}s! [{task}]"
        else:
            text = f"rcu: INFO: rcu_sched self-detected stall on CPU {cpu}"
        if report["lock_class"] >= 0:
            name = LOCK_CLASSES[report["lock_class"]]
            how = (" for writing" if report["write"] else " for reading") if name in _RWSEMS else ""
            text += f" Waits for {name} {report['lock_obj']}{how}."
        out.append(f"[{at:12.6f}] {text}")
    return out
