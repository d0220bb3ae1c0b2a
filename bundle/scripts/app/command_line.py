"""The `bioatt` command: parses, then runs the command's module. Imports nothing heavy before it must."""

from __future__ import annotations

import argparse
import difflib
import logging.config
from collections.abc import Sequence

from ..former_keys import FORMER_OPTIONS
from ..provenance import NOT_FOR_DIAGNOSIS, bundle_version
from .commands import add_commands
from .entry import BUNDLE_ROOT, bundle_module


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="bioatt",
        description="Denoise low-dose CT with an anatomical prior (BioAtt, a MONAI bundle).",
        epilog=f"Exit codes: 0 done, 1 some series of several failed, 2 input or usage. {NOT_FOR_DIAGNOSIS}",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {bundle_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_commands(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = parse(arguments)
    return bundle_module("errors").exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> int | None:
    """Load and run the command; what it loads takes seconds, in which it can be stopped as well."""
    command = bundle_module(f"app.commands.{options.command}")
    if options.command != "serve":  # a node must be up again soon after a stop: its worker loads the rest
        _prepare()
    return command.run(options)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command; an option that it does not have ends the program, with the one that may be meant."""
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        named = f"{parser.prog} {options.command}"
        (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
        has = commands.choices[options.command]._option_string_actions
        wrong = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
        gone = FORMER_OPTIONS.get(f"{options.command} {wrong}", FORMER_OPTIONS.get(wrong))
        if gone:
            parser.exit(2, f"error: {wrong} is gone: {gone}\n")
        near = difflib.get_close_matches(wrong, has, 1, 0.7) if wrong else []
        what = f"has no option {wrong}" if wrong else f"does not take {' '.join(unknown)}"
        meant = f"; did you mean {near[0]}?" if near else ";"
        parser.exit(2, f"error: {named} {what}{meant} see {named} --help\n")
    return options


def _prepare() -> None:
    """What all workflows of this process share: the log, quiet libraries, and memory that is used again."""
    logging.config.fileConfig(BUNDLE_ROOT / "configs" / "logging.conf", disable_existing_loggers=False)
    bundle_module("workflow").quiet_libraries()
    bundle_module("device").keep_freed_memory()


if __name__ == "__main__":
    raise SystemExit(main())
