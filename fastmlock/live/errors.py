"""What can be wrong with the machine."""
from __future__ import annotations


class LiveError(Exception):
    """The running kernel cannot be used; str() is one line that says why."""
