"""What a series has found: a table and a picture. Parquet and JSON are written by `fastmlock.studies.report.write`."""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import IO, Any

from fastmlock.studies.report import duration

from .workloads import about

Record = dict[str, Any]
Column = tuple[str, Callable[[Record], str]]

WAITS = (("i_mmap", ("i_mmap_rwsem",), ("i_mmap_read", "i_mmap_write")), ("lru_lock", ("lru_lock",), ("lru_lock",)),
         ("page lock", ("page_lock",), ("page_lock",)),
         ("other", ("ptl", "mmap_lock", "anon_vma"), ("ptl", "other_rwsem")))
"""Waits shown: title, columns summed where untimed, columns summed where timed."""


def wait(row: Record, title: str) -> int:
    """ns spent waiting by all CPUs, or number of waits in an untimed run."""
    untimed, timed = next((a, b) for name, a, b in WAITS if name == title)
    if is_timed(row):
        return sum(row[f"cpu_{name}_ns"] for name in timed)
    return sum(row[f"waits_{name}"] for name in untimed)


def is_timed(row: Record) -> bool:
    return "time_ns" in row


def columns(rows: Sequence[Record]) -> list[Column]:
    timed = is_timed(rows[0])
    found: list[Column] = [("kernel", lambda row: str(row["kernel"]))]
    if timed:
        found.append(("time", lambda row: duration(row["time_ns"])))
    shown = duration if timed else count
    found += [(f"wait: {title}", partial(_wait_cell, title, shown)) for title, _, _ in WAITS]
    return [
        *found,
        ("walks", lambda row: count(row["rmap_walks"])), ("VMAs visited", lambda row: count(row["rmap_vmas"])),
        ("lru_lock", lambda row: count(row["lru_locks"])),
        ("locked, evictable", lambda row: count(row["worst_evictable"])),
        ("nr_mlock off", lambda row: signed(row["worst_nr_mlock_off"] or row["left_nr_mlock_off"])),
        ("left unevictable", lambda row: count(row["left_unevictable"])),
        ("left Mlocked", lambda row: count(row["left_marked"])),
        *([("reaped", lambda row: count(row["reaped"]))] if any(row["reaped"] for row in rows) else []),
        ("stranded", lambda row: count(row["stranded"])), ("cleared", lambda row: count(row["cleared"])),
    ]


def _wait_cell(title: str, shown: Callable[[int], str], row: Record) -> str:
    return shown(wait(row, title))


def count(n: int) -> str:
    return f"{n:,}" if n else "-"


def signed(n: int) -> str:
    return f"{n:+,}" if n else "-"


def title(rows: Sequence[Record]) -> str:
    one = rows[0]
    return f"{about(one['workload'])} (N = {one['procs']}, {one['pages']} pages)"


LEGEND = (
    "wait: {unit}.  walks, VMAs visited: of the reverse map.  lru_lock: times taken.  locked, evictable: pages that",
    "some process has locked and reclaim could take, and nr_mlock off: the counter less the pages that are locked,",
    "both the worst at any check.  left: pages at the end, locked by nobody, still unevictable or Mlocked.",
)


def show(rows: Sequence[Record], stream: IO[str]) -> None:
    """The table, as text."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=stream, width=None if stream.isatty() else 200, highlight=False)
    console.print(title(rows), style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown = columns(rows)
    for name, _ in shown:
        first = name == "kernel"
        table.add_column(name, justify="left" if first else "right", no_wrap=first)
    for row in rows:
        table.add_row(*(cell(row) for _, cell in shown))
    console.print(table)
    unit = "all CPUs' time" if is_timed(rows[0]) else "number of requests"
    console.print("\n".join(LEGEND).format(unit=unit), style="dim")


def draw(rows: Sequence[Record], path: str) -> str:
    """The picture: time or waits, work, and what is wrong, over the points. The suffix says the format. -> path"""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [str(row["kernel"]).removeprefix("5.17-rc2") or "base" for row in rows]
    at = range(len(rows))
    timed = is_timed(rows[0])
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(11, 9), sharex=True, layout="constrained")
    scale = 1e6 if timed else 1
    base = [0.0] * len(rows)
    for name, _, _ in WAITS:
        values = [wait(row, name) / scale for row in rows]
        top.bar(at, values, bottom=base, label=f"waiting: {name}")
        base = [a + b for a, b in zip(base, values)]
    if timed:
        for name, label in (("cpu_lines_ns", "cache-line transfers"), ("cpu_working_ns", "working")):
            values = [row[name] / scale for row in rows]
            top.bar(at, values, bottom=base, label=label)
            base = [a + b for a, b in zip(base, values)]
        top.plot(at, [row["time_ns"] / scale for row in rows], "k.-", label="elapsed")
    top.set(ylabel="ms of virtual time, all CPUs" if timed else "requests that waited", title="what it costs")
    for name, label in (("rmap_vmas", "VMAs visited by walks"), ("lru_locks", "lru_lock taken"),
                        ("munlocks", "munlocks of a page")):
        middle.plot(at, [row[name] for row in rows], marker="o", label=label)
    middle.set(yscale="symlog", ylabel="number", title="what it does")
    for name, label in (("worst_evictable", "locked but evictable, worst"),
                        ("worst_unmarked", "locked but not Mlocked, worst"),
                        ("left_unevictable", "left unevictable"), ("left_marked", "left Mlocked")):
        bottom.plot(at, [row[name] for row in rows], marker="o", label=label)
    bottom.set(yscale="symlog", ylabel="pages", title="what is wrong")
    bottom.set_xticks(list(at), names, rotation=45 if max(map(len, names)) > 4 else 0)
    for axes in (top, middle, bottom):
        axes.grid(True, alpha=0.25)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    figure.suptitle(title(rows), fontsize=10)
    unfinished = f"{path}.unfinished"
    figure.savefig(unfinished, format=os.path.splitext(path)[1][1:], dpi=110)
    plt.close(figure)
    os.replace(unfinished, path)
    return path
