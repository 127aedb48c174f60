"""Where a command writes: standard output, or a file that appears only when it is complete."""
from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO


@contextmanager
def output(path: str | None) -> Iterator[IO[str]]:
    """A stream to `path`; None and "-" are standard output. Raises OSError before anything else is done.

    A file is written under another name beside its place and renamed at the end; if an exception ends the
    block, what was there before stays. Devices and pipes are written to as they are.
    """
    if path is None or path == "-":
        yield sys.stdout
        return
    place = os.path.realpath(path)
    try:
        plain = stat.S_ISREG(os.stat(place).st_mode)
    except FileNotFoundError:
        plain = True
    if not plain:
        with open(place, "w") as stream:
            yield stream
        return
    folder, name = os.path.split(place)
    unfinished = os.path.join(folder, f".{name}.{os.getpid()}.unfinished")
    try:
        with open(unfinished, "w") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, place)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(unfinished)
        if isinstance(error, OSError) and error.filename == unfinished:
            error.filename = path
        raise
