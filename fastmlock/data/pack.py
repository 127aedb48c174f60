"""Packs a folder of scenarios and recordings into the archives that the package ships.

    python -m fastmlock.data.pack ORACLE [DESTINATION [SUBJECT]]

ORACLE holds scenarios/NAME.txt and results/KERNEL/NAME.jsonl. With SUBJECT they are a set of the project's own, beside
the given recordings. The same input gives the same bytes.
"""
from __future__ import annotations

import io
import lzma
import os
import sys
import tarfile
from pathlib import Path


def archive(files: list[Path]) -> bytes:
    """The files as .tar.xz, by name, without times, owners or modes of their own."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file in sorted(files, key=lambda file: file.name):
            data = file.read_bytes()
            info = tarfile.TarInfo(file.name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    return lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def pack(oracle: Path, destination: Path, subject: str = "") -> list[Path]:
    """Writes all archives; -> their paths. Raises OSError, and ValueError where there is nothing."""
    own = f"own-{subject}-" if subject else ""
    sources = {f"{own}scenarios": sorted((oracle / "scenarios").glob("*.txt"))}
    for kernel in sorted((oracle / "results").iterdir()):
        sources[f"{own or 'recordings-'}{kernel.name}"] = sorted(kernel.glob("*.jsonl"))
    written = []
    for name, files in sources.items():
        if not files:
            raise ValueError(f"nothing for {name} in {oracle}")
        path = destination / f"{name}.tar.xz"
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(archive(files))
        os.replace(unfinished, path)
        written.append(path)
    return written


def main(argv: list[str]) -> int:
    if len(argv) not in (1, 2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    destination = Path(argv[1]) if len(argv) > 1 else Path(__file__).parent
    try:
        written = pack(Path(argv[0]), destination, *argv[2:])
    except (OSError, ValueError) as error:
        print(f"pack: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(f"{path.stat().st_size:8} {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
