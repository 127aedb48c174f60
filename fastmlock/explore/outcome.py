"""What a search found."""
from __future__ import annotations

from dataclasses import dataclass


class SearchLimit(ValueError):
    """The race is too large to search; the text is one line and says how to make it smaller."""


@dataclass(frozen=True, slots=True)
class Found:
    """One final state of a race, batches drained, and an order that leads to it with the fewest switches."""

    number: int
    order: tuple[int, ...]
    """The party that takes each step."""
    switches: int
    """How often the order goes over from one party to another."""
    states: int
    """Different states of the whole machine that cannot be told apart from outside."""
