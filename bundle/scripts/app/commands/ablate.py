"""Train and compare networks and priors on the same data.

Train and evaluate every arm of a study (networks and priors), with every seed and every patient left out in turn, on
the same data and budget, and write one table and one plot. Finished runs are kept: run the command again to continue.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..arguments import add_data_set, add_settings, read_settings


def add(parser: argparse.ArgumentParser) -> None:
    add_data_set(parser)
    option = parser.add_argument
    option("output", metavar="OUT", help="folder for runs, table and plot")
    option(
        "--study",
        default="priors",
        metavar="STUDY",
        help="priors or paper (configs/study_NAME.json), or a JSON file like it (default: priors)",
    )
    option("--seeds", type=int, default=3, metavar="N", help="trainings of each arm (default: 3)")
    option("--leave-out", nargs="+", default=[], metavar="PATIENT", help="test on each of these in turn (default: all)")
    add_settings(parser)


def run(options: argparse.Namespace) -> None:
    from ...ablation.run import read_matrix, run_ablation

    matrix = read_matrix(options.study, read_settings(options.set))
    run_ablation(options.data, Path(options.output), matrix, seeds=options.seeds, left_out=options.leave_out)
