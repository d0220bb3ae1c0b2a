"""Simulate a small low-dose series and denoise it.

Simulate a small low-dose DICOM series of a phantom, denoise it, and print the quality before and after. OUT then
contains the DICOM series low_dose, truth and denoised, and demo.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...provenance import NOT_FOR_DIAGNOSIS

EPILOG = NOT_FOR_DIAGNOSIS


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", metavar="OUT", help="folder to create; an earlier demo in it is replaced")


def run(options: argparse.Namespace) -> None:
    from ..demo import run_demo

    run_demo(Path(options.output))
