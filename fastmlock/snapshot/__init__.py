"""A running machine's mlocked files, as /proc shows them, and the storms that their lockers' exit would be.

    snapshot = read()                   # or load("box.json")
    for part in parts(snapshot, leaving={4711}):
        print(part.file.path, run(part.storm, "5.17-rc2").last_exit_ns, run(part.storm, "5.18").last_exit_ns)
"""
from .predict import Part, parts
from .record import File, Mapping, Process, Snapshot, SnapshotError, load, save
from .take import read

__all__ = ["File", "Mapping", "Part", "Process", "Snapshot", "SnapshotError", "load", "parts", "read", "save"]
