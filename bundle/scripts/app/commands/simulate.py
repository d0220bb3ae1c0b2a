"""Simulate a low-dose series from a routine one.

Simulate a lower dose: a DICOM series becomes a derived DICOM series, marked as simulated; NIfTI stays NIfTI. Only the
difference in noise is added; docs/simulation.md describes the method.
"""

from __future__ import annotations

import argparse

from ...provenance import NOT_FOR_DIAGNOSIS, SimulatedDose, bundle_version
from ..arguments import add_output, add_series, number, reading

EPILOG = f"example: bioatt simulate study/series3 study/series3_quarter --dose 0.25\n\n{NOT_FOR_DIAGNOSIS}"


def add(parser: argparse.ArgumentParser) -> None:
    add_series(parser)
    add_output(parser)
    option = parser.add_argument
    option("--dose", type=float, required=True, metavar="K", help="fraction of the dose, in (0, 1]")
    option("--seed", type=int, default=0, metavar="N", help="of the noise (default: 0)")
    option(
        "--filter",
        default="hann",
        metavar="NAME",
        help="reconstruction filter, which sets the noise texture: ramp, shepp-logan, cosine, hamming or hann, "
        "optionally with a cut-off as in hann:0.8 (default: hann)",
    )
    option(
        "--photons",
        type=_number_or_auto,
        metavar="N",
        help="photons per ray at the dose of SERIES (default: auto, from its noise)",
    )
    option("--electronic", type=float, default=1.0, metavar="SD", help="electronic noise in photons (default: 1)")
    option(
        "--tube-current",
        choices=("header",),
        help="header: scale photons by each slice's XRayTubeCurrent (default: alike)",
    )
    option("--views", type=int, default=1000, metavar="N", help="angles over half a turn (default: 1000)")
    option("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    from ..simulate_series import simulate_series

    dose = SimulatedDose(
        version=bundle_version(),
        dose_fraction=options.dose,
        filter_name=options.filter,
        photons=options.photons,
        electronic_sd=options.electronic,
        views=options.views,
        tube_current="XRayTubeCurrent" if options.tube_current == "header" else "",
        seed=options.seed,
    )
    lines = simulate_series(
        options.input, options.output, dose, **reading(options), overwrite=options.overwrite, progress=not options.quiet
    )
    print("\n".join(lines), options.output, sep="\n")


def _number_or_auto(text: str) -> float | None:
    """None for ``auto``."""
    return None if text == "auto" else number(float, "a number above 0, or auto", lambda found: found > 0)(text)
