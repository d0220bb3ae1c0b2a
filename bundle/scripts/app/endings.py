"""How a program ends: what went wrong becomes one line and an exit code. Imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..errors import find_bioatt_error


def exit_code(work: Callable[[], int | None]) -> int:
    """Do `work` and return its exit code (None is 0): 2 for bad input or usage, 130 if it was stopped by hand."""
    try:
        return work() or 0
    except KeyboardInterrupt:
        print("stopped; nothing half-written is left", file=sys.stderr)
        return 130
    except Exception as error:
        ours = find_bioatt_error(error)
        if ours is None:
            raise
        print(f"error: {ours}", file=sys.stderr)
        return 2
