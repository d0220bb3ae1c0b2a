"""`bioatt simulate`: a low-dose series from a routine one."""

from __future__ import annotations

import argparse

from ..arguments import NOTICE, add_output, add_series, reading
from ..entry import bundle_version


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "simulate",
        help="simulate a low-dose series from a routine one",
        description="Simulate a lower dose: a DICOM series becomes a derived DICOM series, marked as simulated; NIfTI "
        "stays NIfTI. Only the difference in noise is added; docs/simulation.md describes the method.",
        epilog=f"example: bioatt simulate study/series3 study/series3_quarter --dose 0.25\n\n{NOTICE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_series(parser)
    add_output(parser)
    parser.add_argument("--dose", type=float, required=True, metavar="K", help="fraction of the dose, in (0, 1]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default: 0)")
    parser.add_argument(
        "--filter",
        default="hann",
        metavar="NAME",
        help="reconstruction filter, which sets the noise texture: ramp, shepp-logan, cosine, hamming or hann, "
        "optionally with a cut-off as in hann:0.8 (default: hann)",
    )
    parser.add_argument(
        "--photons",
        type=_number_or_auto,
        metavar="N",
        help="photons per ray at the dose of SERIES, or auto, estimated from its noise (default: auto)",
    )
    parser.add_argument(
        "--electronic", type=float, default=1.0, metavar="SD", help="electronic noise in photons (default: 1)"
    )
    parser.add_argument(
        "--tube-current",
        choices=("header",),
        help="header: scale the photons of each slice by its XRayTubeCurrent (default: the same for all slices)",
    )
    parser.add_argument("--views", type=int, default=1000, metavar="N", help="angles over half a turn (default: 1000)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    from ..simulate_series import Simulation, simulate_series

    simulation = Simulation(
        dose_fraction=options.dose,
        filter_name=options.filter,
        photons=options.photons,
        electronic_sd=options.electronic,
        views=options.views,
        by_tube_current=options.tube_current == "header",
        seed=options.seed,
    )
    lines = simulate_series(
        options.input,
        options.output,
        simulation,
        version=bundle_version(),
        **reading(options),
        overwrite=options.overwrite,
        progress=not options.quiet,
    )
    print("\n".join(lines), options.output, sep="\n")


def _number_or_auto(text: str) -> float | None:
    """None for ``auto``."""
    return None if text == "auto" else float(text)
