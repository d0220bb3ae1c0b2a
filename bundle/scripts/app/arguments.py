"""Arguments that several commands share, each beside the config overrides it becomes. Imports nothing heavy."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ..device import PRECISIONS, find_device
from ..errors import BioAttError
from ..strengths import DEFAULT, table_in_words

_PRIORS = """\
prior, one of (default: {default}):
  compact          the small prior model of this bundle; a stand-in, not BiomedCLIP
  biomedclip       BiomedCLIP from its hub, the paper's prior
  hf-hub:NAME      another CLIP from the hub
  local-dir:PATH   a CLIP in a folder, in open_clip's format
  table:FILE       a CSV of priors, by SOPInstanceUID or file name
  uniform          the same for all descriptors
  random:SEED      random numbers, as a control
"""


def priors_in_words(default: str = "the one that the recipe of the weights names") -> str:
    """The values of ``--prior``, one a line."""
    return _PRIORS.format(default=default)


def number(kind: type, wanted: str, fits: Callable[[Any], bool]) -> Callable[[str], Any]:
    """The type of an option: int or float, of numbers that fit; any other word is refused with what was wanted."""

    def read(text: str) -> Any:
        with suppress(ValueError):
            if fits(found := kind(text)):
                return found
        raise argparse.ArgumentTypeError(f"expected {wanted}")

    return read


def add_series(parser: argparse.ArgumentParser) -> None:
    """One series or volume, and how it may be read."""
    option = parser.add_argument
    option("input", metavar="SERIES", help="folder or zip of a DICOM series, a DICOM file, a NIfTI file or folder")
    option("--series", default="", metavar="UID", help="SeriesInstanceUID or SeriesNumber, if a folder holds several")
    option(
        "--assume-hu", action="store_true", help="accept values as HU even if they do not look like it or have no unit"
    )
    option("--allow-gaps", action="store_true", help="continue although slices of a DICOM series are missing")
    option(
        "--one-scan",
        action="store_true",
        help="treat images with different StudyInstanceUIDs or SeriesInstanceUIDs, with a PatientID for each file, or "
        "without SOPInstanceUIDs as one scan, for de-identified data; grid and positions must form one regularly "
        "spaced stack",
    )


def add_input(parser: argparse.ArgumentParser) -> None:
    """A series, and what makes the prior of its slices."""
    add_series(parser)
    parser.add_argument("--prior", metavar="PRIOR", help="where the anatomical prior comes from")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or mps (default: cuda if there is one)")


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """How the series of `add_series` is read, as the reader's arguments and the config's keys."""
    return {name: getattr(options, name) for name in ("series", "assume_hu", "allow_gaps", "one_scan")}


def add_output(parser: argparse.ArgumentParser) -> None:
    """The folder that a command makes whole, or not at all."""
    parser.add_argument("output", metavar="OUT", help="folder for the result: a new or an empty one")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT, as a whole and only at the end")


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options `names` that were given, as config overrides."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def inference_overrides(options: argparse.Namespace, *, elsewhere: bool = False) -> dict[str, Any]:
    """What `denoise` and `explain` both override; a device that is `elsewhere` is not looked for here."""
    device = given(options, "device")
    return {
        "dataset_dir": options.input,
        "output_dir": options.output,
        "overwrite": options.overwrite,
        **reading(options),
        **given(options, "prior", "weights"),
        **result_overrides(options),
        **(device if elsewhere else {name: find_device(value) for name, value in device.items()}),
    }


def add_weights(parser: argparse.ArgumentParser) -> None:
    """The weights, whose recipe names their network."""
    parser.add_argument(
        "--weights", metavar="FILE", help="weights with their recipe beside them (default: the bundle's)"
    )


def add_result(parser: argparse.ArgumentParser) -> None:
    """What gives a network's result: weights, what they compute in, and how much of it is taken."""
    add_weights(parser)
    option = parser.add_argument
    option("--precision", choices=PRECISIONS, help="of the network; default auto: bf16 where that is faster, else fp32")
    option(
        "--strength",
        default=DEFAULT,
        metavar="NAME",
        help=f"{table_in_words()}; default {DEFAULT}. What is much coarser than this anchor comes from the scanner",
    )
    option("--anchor-mm", type=float, metavar="MM", help="another anchor, in mm")
    option("--grain", type=float, metavar="G", help="share of the fine noise that is put back, 0 to 1")
    option("--restore", type=float, metavar="R", help="share of the restored detail, 0 (none) to 1 (default)")


def result_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """How the result is anchored, and what the network runs in, for all commands with a network's result."""
    return given(options, "strength", "anchor_mm", "grain", "restore", "precision")


def add_data_set(parser: argparse.ArgumentParser) -> None:
    """The data of several patients."""
    parser.add_argument("data", metavar="DATA", help="folder with one folder per patient, or a MONAI datalist (JSON)")


def add_workflow(parser: argparse.ArgumentParser, made: str) -> None:
    """What `train` and `evaluate` both take; `made` is what OUT is for."""
    add_data_set(parser)
    parser.add_argument("output", metavar="OUT", help=f"folder for {made}")
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
        help="config keys, e.g. prior=uniform train#trainer#max_epochs=5",
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
            raise BioAttError(f"--set {pair}: expected KEY=VALUE, e.g. prior=uniform")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings
