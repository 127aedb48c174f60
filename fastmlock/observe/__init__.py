"""What a simulated machine shows in /proc, in the kernel's own formats: text, and words of binary files.

Only what the model holds is shown; fields of other subsystems are left out rather than made up.
"""
from .proc import meminfo, smaps, status, vmstat
from .pages import kpagecount, kpageflags, pagemap

__all__ = ["kpagecount", "kpageflags", "meminfo", "pagemap", "smaps", "status", "vmstat"]
