"""`bioatt ablate`: networks, priors, seeds and patients left out, in one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..arguments import PRIORS, add_data_set, add_settings, read_settings


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "ablate",
        help="train and compare networks and priors on the same data",
        description="Train and evaluate every combination of networks, priors, seeds and patients left out, with the "
        "same data and budget, and write one table and one plot. Finished runs are kept: start it again to go on.",
        epilog=PRIORS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_set(parser)
    parser.add_argument("output", metavar="OUT", help="folder for runs, table and plot")
    parser.add_argument(
        "--networks",
        default="redcnn,channel,spatial,bioatt",
        metavar="N,N",
        help="what fills the attention slots: redcnn (nothing), channel, spatial, bioatt (prior); default: all",
    )
    parser.add_argument("--priors", default="compact,uniform,random:0", metavar="P,P", help="of bioatt, see below")
    parser.add_argument(
        "--study",
        metavar="NAME",
        help="arms and budget of configs/study_NAME.json in place of --networks and --priors, e.g. priors",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="trainings of each kind (default: 3)")
    parser.add_argument(
        "--leave-out", nargs="+", default=[], metavar="PATIENT", help="test on each of these in turn (default: all)"
    )
    parser.add_argument(
        "--backbone", metavar="NAME", help="use configs/network_NAME.json, e.g. bioatt96 (default: the fast network)"
    )
    parser.add_argument("--records", metavar="DIR", help="where finished runs are kept (default: OUT/runs)")
    parser.add_argument("--page", metavar="FILE", help="write the page here (default: OUT/README.md)")
    add_settings(parser)


def run(options: argparse.Namespace) -> None:
    """`bioatt ablate`: networks, priors, seeds and patients left out, in one table."""
    from ...ablation.run import matrix_of, read_matrix, run_ablation

    settings, backbone = read_settings(options.set), options.backbone or ""
    if options.study:
        matrix = read_matrix(options.study, settings, backbone)
    else:
        matrix = matrix_of(options.networks.split(","), options.priors.split(","), settings, backbone)
    run_ablation(
        options.data,
        Path(options.output),
        matrix,
        seeds=options.seeds,
        left_out=options.leave_out,
        records_dir=Path(options.records) if options.records else None,
        page=Path(options.page) if options.page else None,
    )
