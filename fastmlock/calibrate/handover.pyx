# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""A compiled probe: what an atomic costs on a line one owns, what handing a lock to another CPU does, and what fetching
a row of lines from it does, which is less a line because they are under way together."""
from libc.stdint cimport int64_t

import os
from threading import Thread

cdef extern from "handover.h" nogil:
    ctypedef struct handover_line:
        pass
    int64_t handover_alone(handover_line *line, int64_t rounds)
    int64_t handover_turns(handover_line *line, int side, int64_t rounds, int64_t limit_ns)
    ctypedef struct handover_row:
        pass
    int64_t handover_rows(handover_row *lines, int side, int64_t rounds, int64_t limit_ns)
    int64_t handover_row_alone(handover_row *lines, int64_t rounds)
    enum: HANDOVER_ROW


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


cdef class Row:
    """A row of lines, as struct pages are, that goes to and fro as a whole."""
    cdef handover_row lines

    def alone(self, int64_t rounds):
        cdef int64_t ns
        with nogil:
            ns = handover_row_alone(&self.lines, rounds)
        return ns

    def turns(self, int side, int64_t rounds, int64_t limit_ns):
        cdef int64_t ns
        with nogil:
            ns = handover_rows(&self.lines, side, rounds, limit_ns)
        return ns


def both(lines, int a, int b, int64_t rounds, double limit_s):
    """What `turns` of the lines answers on CPUs a and b at once; None if one of them had no answer in time."""
    took = {}

    def side(int number, int cpu):
        try:
            os.sched_setaffinity(0, {cpu})          # of this thread
            took[number] = lines.turns(number, rounds, <int64_t> (limit_s * 1e9))
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
    return None if min(took.values()) < 0 else list(took.values())


def uncontended_ns(int64_t rounds=200_000):
    """ns of one compare-exchange and one store on a line that this CPU owns."""
    return Line().alone(rounds) / rounds


def hand_over_ns(int a, int b, int64_t rounds=20_000, double limit_s=1.0):
    """One-way time of a line between CPUs `a` and `b`, by compare-exchange in turns, ns; None if one of them gave no
    answer within `limit_s`. Raises OSError for a CPU that this process may not use."""
    took = both(Line(), a, b, rounds, limit_s)
    return None if took is None else max(took) / (2 * rounds)


def own_row_ns(int64_t rounds=50):
    """ns a line of an atomic on each line of a row that this CPU owns."""
    return Row().alone(rounds) / <double> HANDOVER_ROW


def row_ns(int a, int b, int64_t rounds=50, double limit_s=1.0):
    """ns a line of an atomic on each line of a row that another CPU owns; None without an answer in time. Raises
    OSError."""
    took = both(Row(), a, b, rounds, limit_s)
    return None if took is None else min(took) / <double> HANDOVER_ROW
