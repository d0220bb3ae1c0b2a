"""The commands of `bioatt`, one module each: its arguments, its words and its work. A new one is one module here.

The parser of every command is built for the help of any, so a module imports what is heavy inside `run`.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from typing import Protocol


class Command(Protocol):
    """A module of this package, named as the command is."""

    def add(self, commands: argparse._SubParsersAction) -> None:
        """Add the command with its arguments and its words."""
        ...

    def run(self, options: argparse.Namespace) -> int | None:
        """Do it; return the exit code, None for 0. Errors of ours become one line and exit code 2."""
        ...


def all_commands() -> list[Command]:
    """The commands, by name."""
    return [
        importlib.import_module(f"{__name__}.{name}")
        for name in sorted(one.name for one in pkgutil.iter_modules(__path__))
    ]
