"""One workload at many points of the series.

    >>> rows = measure("one-by-one", ["5.17-rc2", "5.17-rc2+13"], procs=4, pages=32)
    >>> [row["rmap_walks"] for row in rows]
    [96, 0]
"""
from __future__ import annotations

from collections.abc import Callable, Iterable

from fastmlock import kernels
from fastmlock.studies.memory import available_bytes

from .bench import Bench
from .workloads import OWN_PAGES, WORKLOADS

Record = dict[str, object]


class SeriesError(ValueError):
    """A series that cannot be run; the text is one line and says how to mend it."""


def measure(workload: str, names: Iterable[str] = kernels.SERIES, *, procs: int = 16, pages: int = 256,
            machine: str | None = None, each: Callable[[str], None] = lambda kernel: None) -> list[Record]:
    """A row for each kernel: kernel, workload, procs, pages, and the columns of `Bench.row`.

    With a `machine`, a topology preset, the calls run on it in virtual time, and the columns of waits are ns; without,
    they take turns, and the columns of waits are numbers. `each` is called before each kernel. Raises SeriesError,
    UnknownKernel, NotSupported for a workload that the model has not.
    """
    if workload not in WORKLOADS:
        raise SeriesError(f"no workload {workload!r}; there are {', '.join(WORKLOADS)}")
    if not 1 <= procs <= 256:
        raise SeriesError(f"{procs} processes: use 1 to 256")
    if not 1 <= pages <= 1 << 16:
        raise SeriesError(f"{pages} pages: use 1 to {1 << 16}")
    need = int(procs * pages * (8 + 80 * OWN_PAGES.get(workload, 0.0))) + (64 << 20)
    if need > available_bytes():
        raise SeriesError(f"{procs} processes x {pages} pages need about {need >> 20} MiB, and "
                          f"{available_bytes() >> 20} MiB are free: lower --procs or --pages")
    names = list(names)
    for name in names:
        kernels.get(name)
    rows: list[Record] = []
    for name in names:
        each(name)
        bench = Bench(name, procs, pages, machine)
        WORKLOADS[workload](bench)
        rows.append({"kernel": name, "workload": workload, "procs": procs, "pages": pages, **bench.row()})
    return rows


__all__ = ["SeriesError", "measure"]
