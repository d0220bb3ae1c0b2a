"""The commands of `bioatt`, one module each: its arguments, its words and its work. A new one is one module here.

The parser of every command is built for the help of any, so a module imports what is heavy inside `run`.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from typing import Protocol


class Command(Protocol):
    """A module of this package, named as the command is.

    Its docstring is the command's help: a line that tells it in short, and a paragraph that describes it. What
    follows the options stands in its ``EPILOG``, if it has one.
    """

    def add(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        ...

    def run(self, options: argparse.Namespace) -> int | None:
        """Do it; return the exit code, None for 0. Errors of ours become one line and exit code 2."""
        ...


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the parser of every command, with its words and its arguments."""
    for name in sorted(one.name for one in pkgutil.iter_modules(__path__)):
        command: Command = importlib.import_module(f"{__name__}.{name}")
        short, _, description = (command.__doc__ or "").partition("\n\n")
        epilog = getattr(command, "EPILOG", None)
        parser = commands.add_parser(
            name,
            help=short[:1].lower() + short[1:].rstrip("."),
            description=" ".join(description.split()),
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter if "\n" in (epilog or "") else argparse.HelpFormatter,
        )
        command.add(parser)
