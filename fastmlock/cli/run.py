"""``fastmlock run``: a scenario on one kernel, printed or held against a recording; on several, for people to read."""
from __future__ import annotations

import argparse
import json
import os
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from . import DIFFERS, DONE, InputError
from .output import output


def register(commands: Any) -> None:
    sub = commands.add_parser("run", help="run a scenario and show what each step leaves behind", description=(
        "Runs a scenario and prints what each step left behind, one JSON object a line, or with --brief in words."))
    sub.add_argument("scenario", metavar="SCENARIO",
                     help="a scenario file, - for standard input, or the name of a recorded scenario")
    sub.add_argument("--kernel", metavar="RELEASE", required=True, action="append",
                     help="see: fastmlock kernels; with --brief it may be given several times")
    sub.add_argument("--brief", action="store_true",
                     help="for people: what each command changed, and which pages are on the LRU lists (L), "
                          "Unevictable, Mlocked, by how many mapped, with which mlock_count; not the recorder's own")
    sub.add_argument("--against", metavar="RECORDING",
                     help="compare with this file of records, or with the recording made on this kernel; prints "
                          "what differs in place of the records")
    sub.add_argument("--show", metavar="WHAT[,WHAT...]", type=_files, default=(),
                     help="print these files of /proc as they are in the end, in place of the records: vmstat, "
                          "meminfo, "
                          "status, smaps, pagemap, kpageflags, kpagecount")
    sub.add_argument("--swap", metavar="PAGES", type=_swap, help=(
        "with a swap device of so many pages (0: without one); else as the scenario says with a line swap PAGES, or "
        "16384 if its name begins with s31"))
    sub.add_argument("--reference", action="store_true", help="run the plain Python reference, not the compiled model")
    sub.add_argument("-o", "--output", metavar="FILE", help="write the records to this file")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from fastmlock import kernels
    from fastmlock.scenario.compare import compare
    from fastmlock.scenario.run import run

    from .systems import factory

    for name in arguments.kernel:
        kernels.get(name)
    scenario = _scenario(arguments.scenario)
    if arguments.swap is not None:
        scenario = replace(scenario, swap_pages=arguments.swap)
    if arguments.brief:
        return _brief(scenario, arguments)
    if len(arguments.kernel) > 1:
        raise InputError("--kernel: more than one only with --brief")
    kernel = arguments.kernel[0]
    real = _recording(arguments.against, arguments.scenario) if arguments.against else None
    system = factory(reference=arguments.reference)(kernel)
    if arguments.show and arguments.reference:
        raise InputError("--show: the plain reference model keeps no page tables to show")
    records = []
    last: list[Any] = []
    wanted = arguments.output or (real is None and not arguments.show)
    with output(arguments.output) if wanted else nullcontext() as stream:
        for record in run(scenario, system, kernel=kernel, image=True, watch=last.append):
            del last[:-1]
            if stream is not None:
                stream.write(json.dumps(record) + "\n")
            if real is not None:
                records.append(record)
    if arguments.show:
        from fastmlock.observe.show import show

        for text in show(system, last[0].living() if last else [], arguments.show):
            print(text, end="")
    if real is None:
        return DONE
    comparison = compare(records, real)
    for one in comparison.differing:
        print(*one.lines(), sep="\n")
    print(comparison)
    return DONE if comparison.ok else DIFFERS


def _brief(scenario: Any, arguments: argparse.Namespace) -> int:
    from fastmlock.scenario.brief import side_by_side
    from fastmlock.scenario.run import run

    from .systems import factory

    if arguments.against or arguments.show:
        raise InputError("--brief: without --against and --show, which print something else")
    if len(set(arguments.kernel)) < len(arguments.kernel):
        raise InputError("--kernel: one of them is given twice")
    make = factory(reference=arguments.reference)
    records = {kernel: run(scenario, make(kernel), kernel=kernel) for kernel in arguments.kernel}
    with output(arguments.output) as stream:
        for line in side_by_side(records):
            stream.write(line + "\n")
    return DONE


def _swap(text: str) -> int:
    from fastmlock.scenario.commands import MAX_SWAP, MIN_SWAP

    if not text.isdecimal() or (int(text) and not MIN_SWAP <= int(text) <= MAX_SWAP):
        raise argparse.ArgumentTypeError(f"{text!r}: give 0, or {MIN_SWAP} to {MAX_SWAP} pages")
    return int(text)


def _files(text: str) -> tuple[str, ...]:
    from fastmlock.observe.show import NAMES

    names = tuple(text.split(","))
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"no file {name!r}; there are {', '.join(NAMES)}")
    return names


def _scenario(name: str) -> Any:
    """The scenario in a file, or, where there is no such file, the recorded one of that name."""
    from fastmlock.scenario import language, recordings

    if name != "-" and not os.path.lexists(name) and name in recordings.scenarios():
        return recordings.scenario(name)
    return language.load(name)


def _recording(name: str, scenario: str) -> list[dict[str, Any]]:
    """The records in a file, or, where there is no such file, those of a recorded kernel of that name."""
    from fastmlock.scenario import compare, recordings

    known = [*recordings.kernels(), *map(recordings.release, recordings.kernels())]
    if not os.path.lexists(name) and name in known:
        return recordings.load(name, os.path.basename(scenario).removesuffix(".txt"))
    return compare.load_records(name)
