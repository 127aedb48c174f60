# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""A compiled probe: what an atomic costs on a line one owns, and what handing a lock to another CPU does."""
from libc.stdint cimport int64_t
from libc.string cimport memset

import os
from threading import Thread

cdef extern from "handover.h" nogil:
    ctypedef struct handover_line:
        pass
    int64_t handover_alone(handover_line *line, int64_t rounds)
    int64_t handover_turns(handover_line *line, int side, int64_t rounds, int64_t limit_ns)


cdef class Line:
    """The cache lines that the two sides share."""
    cdef handover_line line

    def alone(self, int64_t rounds):
        cdef int64_t ns
        with nogil:
            ns = handover_alone(&self.line, rounds)
        return ns

    def turns(self, int side, int64_t rounds, int64_t limit_ns):
        cdef int64_t ns
        with nogil:
            ns = handover_turns(&self.line, side, rounds, limit_ns)
        return ns

    def clear(self):
        memset(&self.line, 0, sizeof(self.line))


def uncontended_ns(int64_t rounds=200_000):
    """ns of one compare-exchange and one store on a line that this CPU owns."""
    return Line().alone(rounds) / rounds


def hand_over_ns(int a, int b, int64_t rounds=20_000, double limit_s=1.0):
    """One-way time of a line between CPUs `a` and `b`, by compare-exchange in turns, ns; None if one of them gave no
    answer within `limit_s`. Raises OSError for a CPU that this process may not use."""
    line = Line()
    line.clear()
    took = {}

    def side(int number, int cpu):
        try:
            os.sched_setaffinity(0, {cpu})          # of this thread
            took[number] = line.turns(number, rounds, <int64_t> (limit_s * 1e9))
        except OSError as error:
            took[number] = error

    threads = [Thread(target=side, args=(number, cpu)) for number, cpu in ((0, a), (1, b))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in took.values():
        if isinstance(answer, OSError):
            raise answer
    return None if min(took.values()) < 0 else max(took.values()) / (2 * rounds)
