"""Python processes that find the modules that this one finds."""

from __future__ import annotations

import os
import sys


def environment(**changes: str) -> dict[str, str]:
    """Their variables: those of this process with some changes."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **changes}
