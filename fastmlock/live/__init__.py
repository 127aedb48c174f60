"""The kernel that the user sits on, as a system that scenarios can be run on, and what is made of that.

`Machine` is the right to use it, `LiveSystem` one run on it; `verify` holds a model against it; `detect` tells by
behaviour how any system, real or modelled, handles mlocked pages.
"""
from .errors import LiveError
from .machine import Machine
from .system import LiveSystem

__all__ = ["LiveError", "LiveSystem", "Machine"]
