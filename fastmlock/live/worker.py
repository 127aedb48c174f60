"""One worker process (worker.c) as the parent sees it: requests, answers, its end."""
from __future__ import annotations

import array
import ctypes
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from . import layout
from .build import worker_fd
from .errors import LiveError

OP_SYSCALL, OP_TOUCH, OP_FORK = range(3)
_REQUEST, _REPLY = struct.Struct("=10q"), struct.Struct("=2q")
_MASK, _SIGN = 2**64 - 1, 2**63
SECONDS_TO_END = 30.0
SYS_EXECVEAT, _AT_EMPTY_PATH = 322, 0x1000


_ADDR_NO_RANDOMIZE, _QUERY = 0x0040000, 0xFFFFFFFF
_libc = ctypes.CDLL(None)


@contextmanager
def _addresses_not_randomised() -> Iterator[None]:
    """What mremap moves to an address of the kernel's choice lies alike in every run, and in the model: it decides
    which pages a fault maps around it."""
    before = _libc.personality(_QUERY)
    _libc.personality(before | _ADDR_NO_RANDOMIZE)
    try:
        yield
    finally:
        _libc.personality(before)


class WorkerGone(Exception):
    """The process is no more: killed by the kernel or by somebody."""


class Worker:
    """A process that does what it is told. `pid` is the real one."""

    def __init__(self, pid: int, channel: socket.socket, *, child: bool) -> None:
        self.pid, self.channel, self.child = pid, channel, child
        self.pidfd = os.pidfd_open(pid)
        self.poll = select.poll()
        self.poll.register(channel, select.POLLIN)
        self.poll.register(self.pidfd, select.POLLIN)

    @classmethod
    def start(cls) -> Worker:
        """A fresh process by posix_spawn(), in a process group of its own so that Ctrl-C is not for it."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with _addresses_not_randomised():
                pid = os.posix_spawn(f"/proc/self/fd/{worker_fd()}", ["fastmlock-worker"], {}, setpgroup=0,
                                     file_actions=[(os.POSIX_SPAWN_DUP2, there.fileno(), 3)])
        except OSError as error:
            here.close()
            raise LiveError(f"a worker process cannot be started: {error.strerror}") from None
        finally:
            there.close()
        return cls(pid, here, child=True)

    def fork(self) -> Worker:
        """The process forks. Parent and then child have written their data pages when this returns."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there:
            pid, _, _ = self.request(OP_FORK, 0, (), fd=there.fileno())
        if pid < 0:
            here.close()
            raise OSError(-pid, os.strerror(-pid))
        child = Worker(pid, here, child=False)
        child.request(OP_TOUCH, 0, (0, 0, 0))
        return child

    def exec(self) -> None:
        """The process executes the worker anew. Its own memory is laid out when this returns."""
        argv = layout.DATA + 16
        data = struct.pack("=16s3q", b"", layout.DATA, 0, 0)
        self._send(OP_SYSCALL, SYS_EXECVEAT, (0, layout.DATA, argv, argv + 8, _AT_EMPTY_PATH), data=data,
                   fd=worker_fd(), fd_arg=0)
        ret, _, _ = self.request(OP_TOUCH, 0, (0, 0, 0))
        if ret < 0:
            raise OSError(-ret, os.strerror(-ret))

    def request(self, op: int, number: int, args: tuple[int, ...], *, data: bytes = b"", fd: int | None = None,
                fd_arg: int = 4, answer: int = 0) -> tuple[int, int, bytes]:
        """-> value (negative errno on failure), signal, `answer` bytes of the data page. Raises `WorkerGone`."""
        self._send(op, number, args, data=data, fd=fd, fd_arg=fd_arg, answer=answer)
        ready = dict(self.poll.poll())
        if not ready.get(self.channel.fileno(), 0) & select.POLLIN:
            raise WorkerGone
        reply = self.channel.recv(_REPLY.size + answer)
        if not reply:
            raise WorkerGone
        ret, sig = _REPLY.unpack_from(reply)
        return ret, sig, reply[_REPLY.size:]

    def _send(self, op: int, number: int, args: tuple[int, ...], *, data: bytes = b"", fd: int | None = None,
              fd_arg: int = 4, answer: int = 0) -> None:
        words = [(arg & _MASK ^ _SIGN) - _SIGN for arg in args]
        message = _REQUEST.pack(op, number, *words, *[0] * (6 - len(words)), fd_arg, answer) + data
        rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        try:
            self.channel.sendmsg([message], rights)
        except OSError:
            raise WorkerGone from None

    def ended(self) -> bool:
        return any(fd == self.pidfd for fd, _ in self.poll.poll(0))

    def wait(self) -> None:
        """Until the process has given up its address space; a pidfd tells after exit_mm(). Reaps its own children."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if not poll.poll(SECONDS_TO_END * 1000):
            raise LiveError(f"process {self.pid} does not end")
        self.close()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        if self.pidfd < 0:
            return
        if self.child:
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        self.channel.close()
        self.pidfd = -1
