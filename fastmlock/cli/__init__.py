"""The command ``fastmlock``: one module for each subcommand.

A subcommand's module has ``register(commands)``: it adds its parser with ``commands.add_parser(...)``
and names its function with ``set_defaults(command=...)``. The function takes the parsed arguments and
returns the exit status. It imports what is slow to import when it is called, not before.

Exit status: 0 done, 1 something differs, 2 bad input, 3 not supported; 130 interrupted, 141 nobody
reads the output, 70 an error of the program itself.
"""
from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import NoReturn

DONE, DIFFERS, BAD_INPUT, UNSUPPORTED = 0, 1, 2, 3
INTERNAL, INTERRUPTED, BROKEN_PIPE, TERMINATED = 70, 130, 141, 143

SUBCOMMANDS = ("storm", "run", "race", "series", "conformance", "verify", "detect", "fuzz", "kernels", "bench",
               "verification", "calibrate", "snapshot")


class InputError(Exception):
    """What the user asked for cannot be done; str() is the one line that tells why."""


class Parser(argparse.ArgumentParser):
    """Tells errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="fastmlock", description=(
        "A laboratory of how Linux handles mlocked pages, before and after the rework of 2022."))
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in SUBCOMMANDS:
        full = f"{__name__}.{name}"
        try:
            module = import_module(full)
        except ModuleNotFoundError as error:
            if error.name != full:
                raise
            continue
        module.register(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; -> exit status."""
    with _Terminated():
        try:
            status = _run(argv)
        except SystemExit as stop:  # help, a wrong command line, SIGTERM
            status = stop.code if isinstance(stop.code, int) else DONE
        except KeyboardInterrupt:
            status = _tell("fastmlock: interrupted", INTERRUPTED)
        try:
            _flush()
        except BrokenPipeError:
            status = BROKEN_PIPE
        except OSError as error:
            status = _tell(f"fastmlock: standard output: {error.strerror}", BAD_INPUT)
        return status


def _run(argv: Sequence[str] | None) -> int:
    from fastmlock.kernels import UnknownKernel
    from fastmlock.scenario.compare import RecordError
    from fastmlock.scenario.language import ScenarioError
    from fastmlock.scenario.recordings import UnknownRecording
    from fastmlock.scenario.system import NotSupported

    try:
        arguments = parser().parse_args(argv)
        status: int = arguments.command(arguments)
        return status
    except ScenarioError as error:
        return _tell(str(error), BAD_INPUT)
    except (InputError, RecordError, UnknownRecording, UnknownKernel) as error:
        return _tell(f"fastmlock: {error}", BAD_INPUT)
    except NotSupported as error:
        return _tell(str(error), UNSUPPORTED)
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _tell(f"fastmlock: {where}{error.strerror or error}", BAD_INPUT)
    except MemoryError:
        return _tell("fastmlock: not enough memory for this", BAD_INPUT)
    except Exception:
        traceback.print_exc()
        return _tell("fastmlock: an error of the program itself, shown above", INTERNAL)


def _tell(message: str, status: int) -> int:
    print(" ".join(message.splitlines()), file=sys.stderr)
    return status


def _flush() -> None:
    """Writes out what is buffered; where that fails the rest goes nowhere, so that nothing tries again."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


class _Terminated:
    """While in it, SIGTERM ends the program by an exception, so that unfinished files are removed."""

    def __enter__(self) -> None:
        try:
            self.before = signal.signal(signal.SIGTERM, self.end)
        except ValueError:  # not the main thread, which alone may do this
            self.before = None

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    @staticmethod
    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)
