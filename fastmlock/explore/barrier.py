"""The barrier that patch 09 deletes: every execution of two short code orders on a machine with store buffers.

A page is put on its list by one CPU (set PG_lru, read PG_mlocked, choose the list) while another takes PG_mlocked off
(clear PG_mlocked, look at PG_lru). Each looks at what the other writes: if both look too early, the page stays on the
unevictable list although nobody locks it. Three forms of the second CPU are checked:

    >>> for order in ORDERS:
    ...     for barrier in (True, False):
    ...         print(order, "with" if barrier else "without", "bad" if check(order, barrier).bad else "good")
    clear_page_mlock with good
    clear_page_mlock without bad
    munlock_under_lock with good
    munlock_under_lock without good
    lost_ticket with bad
    lost_ticket without bad

The machine is x86-TSO: a first-in first-out store buffer per CPU, loads that look into their own buffer first, atomic
operations with a result and lock acquisitions that wait until the buffer is empty. `set_bit` of PG_lru is a plain
buffered store here, as the kernel's memory model allows (an atomic without a result orders nothing);
`locked_bitops=True` makes it x86's locked instruction, which orders it, so that x86 itself never needed the barrier.
Sources: the specification, section 3, patches 05, 06, 09 and 10.
"""
from __future__ import annotations

from dataclasses import dataclass

Op = tuple[str, ...]

#: to patch 04: clear_page_mlock(), no lock held while the flags are looked at
CLEAR_PAGE_MLOCK: tuple[Op, ...] = (
    ("rmw", "was", "mlocked", "0"), ("load", "seen", "lru"), ("unless", "seen", "end"),
    ("lock",), ("store", "list", "evictable"), ("unlock",))
#: 06 to 09: munlock_page(), all under the lruvec lock
MUNLOCK_UNDER_LOCK: tuple[Op, ...] = (
    ("lock",), ("load", "seen", "lru"), ("rmw", "was", "mlocked", "0"), ("unless", "seen", "out"),
    ("store", "list", "evictable"), ("label", "out"), ("unlock",))
#: from 10: a munlock entry that may lose the PG_lru ticket
LOST_TICKET: tuple[Op, ...] = (
    ("rmw", "seen", "lru", "0"), ("unless", "seen", "lost"),
    ("lock",), ("rmw", "was", "mlocked", "0"), ("store", "list", "evictable"), ("store", "lru", "1"), ("unlock",),
    ("jump", "end"), ("label", "lost"), ("rmw", "was", "mlocked", "0"))

ORDERS: dict[str, tuple[Op, ...]] = {
    "clear_page_mlock": CLEAR_PAGE_MLOCK, "munlock_under_lock": MUNLOCK_UNDER_LOCK, "lost_ticket": LOST_TICKET,
}


def adding(barrier: bool, locked_bitops: bool) -> tuple[Op, ...]:
    """__pagevec_lru_add_fn of one page, with the barrier or without it."""
    return (("lock",), ("rmw", "old", "lru", "1") if locked_bitops else ("store", "lru", "1"),
            *([("mb",)] if barrier else []), ("load", "marked", "mlocked"), ("unless", "marked", "clear"),
            ("store", "list", "unevictable"), ("jump", "out"), ("label", "clear"), ("store", "list", "evictable"),
            ("label", "out"), ("unlock",))


@dataclass(frozen=True)
class Verdict:
    """What all executions of one code order come to."""

    order: str
    barrier: bool
    states: int
    finals: frozenset[tuple[str, str]]
    """(PG_mlocked, list) at the end, over all executions."""
    trace: tuple[str, ...]
    """A shortest execution that strands the page, () if there is none."""

    @property
    def bad(self) -> bool:
        """A page that nobody locks can stay on the unevictable list."""
        return ("0", "unevictable") in self.finals


@dataclass(frozen=True)
class _State:
    at: tuple[int, int]
    memory: tuple[tuple[str, str], ...]
    registers: tuple[tuple[tuple[str, str], ...], ...]
    buffers: tuple[tuple[tuple[str, str], ...], ...]


def check(order: str, barrier: bool, *, locked_bitops: bool = False) -> Verdict:
    """Explores every execution, breadth first. `order` is one of `ORDERS`, else KeyError."""
    programs = (adding(barrier, locked_bitops), ORDERS[order])
    start = _State((0, 0), (("list", ""), ("lock", "0"), ("lru", "0"), ("mlocked", "1")), ((), ()), ((), ()))
    came: dict[_State, tuple[_State, str] | None] = {start: None}
    queue, finals, bad = [start], set(), None
    for state in queue:                       # grows while it is walked
        moved = False
        for step, text in _steps(state, programs):
            moved = True
            if step not in came:
                came[step] = (state, text)
                queue.append(step)
        if not moved:
            memory = dict(state.memory)
            final = memory["mlocked"], memory["list"]
            finals.add(final)
            if bad is None and final == ("0", "unevictable"):
                bad = state
    trace: list[str] = []
    while bad is not None and came[bad] is not None:
        before = came[bad]
        assert before is not None
        bad, text = before
        trace.append(text)
    return Verdict(order, barrier, len(came), frozenset(finals), tuple(reversed(trace)))


def _steps(state: _State, programs: tuple[tuple[Op, ...], ...]) -> list[tuple[_State, str]]:
    """Every next state, with what happened."""
    found = []
    for cpu, program in enumerate(programs):
        buffer = state.buffers[cpu]
        if buffer:
            name, value = buffer[0]
            after = _State(state.at, _put(state.memory, name, value), state.registers,
                           _set(state.buffers, cpu, buffer[1:]))
            found.append((after, f"cpu {cpu}'s {name} = {value} becomes visible"))
        if state.at[cpu] < len(program):
            step = _execute(state, cpu, program)
            if step is not None:
                found.append(step)
    return found


def _execute(state: _State, cpu: int, program: tuple[Op, ...]) -> tuple[_State, str] | None:
    """The CPU's next operation; None while it must wait."""
    kind, *words = program[state.at[cpu]]
    memory, registers, buffer = state.memory, dict(state.registers[cpu]), state.buffers[cpu]
    at = state.at[cpu] + 1
    text = f"cpu {cpu}: {' '.join((kind, *words))}"
    if kind in ("rmw", "lock", "mb") and buffer:
        return None
    if kind == "store":
        buffer = (*buffer, (words[0], words[1]))
    elif kind == "unlock":
        buffer = (*buffer, ("lock", "0"))
    elif kind == "load":
        own = [value for name, value in buffer if name == words[1]]
        registers[words[0]] = own[-1] if own else dict(memory)[words[1]]
        text += f" -> {registers[words[0]]}"
    elif kind == "rmw":
        registers[words[0]] = dict(memory)[words[1]]
        memory = _put(memory, words[1], words[2])
        text += f" (was {registers[words[0]]})"
    elif kind == "lock":
        if dict(memory)["lock"] == "1":
            return None
        memory = _put(memory, "lock", "1")
    elif kind == "jump" or (kind == "unless" and registers[words[0]] == "0"):
        at = len(program) if words[-1] == "end" else program.index(("label", words[-1]))
    ats = (at, state.at[1]) if cpu == 0 else (state.at[0], at)
    return _State(ats, memory, _set(state.registers, cpu, tuple(sorted(registers.items()))),
                  _set(state.buffers, cpu, buffer)), text


_Pairs = tuple[tuple[str, str], ...]


def _put(memory: _Pairs, name: str, value: str) -> _Pairs:
    return tuple((one, value if one == name else old) for one, old in memory)


def _set(both: tuple[_Pairs, ...], cpu: int, value: _Pairs) -> tuple[_Pairs, ...]:
    return tuple(value if i == cpu else old for i, old in enumerate(both))


def report() -> list[str]:
    """All verdicts, as lines."""
    lines = []
    for order in ORDERS:
        for barrier in (True, False):
            one = check(order, barrier)
            lines.append(f"{order:19} {'with' if barrier else 'without':7} the barrier: {one.states:4} states, "
                         f"{'the page can be stranded' if one.bad else 'never stranded'}")
    lines.append("clear_page_mlock without it, a shortest way:")
    lines += [f"    {line}" for line in check("clear_page_mlock", False).trace
              if not any(word in line for word in ("jump", "unless", "label"))]
    return lines
