"""The model held against what is known: closed forms, published measurements, the live kernel.

Not tests: a point may miss, and a miss is printed. ``fastmlock verification`` runs all of it.
"""
from fastmlock.verification.point import Comparison, Point, draw, lines, points, verify

__all__ = ["Comparison", "Point", "draw", "lines", "points", "verify"]
