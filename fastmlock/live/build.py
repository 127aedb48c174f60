"""Compiles the worker, a C program without a C library, at need.

It is C and not Python since a Python process faults pages in as it likes, each of which takes a place in a per-cpu
batch that the scenario is about.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.resources import files

from . import layout
from .errors import LiveError

FLAGS = ("-O2", "-static-pie", "-fPIE", "-nostdlib", "-ffreestanding", "-fvisibility=hidden", "-fno-jump-tables",
         "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none",
         "-fno-tree-loop-distribute-patterns", f"-DIMAGE={layout.IMAGE:#x}L", f"-DCODE_PAGES={layout.CODE_PAGES}",
         f"-DIMAGE_PAGES={layout.IMAGE_PAGES}", f"-DHEAP={layout.HEAP:#x}L")


@cache
def worker_fd() -> int:
    """A descriptor of the compiled worker, in memory only. Raises `LiveError` where it cannot be made."""
    compiler = shutil.which(os.environ.get("CC") or "gcc") or shutil.which("cc")
    if compiler is None:
        raise LiveError("no C compiler here: the worker processes are compiled with gcc")
    source = files(__package__).joinpath("worker.c").read_bytes()
    with tempfile.TemporaryDirectory(prefix="fastmlock-") as folder:
        out = os.path.join(folder, "worker")
        done = subprocess.run([compiler, *FLAGS, "-o", out, "-x", "c", "-"], input=source, capture_output=True)
        if done.returncode:
            lines = done.stderr.decode(errors="replace").splitlines()
            first = next((line for line in lines if "error" in line), "it fails without a message")
            raise LiveError(f"{compiler} cannot compile the worker: {first}")
        with open(out, "rb") as stream:
            program = stream.read()
    fd = os.memfd_create("fastmlock-worker")
    os.write(fd, program)
    return fd
