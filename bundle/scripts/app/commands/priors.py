"""Write the prior of each slice to a CSV table.

Write the prior of each axial slice to a CSV table that --prior table:FILE reads.
"""

from __future__ import annotations

import argparse

from ...device import find_device
from ...progress import bar
from ...staging import check_output_file
from ..arguments import add_input, given, priors_in_words, reading

#: Where no prior is named; a table has no weights whose recipe could name one.
DEFAULT = "compact"
EPILOG = priors_in_words(DEFAULT)


def add(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    option = parser.add_argument
    option(
        "--prior-preparation",
        dest="preparation",
        choices=("window", "minmax"),
        help="of a slice for the prior model: a HU window, or min-max scaled as in the paper",
    )
    option("--prior-window", dest="window_hu", nargs=2, type=float, metavar=("LOWER", "UPPER"), help="that HU window")
    option("output", metavar="TABLE.csv", help="the table to write")
    option("--overwrite", action="store_true", help="replace the table")


def run(options: argparse.Namespace) -> None:
    import torch

    from ...priors import TablePrior, make_prior, write_prior_table
    from ...volumes import find_inputs, radiological_slices
    from ...volumes.reader import slice_keys_from_meta

    target = check_output_file(options.output, options.overwrite, TablePrior, "a table of priors")
    inputs = find_inputs(options.input)
    device = find_device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    source = make_prior(options.prior or DEFAULT, **given(options, "preparation", "window_hu"), device=device)
    rows = []
    for path in inputs:
        volume = radiological_slices(path, **reading(options), progress=True)
        keys = slice_keys_from_meta(volume.meta, len(volume))
        with bar(len(volume), "priors") as advance:
            for i, key in enumerate(keys):  # one at a time, as inference on a CPU: batches differ in the last digits
                rows.append((key, source(torch.from_numpy(volume[i])[None], [key])[0]))
                advance(1)
    write_prior_table(target, rows, source)
    print(f"{len(rows)} slices, prior {source.model}: {target}")
