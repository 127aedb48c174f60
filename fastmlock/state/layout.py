"""The records of `types.pxd` as NumPy dtypes, and its enumerations as Python constants.

`types.pxd` is the one place where a record is described; this module reads it, so that the C struct and the
NumPy view of it cannot drift apart (`fastmlock.state.world` checks every size at import).
"""
from __future__ import annotations

import re
from importlib.resources import files
from types import SimpleNamespace

import numpy as np

_SCALARS = {f"{sign}int{bits}_t": f"{'u' if sign else 'i'}{bits // 8}"
            for sign in ("", "u") for bits in (8, 16, 32, 64)}
_BLOCK = re.compile(r"^cdef (struct|enum) ?(\w*):\n((?:(?:    .*)?\n)+)", re.MULTILINE)
_FIELD = re.compile(r"^(\w+) (\w+)(?:\[(\d+)\])?$")


def _parse(text: str) -> tuple[dict[str, np.dtype], dict[str, dict[str, int]]]:
    structs: dict[str, np.dtype] = {}
    enums: dict[str, dict[str, int]] = {}
    for kind, name, body in _BLOCK.findall(text):
        lines = [line.split("#")[0].strip() for line in body.splitlines()]
        if kind == "enum":
            values = {key.strip(): eval(value, {"__builtins__": {}})  # constants of our own source
                      for key, value in (line.split("=") for line in lines if line)}
            enums.setdefault(name or "limits", {}).update(values)
            continue
        fields = []
        for line in filter(None, lines):
            match = _FIELD.match(line)
            if match is None:
                break                       # a pointer: the record is not an array element
            ctype, field, count = match.groups()
            base = structs[ctype] if ctype in structs else np.dtype(_SCALARS[ctype])
            fields.append((field, base, (int(count),)) if count else (field, base))
        else:
            structs[name] = np.dtype(fields, align=True)
    return structs, enums


_FILES = files("fastmlock.state")
STRUCTS, ENUMS = _parse(_FILES.joinpath("types.pxd").read_text())
ENUMS.update(_parse(_FILES.joinpath("debug.pxd").read_text())[1])

#: every constant of every enumeration by its name: ``K.PG_mlocked``, ``K.VM_LOCKED``, ``K.EV_CULLED`` ...
K = SimpleNamespace(**{key: value for values in ENUMS.values() for key, value in values.items()})
