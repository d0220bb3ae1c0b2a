"""A kind of input for the test of the fuzz run itself: some are wrong, and some end the process."""

from __future__ import annotations

import os


def seeds(folder):
    """One."""
    return [("one", b"")]


def mutate(content, rng):
    """A number from 0 to 9."""
    return str(rng.integers(10)).encode()


def examine(content, scratch):
    """0 ends the process, 1 is wrong."""
    if content == b"0":
        os._exit(3)
    return "right", "wrong" if content == b"1" else ""
