"""Whole storms and the event core. Run by asv."""
from __future__ import annotations

import os
import subprocess
import sys

from fastmlock.machine.bare import bare_loop
from fastmlock.studies.storm import Storm, run


class ExitStorm:
    params = (["5.17-rc2", "5.18"], [16, 64, 256, 1024], [1024, 4096])
    param_names = ["kernel", "cpus", "pages"]
    timeout = 600
    repeat = 1
    number = 1
    rounds = 1
    warmup_time = 0

    def setup(self, kernel: str, cpus: int, pages: int) -> None:
        self.storm = Storm(procs=cpus, cpus=cpus, pages=pages)

    def time_storm(self, kernel: str, cpus: int, pages: int) -> None:
        run(self.storm, kernel)

    def peakmem_storm(self, kernel: str, cpus: int, pages: int) -> None:
        run(self.storm, kernel)

    def track_host_ns_per_entry(self, kernel: str, cpus: int, pages: int) -> float:
        result = run(self.storm, kernel)
        return result.run_s / result.entries * 1e9

    track_host_ns_per_entry.unit = "ns"         # type: ignore[attr-defined]

    def track_virtual_last_exit_ms(self, kernel: str, cpus: int, pages: int) -> float:
        return run(self.storm, kernel).last_exit_ns / 1e6

    track_virtual_last_exit_ms.unit = "ms"      # type: ignore[attr-defined]


class BareLoop:
    """The event core with nothing on it: 1,000,000 events."""
    params = [16, 64, 256, 1024]
    param_names = ["cpus"]

    def time_events(self, cpus: int) -> None:
        bare_loop(cpus, 1_000_000)


class Import:
    def time_import(self) -> None:
        path = os.pathsep.join(sys.path)        # the same package as ours, installed or not
        subprocess.run([sys.executable, "-c", "import fastmlock.studies.storm"], check=True,
                       env=os.environ | {"PYTHONPATH": path})
