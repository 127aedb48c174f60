"""Storms that a command runs: each in a thread, one bar for all."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

from . import InputError


def run_all(jobs: Sequence[tuple[Any, str]], threads: int, kept: Sequence[Any] = (),
            profilers: Sequence[Any] = ()) -> list[Any]:
    """The results of the jobs (storm, kernel) in their order; each simulation is one thread, and the bar shows how much
    of all is done. When interrupted, the simulations stop at their next report of progress. `kept` are the jobs'
    checkpoints, if they have any."""
    from tqdm import tqdm

    from fastmlock.studies.checkpoint import CheckpointError
    from fastmlock.studies.storm import run

    stop = Event()
    shares = [0.0] * len(jobs)
    weights = [storm.procs * storm.pages for storm, _ in jobs]
    with tqdm(total=100, unit="%", disable=not sys.stderr.isatty(), leave=False,
              bar_format="{desc}: {percentage:3.0f} % |{bar}| {elapsed}<{remaining}") as bar:
        def one(index: int) -> Any:
            def progress(what: str, share: float) -> None:
                if stop.is_set():
                    raise KeyboardInterrupt
                shares[index] = 0.3 * share if "locking" in what else 0.3 + 0.7 * share
                bar.set_description_str(what, refresh=False)
                bar.n = 100 * sum(a * b for a, b in zip(shares, weights)) / sum(weights)
                bar.update(0)
            return run(*jobs[index], progress, kept[index] if kept else None, profilers[index] if profilers else None)

        with ThreadPoolExecutor(threads) as pool:
            futures = [pool.submit(one, index) for index in range(len(jobs))]
            try:
                return [future.result() for future in futures]
            except BaseException as error:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                if isinstance(error, CheckpointError):
                    raise InputError(str(error)) from None
                raise
