"""The i_mmap tree against a plain list: order, answers and visit counts of the literal walk."""
from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fastmlock import kernels
from fastmlock.probe import IntervalTree
from fastmlock.state.world import WorldHandle

PAGES = 12
operation = st.one_of(
    st.tuples(st.just("insert"), st.integers(0, PAGES), st.integers(0, PAGES), st.booleans()),
    st.tuples(st.just("after"), st.integers(0, 60), st.integers(0, PAGES), st.booleans()),
    st.tuples(st.just("remove"), st.integers(0, 60)),
    st.tuples(st.just("lock"), st.integers(0, 60), st.booleans()),
)


class PlainList:
    """VMAs in walk order: by start, equals in insertion order, a fork's child right behind its parent."""

    def __init__(self) -> None:
        self.vmas: list[list] = []              # [first, last, locked, number]

    def insert(self, vma: list) -> None:
        at = next((i for i, other in enumerate(self.vmas) if other[0] > vma[0]), len(self.vmas))
        self.vmas.insert(at, vma)

    def next(self, after: int, index: int, locked: bool) -> tuple[int, int]:
        start = 1 + next((i for i, v in enumerate(self.vmas) if v[3] == after), -1)
        visits = 0
        for first, last, is_locked, number in self.vmas[start:]:
            if first <= index <= last:
                visits += 1
                if is_locked or not locked:
                    return number, visits
        return 0, visits


@settings(max_examples=300, deadline=None)
@given(st.lists(operation, max_size=50))
def test_walk_equals_the_literal_one(operations: list[tuple]) -> None:
    tree, plain = IntervalTree(WorldHandle(kernels.get("5.17-rc2"))), PlainList()
    for op, *args in operations:
        if op == "insert":
            first, length, locked = args
            plain.insert([first, first + length, locked, tree.insert(first, first + length, locked)])
        elif plain.vmas:
            at = args[0] % len(plain.vmas)
            vma = plain.vmas[at]
            if op == "after":
                number = tree.insert(vma[0], vma[0] + args[1], args[2], vma[3])
                plain.vmas.insert(at + 1, [vma[0], vma[0] + args[1], args[2], number])
            elif op == "remove":
                tree.remove(vma[3])
                del plain.vmas[at]
            else:
                vma[2] = args[1]
                tree.lock(vma[3], args[1])
    for index in range(2 * PAGES + 1):
        for locked in (False, True):
            for after in [0, *(vma[3] for vma in plain.vmas)]:
                assert tree.next(after, index, locked) == plain.next(after, index, locked)


def test_thousands_of_unlocked_equals_in_front() -> None:
    tree = IntervalTree(WorldHandle(kernels.get("5.17-rc2")))
    for _ in range(3000):
        tree.insert(0, 99, False)
    last = tree.insert(0, 99, True)
    assert tree.next(0, 50, True) == (last, 3001)
    tree.lock(last, False)
    assert tree.next(0, 50, True) == (0, 3001)
