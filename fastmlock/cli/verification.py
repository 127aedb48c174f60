"""``fastmlock verification``: the model held against closed forms, published numbers and the live kernel."""
from __future__ import annotations

import argparse
import os
from typing import Any

from . import DIFFERS, DONE, InputError


def register(commands: Any) -> None:
    sub = commands.add_parser("verification", help="what the model says beside what is known", description=(
        "Holds the model against closed forms, published measurements and, after calibrate, the live kernel: one line "
        "for each number, one picture for each point. Misses are printed; with any, the exit status is 1."))
    sub.add_argument("points", metavar="POINT", nargs="*", help="which ones (all); 'list' shows their names")
    sub.add_argument("--quick", action="store_true", help="shorter runs, wider noise")
    sub.add_argument("-o", "--out", metavar="DIR", default=os.path.join("results", "verification"),
                     help="where the pictures and verification.json go (results/verification)")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    import json

    from fastmlock.verification import draw, lines, points

    every = points()
    if arguments.points == ["list"]:
        print("\n".join(every))
        return DONE
    for name in arguments.points:
        if name not in every:
            raise InputError(f"no point is called {name!r}; there are: {', '.join(every)}")
    os.makedirs(arguments.out, exist_ok=True)
    compared = missed = 0
    record = []
    for name in arguments.points or every:
        point = every[name](arguments.quick)
        print("\n".join(lines(point)), flush=True)
        compared += len(point.comparisons) + len(point.checks)
        missed += point.misses
        if point.comparisons:
            print(f"  picture: {draw(point, os.path.join(arguments.out, f'{name}.png'))}\n", flush=True)
        record.append({"point": name, "source": point.source, "factor": point.factor, "skipped": point.skipped,
                       "comparisons": [{"what": c.what, "model": c.model, "known": c.known, "ratio": c.ratio,
                                        "hit": point.hit(c)} for c in point.comparisons],
                       "checks": [{"what": text, "hit": holds} for text, holds in point.checks]})
    with open(os.path.join(arguments.out, "verification.json"), "w") as file:
        json.dump(record, file, indent=1)
    print(f"{compared - missed} of {compared} hit, {missed} missed")
    return DIFFERS if missed else DONE
