"""The `bioatt` command: parses, then starts the bundle's configs and rooms. Imports nothing heavy before it must."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

BUNDLE_ROOT = Path(__file__).resolve().parents[1]

_PRIORS = """\
prior, one of:
  compact          the small prior model of this bundle (default); a stand-in, not BiomedCLIP
  biomedclip       BiomedCLIP from its hub, the paper's prior
  hf-hub:NAME      another CLIP from the hub
  local-dir:PATH   a CLIP in a folder, in open_clip's form
  table:FILE       a CSV of priors, by SOPInstanceUID or file name
  uniform          the same for all descriptors
  random:SEED      random numbers, as a control
"""
_NOTICE = "Research software, not a medical device: not for diagnosis."


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="bioatt",
        description="Denoise low-dose CT with an anatomical prior (BioAtt, a MONAI bundle).",
        epilog=f"Exit codes: 0 done, 2 input or usage. {_NOTICE}",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_denoise(commands)
    _add_priors(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_convert(commands)
    _add_demo(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = build_parser().parse_args(arguments)
    # The configs import the bundle's code as `scripts`; one name for it, or its classes would exist twice.
    if str(BUNDLE_ROOT) not in sys.path:
        sys.path.insert(0, str(BUNDLE_ROOT))
    commands = importlib.import_module("scripts.commands")
    return commands.run(options)


def _add_denoise(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "denoise",
        help="denoise a DICOM series or NIfTI files",
        description="Denoise CT: a DICOM series becomes a derived DICOM series, NIfTI becomes NIfTI. "
        "HU and geometry are kept; the input is never changed.",
        epilog=f"{_PRIORS}\nexample: bioatt denoise study/series3 study/series3_denoised\n\n{_NOTICE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_input(parser)
    parser.add_argument("output", metavar="OUT", help="folder for the result; must not exist yet")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT, whole and only at the end")
    parser.add_argument("--weights", metavar="FILE", help="weights (default: the bundle's models/model.pt)")
    _add_network(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="slices at a time")
    parser.add_argument("--bf16", action="store_true", help="run the network in bfloat16 (GPUs, recent CPUs)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_priors(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "priors",
        help="write the prior of each slice to a CSV table",
        description="Write the prior of each axial slice to a CSV table that --prior table:FILE reads.",
        epilog=_PRIORS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_input(parser)
    parser.add_argument("output", metavar="TABLE.csv", help="the table to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the table")


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="SERIES", help="folder of a DICOM series, a DICOM file, a NIfTI file or folder"
    )
    parser.add_argument("--prior", default="compact", metavar="PRIOR", help="where the anatomical prior comes from")
    parser.add_argument(
        "--prior-preparation",
        choices=("window", "minmax"),
        default="window",
        help="how a slice is shown to the prior model: in a HU window, or min-max scaled as in the paper",
    )
    parser.add_argument(
        "--prior-window",
        nargs=2,
        type=float,
        metavar=("LOWER", "UPPER"),
        default=(-160.0, 240.0),
        help="that HU window (default: -160 240)",
    )
    parser.add_argument("--series", default="", metavar="UID", help="SeriesInstanceUID, if a folder holds several")
    parser.add_argument("--assume-hu", action="store_true", help="take NIfTI values as HU although they do not look it")
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda (default: cuda if there is one)")


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train on full-dose series, low doses simulated",
        description="Start the training workflow (configs/train.json). DATA holds one folder per patient.",
    )
    _add_workflow(parser)
    parser.add_argument("--validate", nargs="+", metavar="PATIENT", required=True, help="folders left out of training")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure the quality of trained weights on patients left out",
        description="Start the evaluation workflow (configs/train.json with evaluate.json).",
    )
    _add_workflow(parser)
    parser.add_argument("--validate", nargs="+", metavar="PATIENT", required=True, help="folders to evaluate on")
    parser.add_argument("--weights", metavar="FILE", help="weights (default: the bundle's models/model.pt)")


def _add_workflow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="folder with one folder of DICOM files per patient")
    parser.add_argument("output", metavar="OUT", help="folder for checkpoints, curve and figures")
    _add_network(parser)
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override the config, e.g. prior=uniform train#trainer#max_epochs=5",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", metavar="NAME", help="use configs/network_NAME.json, e.g. bioatt96 or redcnn")


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="turn a checkpoint of the paper's authors into weights of this bundle",
        description="Read one of the authors' four checkpoint layouts and write it as this bundle's weights, with the "
        "network_def to use it beside it.",
    )
    parser.add_argument("input", metavar="CHECKPOINT", help="the authors' .pth file")
    parser.add_argument("output", metavar="WEIGHTS.pt", help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo",
        help="make a small low-dose series and denoise it",
        description="Make a small low-dose DICOM series of a phantom, denoise it, and print the quality before and "
        "after, against the truth. OUT then holds the DICOM series low_dose, truth and denoised, and demo.png.",
        epilog=_NOTICE,
    )
    parser.add_argument("output", metavar="OUT", help="folder to make; a former demo there is replaced")


if __name__ == "__main__":
    raise SystemExit(main())
