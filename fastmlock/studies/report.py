"""What a study found, for people and for other programs: a table, a picture, Parquet and JSON."""
from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from typing import IO, Any

from fastmlock import __version__
from fastmlock.studies.storm import DOING, Storm, StormResult

Record = dict[str, object]

_DOING_NAMES = {
    "working": "working",
    "i_mmap_read": "waiting: i_mmap_rwsem, reader",
    "i_mmap_write": "waiting: i_mmap_rwsem, writer",
    "other_rwsem": "waiting: other rwsems", "page_lock": "waiting: page locks", "lru_lock": "waiting: lru_lock",
    "ptl": "waiting: page-table locks", "lines": "cache-line transfers", "switching": "switching tasks",
    "idle": "idle",
}


#: what a series of storms can differ in, and how its axis is called
AXES = {"procs": "processes that leave", "mappers": "others that map the file"}


def duration(ns: float) -> str:
    """A virtual time in a unit that suits it: "38.3 ms"."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}" if ns < 1000 * size or unit == "s" else f"{ns / size:.0f} {unit}"
    return f"{ns:.0f} ns"


def count(n: int) -> str:
    return f"{n:,}"


def rows(result: StormResult) -> list[tuple[str, str]]:
    """What is printed of one result: (name, value)."""
    total = sum(result.doing.values()) or 1
    reports = {name: n for name, n in result.watchdog.items() if n}
    return [
        ("last exit after", duration(result.last_exit_ns)),
        ("exit of a process, median", duration(result.median_exit_ns)),
        ("  99th percentile", duration(result.p99_exit_ns)),
        ("  longest", duration(result.max_exit_ns)),
        *((_DOING_NAMES[name], f"{100 * result.doing[name] / total:.1f} %") for name in DOING),
        ("rmap walks", count(result.rmap_walks)),
        ("  VMAs visited", count(result.rmap_vmas)),
        ("munlocks of a page", count(result.munlocks)),
        ("lru_lock taken", count(result.lru_locks)),
        ("pages stranded", count(result.vmstat["unevictable_pgs_stranded"])),
        *([("bystander's mmap + munmap, mean", duration(result.bystander_round_ns)),
           ("  rounds", count(result.bystander_rounds))] if result.storm.bystanders else []),
        ("left Mlocked / Unevictable", f"{count(result.nr_mlock)} / {count(result.nr_unevictable)}"),
        ("watchdog reports", ", ".join(f"{n} {name}" for name, n in reports.items()) or "none"),
    ]


def title(storm: Storm, grown: str = "") -> str:
    """A storm in one sentence; what is on an axis (`grown`) has no number there."""
    topology = storm.topology()
    number = {name: "N" if name == grown else count(getattr(storm, name)) for name in AXES}
    one = storm.procs == 1 and grown != "procs"
    what = [f"{number['procs']} process{'' if one else 'es'} x {count(storm.pages)} mlocked pages "
            + ("exits" if one else {"together": "exit together", "in-turn": "exit one after another, oldest first",
                                    "newest-first": "exit one after another, newest first"}[storm.order])]
    if storm.order == "together" and storm.stagger_ns and not one:
        what.append(f"released {duration(storm.stagger_ns)} apart")
    if storm.survivor != "none":
        what.append(f"one locker stays, {storm.survivor} them in i_mmap")
    if storm.mappers or grown == "mappers":
        what.append(f"beside {number['mappers']} that only map the file")
    if storm.bystanders:
        what.append(f"{count(storm.bystanders)} bystanders map and unmap it")
    cpus = "as many CPUs" if grown == "procs" else f"{count(topology.cpus)} CPUs on {topology.nodes} nodes"
    return f"{', '.join(what)}; {cpus} ({storm.machine})"


def show(results: Sequence[StormResult], stream: IO[str]) -> None:
    """Kernels side by side, a table for each storm; then, of several storms, what grew."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=stream, width=None if stream.isatty() else 120, highlight=False)
    storms = list(dict.fromkeys(result.storm for result in results))
    for storm in storms:
        mine = [result for result in results if result.storm == storm]
        console.print(title(storm), style="bold")
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        table.add_column("")
        for result in mine:
            table.add_column(result.kernel, justify="right")
        for lines in zip(*(rows(result) for result in mine)):
            table.add_row(lines[0][0], *(value for _, value in lines))
        console.print(table)
        console.print()
    if len(storms) > 1:
        console.print("median exit of a process, and the last of all", style="bold")
        console.print(growth(results))


def grown(results: Sequence[StormResult]) -> str:
    """The field of AXES in which the storms differ; the first if they don't."""
    return next((name for name in AXES if len({getattr(result.storm, name) for result in results}) > 1), "procs")


def growth(results: Sequence[StormResult]) -> object:
    """A table with a row for each number of processes: median and last exit on each kernel, and the medians' ratio."""
    from rich.table import Table

    kernels = list(dict.fromkeys(result.kernel for result in results))
    name = grown(results)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(AXES[name], justify="right")
    for kernel in kernels:
        table.add_column(kernel, justify="right")
        table.add_column("last", justify="right")
    if len(kernels) == 2:
        table.add_column("median, ratio", justify="right")
    for value in dict.fromkeys(getattr(result.storm, name) for result in results):
        mine = {result.kernel: result for result in results if getattr(result.storm, name) == value}
        cells = [cell for kernel in kernels
                 for cell in (duration(mine[kernel].median_exit_ns), duration(mine[kernel].last_exit_ns))]
        if len(kernels) == 2:
            first, second = (mine[kernel].median_exit_ns for kernel in kernels)
            cells.append(f"{first / second:.2f}" if second else "-")
        table.add_row(f"{value:,}", *cells)
    return table


def provenance() -> Record:
    """What a result can be traced by."""
    import numpy as np

    return {"fastmlock": __version__, "python": platform.python_version(), "numpy": np.__version__,
            "host": platform.machine()}


def write(records: Sequence[Record], folder: str, name: str) -> list[str]:
    """`records` as `folder`/`name`.parquet and .json, each complete or not at all. -> the paths"""
    import pyarrow as pa
    import pyarrow.parquet as pq

    os.makedirs(folder, exist_ok=True)
    table = pa.Table.from_pylist(list(records))
    table = table.replace_schema_metadata({"fastmlock": json.dumps(provenance())})
    paths = [os.path.join(folder, f"{name}.{kind}") for kind in ("parquet", "json")]
    pq.write_table(table, f"{paths[0]}.unfinished")
    with open(f"{paths[1]}.unfinished", "w") as stream:
        json.dump({"provenance": provenance(), "results": list(records)}, stream, indent=1)
        stream.write("\n")
    for path in paths:
        os.replace(f"{path}.unfinished", path)
    return paths


def save(figure: Any, path: str) -> str:
    """A picture in the format that its name ends in, the same bytes each time, complete or not at all. -> the path"""
    from matplotlib import pyplot as plt

    unfinished = f"{path}.unfinished"
    figure.savefig(unfinished, format=os.path.splitext(path)[1][1:] or "png", dpi=110,
                   metadata={"Software": None} if path.endswith(".png") else None)
    plt.close(figure)
    os.replace(unfinished, path)
    return path


def draw(results: Sequence[StormResult], path: str) -> str:
    """The curve: how long a process's exit takes, and how many VMAs the walks visited, over what grew. -> the path"""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kernels = list(dict.fromkeys(result.kernel for result in results))
    name = grown(results)
    figure, (times, visits) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for kernel in kernels:
        mine = [result for result in results if result.kernel == kernel]
        x = [getattr(result.storm, name) for result in mine]
        line, = times.plot(x, [result.median_exit_ns / 1e6 for result in mine], marker="o", label=f"{kernel}, median")
        times.fill_between(x, [result.exit_ns.min() / 1e6 for result in mine],
                           [result.max_exit_ns / 1e6 for result in mine], color=line.get_color(), alpha=0.15)
        visits.plot(x, [max(result.rmap_vmas, 0.5) for result in mine], marker="o", label=kernel)
    scale = "log" if all(getattr(result.storm, name) for result in results) else "symlog"
    times.set(xscale=scale, yscale="log", xlabel=AXES[name], ylabel="exit of one process, ms of virtual time",
              title="time (band: shortest to longest)")
    visits.set(xscale=scale, yscale="symlog", xlabel=AXES[name], ylabel="VMAs visited by rmap walks", title="work")
    for axes in (times, visits):
        axes.grid(True, which="both", alpha=0.25)
        axes.legend()
    figure.suptitle(title(results[-1].storm, name).replace("; ", "\n"), fontsize=10)
    return save(figure, path)
