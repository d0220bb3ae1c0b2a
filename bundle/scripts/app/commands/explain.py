"""`bioatt explain`: attention maps of one slice, and what another prior changes."""

from __future__ import annotations

import argparse

from ..arguments import (
    NOTICE,
    PRIORS,
    add_input,
    add_output,
    add_precision,
    add_strength,
    add_weights,
    inference_overrides,
)


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "explain",
        help="show where the network attends in a slice, and what another prior changes",
        description="For one slice, write the attention maps as pictures and NIfTI, and compare the result with its "
        "own prior, the uniform prior and a prior of another region.",
        epilog=f"{PRIORS}\nexample: bioatt explain study/series3 explained --slice 40\n\n{NOTICE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_input(parser)
    add_output(parser)
    parser.add_argument(
        "--slice", type=int, required=True, metavar="N", help="number of the slice, from 0, inferior to superior"
    )
    parser.add_argument(
        "--other", default="", metavar="WORD", help="descriptor of the other region (default: the least likely one)"
    )
    add_weights(parser)
    add_precision(parser)
    add_strength(parser)


def run(options: argparse.Namespace) -> None:
    from ...report.explain import run_explain
    from ...workflow import open_workflow

    overrides = inference_overrides(options) | {"progress": False}
    parser = open_workflow("inference", ["inference.json"], overrides).parser
    names = ("data_list", "network", "provenance", "inferer", "reader")
    parts = {name: parser.get_parsed_content(name) for name in names}
    lines = run_explain(parts, options.output, options.slice, other=options.other, overwrite=options.overwrite)
    print("\n".join(lines))
