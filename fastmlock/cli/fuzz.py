"""``fastmlock fuzz``: random programs on the model and on something that must agree with it."""
from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import DIFFERS, DONE, InputError


def register(commands: Any) -> None:
    sub = commands.add_parser("fuzz", help="run random programs on two systems and compare them", description=(
        "Runs random scenario programs on the model and on the running kernel, the reference, or an emulated kernel; "
        "what differs is shrunk to the smallest program and written as a scenario file."))
    sub.add_argument("--programs", metavar="N", type=int, default=1000, help="how many (default 1000)")
    sub.add_argument("--first", metavar="I", type=int, default=0, help="index of the first program (default 0)")
    sub.add_argument("--seed", metavar="S", default="1", help="any word; programs depend on it alone (default 1)")
    sub.add_argument("--against", metavar="WHAT", default="reference",
                     help="live, reference (default), or RELEASE-emulated, which needs --oracle")
    sub.add_argument("--kernel", metavar="RELEASE", help="the model; default 6.1, with live the running release")
    sub.add_argument("--reference", action="store_true", help="with live: hold the plain Python reference against it")
    sub.add_argument("--oracle", metavar="FOLDER", type=Path, help="a writable copy of the recorder's folder, with its "
                     "kernels, for RELEASE-emulated")
    sub.add_argument("--disk", action="store_true", help="programs that read files of a disk filesystem in, instead of "
                     "everything")
    sub.add_argument("--coverage", action="store_true", help="print what the programs did: each verb with its options, "
                     "and what came of it")
    sub.add_argument("-o", "--output", metavar="FOLDER", type=Path,
                     help="write differing programs and the checkpoint there; run again to go on")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from fastmlock.fuzz import emulated, pair
    from fastmlock.fuzz.campaign import Campaign
    from fastmlock.fuzz.coverage import table
    from fastmlock.fuzz.generate import DISK, EMULATED, LIVE, Profile
    from fastmlock.live import LiveError, Machine
    from fastmlock.live.machine import READ_AHEAD_KB
    from fastmlock.live.verify import pair_of, visible_counters

    from .systems import bare

    if arguments.programs < 1 or arguments.first < 0:
        raise InputError("--programs must be at least 1, --first at least 0")
    against, profile = arguments.against, DISK if arguments.disk else Profile()
    with ExitStack() as stack:
        if against == "reference":
            release = arguments.kernel or "6.1"
            one, other = bare(release, reference=False), bare(release, reference=True)
            names = f"model {release} and reference"

            def run(lines: Any) -> pair.Outcome:
                return pair.against_exact(lines, one, other)
        elif against == "live":
            try:
                machine = stack.enter_context(Machine())
            except LiveError as error:
                raise InputError(f"not run: {error}") from None
            if arguments.disk and machine.read_ahead_kb != READ_AHEAD_KB:
                raise InputError(f"--disk: the device of the temporary folder reads {machine.read_ahead_kb} KiB ahead, "
                                 f"the model {READ_AHEAD_KB}; write that to its read_ahead_kb in /sys/class/bdi")
            release = arguments.kernel or machine.model
            names = f"{'reference' if arguments.reference else 'model'} {release} and live {machine.release}"
            mine, live = pair_of(machine, bare(release, reference=arguments.reference))
            profile = replace(profile, leave_out=profile.leave_out | LIVE.leave_out) if arguments.disk else LIVE
            counters = visible_counters(machine)

            def run(lines: Any) -> pair.Outcome:
                return pair.against_live(lines, mine, live, counters=counters, disturbed=machine.disturbed)
        elif against.endswith("-emulated"):
            if arguments.oracle is None:
                raise InputError(f"--against {against} needs --oracle FOLDER")
            return _report(emulated.campaign(arguments.oracle, against.removesuffix("-emulated"), arguments.seed,
                                             arguments.first, arguments.programs, bare, arguments.output,
                                             profile if arguments.disk else EMULATED))
        else:
            raise InputError(f"--against {against}: use live, reference, or a release and -emulated")
        campaign = Campaign(arguments.seed, arguments.programs, run, first=arguments.first, profile=profile,
                            folder=arguments.output, names=names)
        with tqdm(total=arguments.programs, desc=names, unit="program", disable=not sys.stderr.isatty()) as bar:
            totals = campaign.run(lambda done: bar.update(done - bar.n))
    if arguments.coverage:
        print(*table(totals.outcomes), sep="\n")
    return _report(totals)


def _report(totals: Any) -> int:
    print(*totals.lines(), *totals.files, sep="\n")
    return DIFFERS if totals.differences or totals.faults else DONE
