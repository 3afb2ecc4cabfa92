"""``python -m bitinfer`` is ``bitinfer``."""

import sys

from bitinfer.cli import main

if __name__ == "__main__":
    sys.exit(main())
