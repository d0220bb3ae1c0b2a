"""Measure the quality of trained weights on patients held out.

Run the evaluation workflow (configs/train.json with evaluate.json).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import BioAttError
from ..arguments import add_result, add_workflow, given, result_overrides, training_overrides


def add(parser: argparse.ArgumentParser) -> None:
    add_workflow(parser, "figures by patient and slice, and the cached pairs")
    parser.add_argument(
        "--patients",
        dest="test_patients",
        nargs="+",
        metavar="PATIENT",
        help="folders or pseudonyms (default: the test split of the split.json beside the weights)",
    )
    add_result(parser)


def run(options: argparse.Namespace) -> None:
    from ...workflow import BUNDLE_ROOT, run_workflow

    overrides = result_overrides(options) | training_overrides(options) | given(options, "test_patients", "weights")
    if not overrides.keys() & {"split_file", "validation_patients", "test_patients"}:
        # Not a new split: that could hand over patients these weights were trained on.
        kept = Path(options.weights or BUNDLE_ROOT / "models" / "model.pt").with_name("split.json")
        if not kept.exists():
            raise BioAttError(f"no patients to evaluate on: there is no {kept}; name some with --patients")
        overrides["split_file"] = str(kept)
    run_workflow("evaluation", ["train.json", "evaluate.json"], overrides)
