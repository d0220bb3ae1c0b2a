"""The commands of `bioatt`, one module each, named as the command is. A new one is one module here.

The docstring of a module is the command's help: a line that sums it up, and a paragraph that describes it; what
follows the options stands in its ``EPILOG``, if it has one. ``add(parser)`` adds the arguments. ``run(options)`` does
it and returns the exit code, None for 0; errors of ours become one line and exit code 2.

The parser of every command is built for the help of any, so a module imports what is heavy inside `run`.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the parser of every command, with its words and its arguments."""
    for name in sorted(one.name for one in pkgutil.iter_modules(__path__)):
        command = importlib.import_module(f"{__name__}.{name}")
        short, _, description = (command.__doc__ or "").partition("\n\n")
        epilog = getattr(command, "EPILOG", "")
        parser = commands.add_parser(
            name,
            help=short[:1].lower() + short[1:].strip(" \n."),
            description=" ".join(description.split()),
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter if "\n" in epilog else argparse.HelpFormatter,
        )
        command.add(parser)
