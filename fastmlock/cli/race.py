"""``fastmlock race``: calls under way at once, in one order or in every order."""
from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from . import DONE, InputError
from .output import output

if TYPE_CHECKING:
    from fastmlock.explore.race import Outcome
    from fastmlock.scenario.commands import Scenario

EXAMPLE = "p0 munlock A 0 1 | p1 munlock A 0 1"


def register(commands: Any) -> None:
    sub = commands.add_parser("race", help="let system calls race, in a pinned order or in all", description=(
        "Lets system calls race. RACE is a scenario file with a race in it, a whole scenario with ; between its "
        f"commands, or bare operations such as '{EXAMPLE}': then A is a settled shared file that every process named "
        "maps on a CPU of its own, and that those which do not begin with a mlock have locked. "
        "A schedule may follow a colon: ': p0 until lru_lock, p1 to end, p0 on'."))
    sub.add_argument("race", metavar="RACE", help="a scenario file, - for standard input, or the text itself")
    sub.add_argument("--kernel", metavar="RELEASE", required=True, action="append",
                     help="see: fastmlock kernels; may be given several times")
    sub.add_argument("--search", action="store_true", help="find every final state, whatever the schedule says")
    sub.add_argument("--fine", action="store_true", help="search also between two pages of a batch")
    sub.add_argument("--cpus", type=int, default=4, help="CPUs of the machine (default 4)")
    sub.add_argument("--pages", type=int, default=1, help="pages of A, for bare operations (default 1)")
    sub.add_argument("--max-states", type=int, default=200_000, help="give up a search beyond this (default 200000)")
    sub.add_argument("-o", "--output", metavar="FILE", help="write what was found as JSON to this file")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from fastmlock import kernels
    from fastmlock.explore.outcome import SearchLimit
    from fastmlock.explore.race import play_all, search

    for kernel in arguments.kernel:
        kernels.get(kernel)
    if not 1 <= arguments.cpus <= 64:
        raise InputError(f"--cpus {arguments.cpus}: use 1 to 64")
    if not 1 <= arguments.max_states <= 2_000_000:
        raise InputError(f"--max-states {arguments.max_states}: use 1 to 2000000")
    scenario = _scenario(arguments.race, arguments.pages)
    results: list[dict[str, object]] = []
    for kernel in arguments.kernel:
        if arguments.search:
            try:
                found = search(scenario, kernel, cpus=arguments.cpus, max_states=arguments.max_states,
                               fine=arguments.fine)
            except SearchLimit as error:
                raise InputError(str(error)) from None
            print(f"{kernel}: {found.command.text.strip()}")
            print(f"{len(found.outcomes)} final state{'s' * (len(found.outcomes) != 1)}, from {found.states} states "
                  f"and {found.steps} steps")
            print("\n".join(table(found.outcomes)))
            results.append({"kernel": kernel, "race": found.command.text, "states": found.states,
                            "outcomes": [asdict(one) for one in found.outcomes]})
        else:
            for played in play_all(scenario, kernel, cpus=arguments.cpus):
                print(f"{kernel}: {played.command.text.strip()}")
                print("\n".join(table([played.outcome])))
                results.append({"kernel": kernel, "race": played.command.text, "outcomes": [asdict(played.outcome)]})
    if arguments.output:
        with output(arguments.output) as stream:
            json.dump(results, stream, indent=1)
            stream.write("\n")
    return DONE


def table(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Lines: each outcome's order, its pages, what it changed, what is wrong with it."""
    for number, one in enumerate(outcomes, 1):
        yield f"  {number}. {one.schedule}"
        for page in one.pages[:8]:
            yield f"       {page}"
        if len(one.pages) > 8:
            yield f"       and {len(one.pages) - 8} pages more"
        changed = [f"{name.removeprefix('unevictable_pgs_')} {value:+d}" for name, value in one.counters.items()
                   if "active" not in name]
        yield f"       {', '.join(changed) or 'no counter changed'}"
        for party, reply in enumerate(one.answers):
            if reply.err or reply.sig:
                yield f"       command {party + 1} answered errno {reply.err}, signal {reply.sig}"
        if one.problem:
            yield f"       {one.problem}"
        wrong = list(faults(one))
        if wrong:
            yield f"       wrong: {', '.join(wrong)}"


def faults(outcome: Outcome) -> Iterator[str]:
    """What an audit has found, in words."""
    words = {"unmarked": "locked but not Mlocked", "left_marked": "Mlocked but locked by nobody",
             "evictable": "locked but evictable", "left_unevictable": "left unevictable",
             "count_low": "mlock_count too low", "count_high": "mlock_count too high"}
    for name, text in words.items():
        value = getattr(outcome.audit, name)
        if value:
            yield f"{value} {text}"
    if outcome.audit.nr_mlock_off:
        yield f"nr_mlock off by {outcome.audit.nr_mlock_off:+d}"


def _scenario(text: str, pages: int) -> Scenario:
    from fastmlock.explore.race import default_race
    from fastmlock.scenario import language

    if text == "-" or os.path.lexists(text) or "|" not in text:
        return language.load(text)
    if any(line.split()[:1] == ["race"] for line in text.split(";")):
        return language.parse("\n".join(line.strip() for line in text.split(";")) + "\n", "<race>")
    if not 1 <= pages <= 512:
        raise InputError(f"--pages {pages}: use 1 to 512")
    return default_race(text, pages=pages)
