"""fastmlock: how Linux handles mlocked pages, before and after the rework of 5.18, in a compiled laboratory."""
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fastmlock")
except PackageNotFoundError:            # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["System", "__version__"]


def __getattr__(name: str) -> object:
    if name == "System":                # compiled, and with it NumPy: loaded when first wanted
        from fastmlock.system import System
        return System
    raise AttributeError(f"module 'fastmlock' has no attribute {name!r}")
