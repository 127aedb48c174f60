"""The records of the machine layer's `types.pxd` as NumPy dtypes; `fastmlock.machine.machine` checks sizes."""
from __future__ import annotations

from importlib.resources import files

from fastmlock.state.layout import _parse

_TEXT = files("fastmlock.machine").joinpath("types.pxd").read_text().replace("    Line ", "    int64_t ")

STRUCTS, ENUMS = _parse(_TEXT)

#: what a CPU's time is charged to, in the order of the columns of ``Machine.cpu_ns``
ACCOUNTS = tuple(name[4:].lower() for name in ENUMS["Account"] if name != "NR_ACCOUNTS")

#: kinds of watchdog reports
REPORTS = ("hung task", "soft lockup", "rcu stall")
