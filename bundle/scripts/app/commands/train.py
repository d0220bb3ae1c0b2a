"""Train on real low doses, or on low doses simulated from full ones.

Run the training workflow (configs/train.json).
"""

from __future__ import annotations

import argparse

from ...errors import BioAttError
from ..arguments import add_workflow, given, training_overrides
from ..entry import BUNDLE_ROOT


def add(parser: argparse.ArgumentParser) -> None:
    add_workflow(parser, "weights, checkpoints, curve, figures and the cached pairs")
    option = parser.add_argument
    option("--network", metavar="NAME", help="use configs/network_NAME.json, e.g. bioatt96 or redcnn")
    option("--tracking", metavar="NAME", help="mlflow: also record the curve in OUT/mlruns.db")
    option(
        "--validation",
        dest="validation_patients",
        nargs="+",
        metavar="PATIENT",
        help="validation split, by folder or pseudonym (default: drawn, see split_fractions)",
    )


def run(options: argparse.Namespace) -> None:
    from ...workflow import run_workflow

    known = sorted(path.stem.removeprefix("network_") for path in (BUNDLE_ROOT / "configs").glob("network_*.json"))
    if options.network and options.network not in known:
        raise BioAttError(f"--network {options.network}: no such network; choose {', '.join(known)}")
    configs = ["train.json", *([f"network_{options.network}.json"] if options.network else [])]
    overrides = given(options, "validation_patients") | training_overrides(options)
    run_workflow("training", configs, overrides, options.tracking)
