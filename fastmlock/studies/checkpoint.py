"""A storm that was broken off goes on: everything that changes is arrays, written to a folder now and then.

A checkpoint is a folder of .npy files, one for each array of the world and of the machine, and meta.json. It is
written beside the last one and takes its place in one rename, so a kill at any moment leaves a whole one. Going on
from it gives the same bytes as a run that was never broken off.
"""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlock import __version__

if TYPE_CHECKING:
    from fastmlock.machine.machine import Machine
    from fastmlock.studies.storm import Storm
    from fastmlock.system import System


#: what the arrays of a checkpoint are made of: another build's are not this one's
RECORDS = ("fastmlock.state/types.pxd", "fastmlock.machine/types.pxd", "fastmlock.flows/frame.pxd")


def _records() -> str:
    texts = [files(package).joinpath(name).read_bytes() for package, name in (path.split("/") for path in RECORDS)]
    return hashlib.sha256(b"".join(texts)).hexdigest()


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the text is one line."""


class Checkpoint:
    """Where and how often the state of one storm on one kernel is kept.

    Parameters
    ----------
    directory : folder of all checkpoints of a command; made if need be
    every_s : host seconds between two
    """

    def __init__(self, directory: str | os.PathLike[str], storm: Storm, kernel: str, every_s: float = 60.0) -> None:
        costs = sorted((name, cost.ns) for name, cost in (storm.costs or {}).items())
        what = asdict(storm) | {"costs": costs, "kernel": kernel, "version": __version__,
                                "records": _records()}
        self.key = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.path = Path(directory) / f"{kernel}-{self.key}"
        self.every_s = every_s
        self.written = time.monotonic()

    def _beside(self, ending: str) -> Path:
        """Another folder of this storm alone; the names of kernels have dots of their own."""
        return self.path.with_name(self.path.name + ending)

    def due(self) -> bool:
        return time.monotonic() - self.written >= self.every_s

    def write(self, system: System, machine: Machine | None, meta: dict[str, Any]) -> None:
        """Keeps the state; `meta` is what the study itself must know to go on, for JSON. There is no machine yet while
        the storm is set up. Raises OSError."""
        new, old = self._beside(".new"), self._beside(".old")
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)
        new.mkdir(parents=True)
        for prefix, part in (("world", system), ("machine", machine)):
            if part is not None:
                for name, array in part.arrays.items():
                    np.save(new / f"{prefix}.{name}.npy", array)
        (new / "world.scalars").write_bytes(system.scalars())
        (new / "meta.json").write_text(json.dumps(meta))
        if self.path.exists():
            self.path.rename(old)
        new.rename(self.path)
        shutil.rmtree(old, ignore_errors=True)
        self.written = time.monotonic()

    def exists(self) -> bool:
        return self._found() is not None

    def timed(self) -> bool:
        """What it holds is a storm, no longer the making of one."""
        path = self._found()
        return path is not None and (path / "machine.clock.npy").exists()

    def _found(self) -> Path | None:
        """The last whole checkpoint: a kill between the two renames leaves it under its old name."""
        for path in (self.path, self._beside(".old")):
            if (path / "meta.json").exists():
                return path
        return None

    def load(self, system: System, machine: Machine | None = None) -> dict[str, Any]:
        """Puts the state back into a system and a machine made as for a fresh run; -> meta. Raises CheckpointError."""
        path = self._found()
        if path is None:
            raise CheckpointError(f"{self.path}: no checkpoint of this storm")
        try:
            world = {name: np.load(path / f"world.{name}.npy") for name in system.arrays}
            system.restore(world, (path / "world.scalars").read_bytes())
            if machine is not None:
                mine = {name: np.load(path / f"machine.{name}.npy") for name in machine.arrays}
                machine.load(mine, copy=False)
            meta: dict[str, Any] = json.loads((path / "meta.json").read_text())
            return meta
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}") from None

    def remove(self) -> None:
        """The storm is over."""
        for path in (self.path, self._beside(".old"), self._beside(".new")):
            shutil.rmtree(path, ignore_errors=True)
