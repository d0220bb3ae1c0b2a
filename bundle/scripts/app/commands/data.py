"""List what a data set holds for training, patient by patient.

List the studies of DATA: layout, slices, thickness, body region, which doses there are, and what was refused and why.
Patients are named by pseudonym. docs/data.md shows the layouts.
"""

from __future__ import annotations

import argparse

from ..arguments import add_data_set


def add(parser: argparse.ArgumentParser) -> None:
    add_data_set(parser)
    parser.add_argument("--key", metavar="FILE", help="write which pseudonym is which folder to this JSON file")


def run(options: argparse.Namespace) -> None:
    from ...training.studies import describe, find_studies, write_key

    found = find_studies(options.data)
    if options.key:
        write_key(options.key, found)
    print(describe(found))
