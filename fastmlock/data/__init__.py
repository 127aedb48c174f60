"""Data shipped with the package: recordings of real kernels, packed by `fastmlock.data.pack`.

`scenarios.tar.xz` holds NAME.txt; `recordings-KERNEL.tar.xz` holds NAME.jsonl as recorded on KERNEL.
One archive a kernel, since a run needs few of them and reads those whole.
"""
