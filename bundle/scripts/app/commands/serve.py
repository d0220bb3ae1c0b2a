"""Run a DICOM node: receive CT by C-STORE, send derived series.

Receive CT series by C-STORE, denoise each as `bioatt denoise` does, and send the derived series to another node. What
was acknowledged is on disk, and is processed even after a restart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import BioAttError
from ...provenance import NOT_FOR_DIAGNOSIS
from ..arguments import given, number, read_settings

_COUNT = number(int, "a whole number from 1", lambda found: found >= 1)
_POSITIVE = number(float, "a number above 0 and below 1e9", lambda found: 0 < found < 1e9)
_MIN_FREE = number(float, "a number from 0, below 1e9", lambda found: 0 <= found < 1e9)

EPILOG = f"example: bioatt serve --ae-title BIOATT --send-to PACS@192.0.2.1:104\n\n{NOT_FOR_DIAGNOSIS}"


def add(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--send-to", metavar="AE@HOST:PORT", help="where derived series go")
    option("--port", type=int, default=11112, metavar="N", help="to listen on (default: 11112)")
    option("--host", type=_address, default="127.0.0.1", help="address to listen on (default: this machine only)")
    option("--ae-title", default="BIOATT", metavar="AE", help="of this node (default: BIOATT)")
    option("--accept", nargs="+", default=[], metavar="AE", help="AE titles that may call (default: that of --send-to)")
    option(
        "--queue", default="bioatt-queue", metavar="DIR", help="folder for series in progress (default: bioatt-queue)"
    )
    option("--rules", metavar="FILE", help="JSON: which series, and how (default: all original CT)")
    option("--set", nargs="+", default=[], metavar="KEY=VALUE", help="config keys of inference.json, for all series")
    _add_completeness(parser)
    _add_limits(parser)
    _add_tls(parser)
    option("--status", action="store_true", help="show what is in the queue, and exit")
    option("--retry-failed", action="store_true", help="retry what failed, and exit")


def run(options: argparse.Namespace) -> int:
    if options.status or options.retry_failed:  # 1 if something failed or no node runs
        from ..node.status import describe

        lines, well = describe(Path(options.queue), retry_failed=options.retry_failed)
        print("\n".join(lines))
        return 0 if well else 1
    from ..node.node import serve

    serve(_node_options(options))
    return 0


def _add_completeness(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "--quiet-time",
        type=_POSITIVE,
        default=30.0,
        metavar="S",
        help="a series is complete S s after its last image (default: 30)",
    )
    option("--at-release", action="store_true", help="a series is complete when its association ends")
    option(
        "--patience",
        type=_POSITIVE,
        default=300.0,
        metavar="S",
        help="after an aborted association, wait S seconds for the sender to try again (default: 300)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--max-associations", type=_COUNT, default=10, metavar="N", help="associations at a time (default: 10)")
    option("--max-object", type=_POSITIVE, default=1024, metavar="MB", help="largest image (default: 1024)")
    option(
        "--min-free", type=_MIN_FREE, default=2.0, metavar="GB", help="refuse images if less disk is free (default: 2)"
    )
    option("--tries", type=_COUNT, default=3, metavar="N", help="attempts for each series (default: 3)")
    option("--max-minutes", type=_POSITIVE, default=60.0, metavar="N", help="time limit for each series (default: 60)")
    option(
        "--send-hours",
        type=_POSITIVE,
        default=72.0,
        metavar="N",
        help="stop trying to send after N hours (default: 72)",
    )


def _add_tls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tls", nargs=3, metavar=("CERT", "KEY", "CA"), help="PEM files: callers need a certificate of CA"
    )
    parser.add_argument("--send-tls", action="store_true", help="also send by TLS, with the same files")


def _address(text: str) -> str:
    if not text.strip():  # e.g. a variable that is not set; it would be all addresses
        raise argparse.ArgumentTypeError("is empty; name an address, 0.0.0.0 for all")
    return text


def _node_options(options: argparse.Namespace) -> object:
    from ..node.node import NodeOptions, Retries
    from ..node.receiver import Limits
    from ..node.rules import read_rules
    from ..node.sender import Destination
    from ..node.storage import Completeness
    from ..node.tls import Tls

    if not options.send_to:
        raise BioAttError("--send-to is missing; say where derived series go, AE@HOST:PORT")
    if options.send_tls and not options.tls:
        raise BioAttError("--send-tls needs certificates; give them with --tls CERT KEY CA")
    return NodeOptions(
        queue=Path(options.queue),
        destination=Destination.parse(options.send_to),
        **given(options, "ae_title", "host", "port", "send_tls"),
        calling_ae_titles=options.accept,
        complete=Completeness(quiet_s=options.quiet_time, at_release=options.at_release, patience_s=options.patience),
        rules=read_rules(Path(options.rules) if options.rules else None),
        settings=read_settings(options.set),
        limits=Limits(
            associations=options.max_associations,
            object_bytes=int(options.max_object * (1 << 20)),
            free_bytes=int(options.min_free * 1e9),
            idle_s=max(60.0, 2 * options.quiet_time),
        ),
        retries=Retries(denoise=options.tries, send_s=options.send_hours * 3600, job_s=options.max_minutes * 60),
        tls=Tls(*map(Path, options.tls)) if options.tls else None,
    )
