"""Random scenario programs, run on two systems side by side; what differs is shrunk to the smallest program.

`generate` writes programs, `pair` runs one on two systems, `shrink` makes a differing one small, `campaign` does all
of it for many, from a seed.
"""
