"""The live kernel's cost per page, after ``fastmlock calibrate`` has measured other operations of it."""
from __future__ import annotations

from fastmlock.verification.point import Point


def point(quick: bool) -> Point:
    return Point(name="live", title="Cost per page on this machine's kernel", factor=1.25, comparisons=[],
                 source="this machine", skipped="calibrate has not been run")


POINTS = {"live": point}
