"""``fastmlock calibrate``: measures this machine and writes costs and a machine for the other commands."""
from __future__ import annotations

import argparse
import os
from typing import Any

from . import DONE, InputError


def register(commands: Any) -> None:
    sub = commands.add_parser("calibrate", help="measure this machine: costs and a machine file", description=(
        "Times the running kernel (faults, unmap, mlock, munlock, per page) and the handing over of a lock between two "
        "CPUs, and writes costs.toml (for storm --costs), machine.toml (for storm --machine) and measured.json (for "
        "verification live). Needs no privilege; takes a few seconds."))
    sub.add_argument("--repeat", metavar="N", type=int, default=25, help="repetitions of each operation (25)")
    sub.add_argument("-o", "--out", metavar="DIR", default=os.path.join("results", "calibration"),
                     help="where the files go (results/calibration)")
    sub.set_defaults(command=command)


def command(arguments: argparse.Namespace) -> int:
    from fastmlock.calibrate.fit import HELD_OUT, calibrate
    from fastmlock.calibrate.kernel import MeasureError

    if arguments.repeat < 5:
        raise InputError(f"--repeat {arguments.repeat}: at least 5 are needed for a spread")
    try:
        measured, _, _, paths = calibrate(arguments.out, arguments.repeat)
    except MeasureError as error:
        raise InputError(str(error)) from None
    print(f"{'operation':18}{'taken':>12}{'10 %':>12}{'90 %':>12}")
    for name, m in measured.items():
        print(f"{name:18}{m.ns:9.1f} ns{m.low_ns:9.1f} ns{m.high_ns:9.1f} ns"
              + ("   (sets nothing: for verification)" if name in HELD_OUT else ""))
    if "hand_over" not in measured:
        print("one CPU only, or the second gave no answer: no hand-over was measured")
    print(f"written: {', '.join(paths)}")
    return DONE
