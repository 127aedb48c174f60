"""``python -m fastmlock``."""
import sys

from fastmlock.cli import main

if __name__ == "__main__":
    sys.exit(main())
