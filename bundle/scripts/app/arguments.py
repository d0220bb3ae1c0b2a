"""Arguments that several commands share, each beside the config overrides it becomes. Imports nothing heavy."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from ..device import PRECISIONS, find_device
from ..errors import BioAttError
from ..strengths import DEFAULT, table_in_words
from .entry import BUNDLE_ROOT

PRIORS = """\
prior, one of (default: the one the weights were trained with):
  compact          the small prior model of this bundle; a stand-in, not BiomedCLIP
  biomedclip       BiomedCLIP from its hub, the paper's prior
  hf-hub:NAME      another CLIP from the hub
  local-dir:PATH   a CLIP in a folder, in open_clip's format
  table:FILE       a CSV of priors, by SOPInstanceUID or file name
  uniform          the same for all descriptors
  random:SEED      random numbers, as a control
"""
NOTICE = "Research software, not a medical device: not for diagnosis."


def add_series(parser: argparse.ArgumentParser) -> None:
    """One series or volume, and how it may be read."""
    parser.add_argument(
        "input", metavar="SERIES", help="folder or zip of a DICOM series, a DICOM file, a NIfTI file or folder"
    )
    parser.add_argument(
        "--series", default="", metavar="UID", help="SeriesInstanceUID or SeriesNumber, if a folder holds several"
    )
    parser.add_argument(
        "--assume-hu",
        action="store_true",
        help="take NIfTI values as HU although they do not look it, DICOM values although their unit is not said",
    )
    parser.add_argument("--allow-gaps", action="store_true", help="go on where slices of a DICOM series are missing")
    parser.add_argument(
        "--one-scan",
        action="store_true",
        help="take images of several StudyInstanceUIDs or SeriesInstanceUIDs, of a PatientID a file, or without "
        "SOPInstanceUIDs of their own as one scan, as programs that remove "
        "identities may leave them; grid and positions must make one even stack",
    )


def add_input(parser: argparse.ArgumentParser) -> None:
    """A series, and what makes the prior of its slices."""
    add_series(parser)
    parser.add_argument("--prior", metavar="PRIOR", help="where the anatomical prior comes from")
    parser.add_argument(
        "--prior-preparation",
        choices=("window", "minmax"),
        help="how a slice is shown to the prior model: in a HU window, or min-max scaled as in the paper",
    )
    parser.add_argument("--prior-window", nargs=2, type=float, metavar=("LOWER", "UPPER"), help="that HU window")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or mps (default: cuda if there is one)")


def add_prior_form(parser: argparse.ArgumentParser) -> None:
    """How the prior is shown to the network."""
    parser.add_argument(
        "--prior-form",
        choices=("vector", "dense"),
        help="one prior for a slice (the paper's), or one at each place of it (default: as the weights were trained)",
    )
    parser.add_argument(
        "--prior-temperature",
        type=float,
        metavar="T",
        help="flatten (above 1) or sharpen the prior (default: as the weights were trained; 1 is the paper's)",
    )


def prior_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What is said of the prior; what is not is as the weights were trained."""
    said = {
        "prior": options.prior,
        "prior_preparation": options.prior_preparation,
        "prior_window_hu": options.prior_window and list(options.prior_window),
        "prior_form": options.prior_form,
        "prior_temperature": options.prior_temperature,
    }
    return {key: value for key, value in said.items() if value is not None}


def add_output(parser: argparse.ArgumentParser) -> None:
    """The folder that a command makes whole, or not at all."""
    parser.add_argument("output", metavar="OUT", help="folder for the result; new, or empty as a mount point is")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT, whole and only at the end")


def inference_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What `denoise` and `explain` both override."""
    return {
        "dataset_dir": options.input,
        "output_dir": options.output,
        "series": options.series,
        "assume_hu": options.assume_hu,
        "allow_gaps": options.allow_gaps,
        "one_scan": options.one_scan,
        "overwrite": options.overwrite,
        **prior_overrides(options),
        **result_overrides(options),
        **({"weights": options.weights} if options.weights is not None else {}),
        **({"device": find_device(options.device)} if options.device else {}),
    }


def add_network(parser: argparse.ArgumentParser) -> None:
    """The network, where the weights do not say it."""
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="use configs/network_NAME.json, e.g. bioatt96 or redcnn (weights with a recipe beside them name theirs)",
    )


def network_config(options: argparse.Namespace) -> list[str]:
    """The config that `--network` names, if it was given.

    Raises:
        BioAttError: the bundle has no such network.
    """
    known = sorted(path.stem.removeprefix("network_") for path in (BUNDLE_ROOT / "configs").glob("network_*.json"))
    if options.network and options.network not in known:
        raise BioAttError(f"--network {options.network}: no such network; choose {', '.join(known)}")
    return [f"network_{options.network}.json"] if options.network else []


def add_precision(parser: argparse.ArgumentParser) -> None:
    """What the network computes in."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the network; default auto: bf16 on GPUs and processors where it is faster, else fp32",
    )


def add_strength(parser: argparse.ArgumentParser) -> None:
    """The one knob, and its numbers."""
    parser.add_argument(
        "--strength",
        default=DEFAULT,
        metavar="NAME",
        help=f"{table_in_words()}; default {DEFAULT}. What is much coarser than the anchor, in mm, stays the scanner's",
    )
    parser.add_argument("--anchor-mm", type=float, metavar="MM", help="the anchor as a number, for a strength between")
    parser.add_argument("--grain", type=float, metavar="G", help="0 to 1: share of the finer grain that stays too")


def result_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """How the result is anchored, and what the network runs in, for all commands with a network's result."""
    anchoring = {"strength": options.strength, "anchor_mm": options.anchor_mm, "grain": options.grain}
    return anchoring | ({"precision": options.precision} if options.precision else {})


def add_data_set(parser: argparse.ArgumentParser) -> None:
    """The data of several patients."""
    parser.add_argument("data", metavar="DATA", help="folder with one folder per patient, or a MONAI datalist (JSON)")


def add_workflow(parser: argparse.ArgumentParser) -> None:
    """What `train` and `evaluate` both take."""
    add_data_set(parser)
    parser.add_argument("output", metavar="OUT", help="folder for checkpoints, curve and figures")
    add_network(parser)
    add_settings(parser)


def training_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What `train` and `evaluate` both override."""
    return {"dataset_dir": options.data, "output_dir": options.output, **read_settings(options.set)}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Overrides of the config, see `read_settings`."""
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override the config, e.g. prior=uniform train#trainer#max_epochs=5",
    )


def read_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as config overrides; a value is JSON where it can be, else text.

    Raises:
        BioAttError: a word that is not KEY=VALUE.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BioAttError(f"--set {pair}: wanted KEY=VALUE, e.g. prior=uniform")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings
