"""``fastmlock snapshot``: who has what mlocked here, and what it would cost if they left."""
from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from . import DONE, InputError

if TYPE_CHECKING:
    from fastmlock.snapshot import Part, Snapshot
    from fastmlock.studies.storm import StormResult

    Exit = tuple[Part, list[StormResult]]

SHOWN = 20


def register(commands: Any) -> None:
    sub = commands.add_parser("snapshot", help="who has which files mlocked here, and what their exit would cost",
                              description=(
        "Reads /proc for files with mlocked pages, who locks them and who maps them. With --exit, says what the exit "
        "of some of the lockers would cost before and after the rework, on a simulated machine of as many CPUs. Root "
        "sees all processes, others their own."))
    sub.add_argument("--exit", metavar="WHO[,WHO...]", help="these leave together: process numbers or names")
    sub.add_argument("--from", dest="source", metavar="FILE", help="a snapshot taken earlier, or on another machine")
    sub.add_argument("-o", "--output", metavar="FILE", help="write the snapshot there, as JSON")
    sub.add_argument("--kernels", metavar="K,K", default="5.17-rc2,5.18", help="kernels to compare (%(default)s)")
    sub.add_argument("--machine", metavar="NAME", default="generic", help="as of storm (%(default)s)")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from fastmlock.kernels import get
    from fastmlock.machine.topology import TopologyError
    from fastmlock.snapshot import SnapshotError, load, parts, read, save
    from fastmlock.studies.storm import StormError

    from .output import output
    from .storms import run_all

    kernels = arguments.kernels.split(",")
    for name in kernels:
        get(name)
    try:
        snapshot = load(arguments.source) if arguments.source else read()
    except SnapshotError as error:
        raise InputError(str(error)) from None
    leaving = _leaving(snapshot, arguments.exit) if arguments.exit else set()
    if arguments.output:
        with output(arguments.output) as stream:
            save(snapshot, stream)
    if arguments.output == "-":
        return DONE
    _print_files(snapshot)
    if not leaving:
        return DONE
    try:
        pieces = parts(snapshot, leaving, machine=arguments.machine)
    except (StormError, TopologyError) as error:
        raise InputError(str(error)) from None
    results = run_all([(piece.storm, name) for piece in pieces for name in kernels], min(2, os.cpu_count() or 1))
    n = len(kernels)
    _print_exits(snapshot, leaving, kernels,
                 [(piece, results[i * n:i * n + n]) for i, piece in enumerate(pieces)])
    return DONE


def _leaving(snapshot: Snapshot, text: str) -> set[int]:
    """The processes that the user names. Raises InputError for one that has no page of a file mlocked."""
    lockers = {pid for file in snapshot.files for pid in file.lockers}
    found = set()
    for word in text.split(","):
        named = {pid for pid in lockers if word in (str(pid), snapshot.processes[pid].name)}
        if not named:
            names = ", ".join(sorted({snapshot.processes[pid].name for pid in lockers})) or "none"
            raise InputError(f"--exit {word}: no such process has pages of a file mlocked; these have: {names}"
                             + (f"; {snapshot.unread} processes could not be looked at" if snapshot.unread else ""))
        found |= named
    return found


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table


def _show(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)


def _print_files(snapshot: Snapshot) -> None:
    print(f"Linux {snapshot.kernel}, {snapshot.cpus} CPUs: {len(snapshot.files)} files with mlocked pages"
          + (f"; {snapshot.unread} processes could not be looked at" if snapshot.unread else ""))
    if not snapshot.files:
        return
    table = _table("file", "locked by", "mlocked entries", "mapped by", "VMAs")
    for file in snapshot.files[:SHOWN]:
        table.add_row(_short(file.path), _names(snapshot, file.lockers), f"{file.locked_pages:,}",
                      f"{len({one.pid for one in file.mappings}):,}", f"{len(file.mappings):,}")
    if len(snapshot.files) > SHOWN:
        table.add_row(f"... and {len(snapshot.files) - SHOWN} more", "",
                      f"{sum(file.locked_pages for file in snapshot.files[SHOWN:]):,}", "", "")
    _show(table)


def _short(path: str, most: int = 44) -> str:
    """The end of a long path says more than its beginning."""
    return path if len(path) <= most else f"...{path[3 - most:]}"


def _names(snapshot: Snapshot, pids: set[int]) -> str:
    """"2 qemu, multipathd"."""
    names = [snapshot.processes[pid].name for pid in pids]
    each = sorted({name: names.count(name) for name in names}.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{n} {name}" if n > 1 else name for name, n in each]
    return ", ".join(words[:3]) + (f", {len(words) - 3} more" if len(words) > 3 else "")


def _print_exits(snapshot: Snapshot, leaving: set[int], kernels: list[str], found: list[Exit]) -> None:
    from fastmlock.studies import report

    def times(exits: list[Exit]) -> list[str]:
        return [report.duration(sum(results[i].last_exit_ns for _, results in exits)) for i in range(len(kernels))]

    print(f"if {_names(snapshot, leaving)} left now (virtual time from the first release to the last exit):")
    table = _table("file", "pages", "leave", "others passed", "locker stays", *kernels)
    for one in found[:SHOWN]:
        part, storm = one[0], one[0].storm
        if part.shared:
            words = [_short(part.file.path), f"{storm.pages:,}", f"{storm.procs:,}", f"{storm.maps * storm.mappers:,}",
                     {"none": "no", "before": "yes, first", "after": "yes, last"}[storm.survivor]]
        else:
            words = [f"{_short(part.file.path)}, mapped by nobody else", f"{storm.pages:,}", "1", "", ""]
        table.add_row(*words, *times([one]))
    if len(found) > SHOWN:
        table.add_row(f"... and {len(found) - SHOWN} more", "", "", "", "", *times(found[SHOWN:]))
    table.add_section()
    table.add_row("one file after the other", "", "", "", "", *times(found))
    _show(table)
    worst = max(found, key=lambda one: max(result.last_exit_ns for result in one[1]))[0].storm
    print("more of the worst: fastmlock storm " + " ".join(
        f"--{name} {getattr(worst, name)}"
        for name in ("procs", "pages", "cpus", "mappers", "maps", "survivor", "machine")))
