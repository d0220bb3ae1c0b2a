"""The `bioatt` command: parses, then starts the bundle's configs and rooms. Imports nothing heavy before it must."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence

from ..device import PRECISIONS
from ..strengths import DEFAULT, table_in_words
from . import serve
from .entry import bundle_module, bundle_version

_PRIORS = """\
prior, one of (default: the one the weights were trained with):
  compact          the small prior model of this bundle; a stand-in, not BiomedCLIP
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
        epilog=f"Exit codes: 0 done, 1 some series of several failed, 2 input or usage. {_NOTICE}",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {bundle_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_denoise(commands)
    _add_explain(commands)
    _add_priors(commands)
    _add_data(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_ablate(commands)
    _add_simulate(commands)
    _add_convert(commands)
    _add_export(commands)
    _add_benchmark(commands)
    _add_demo(commands)
    _add_info(commands)
    serve.add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = parse(arguments)
    # A node must be up again soon after a stop: it loads what the other commands need in its worker.
    return bundle_module("app.serve" if options.command == "serve" else "app.commands").run(options)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command; an option that it does not have ends the program, with the one that may be meant."""
    parser = build_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        named = f"{parser.prog} {options.command}"
        (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
        has = commands.choices[options.command]._option_string_actions
        wrong = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
        near = difflib.get_close_matches(wrong, has, 1, 0.7) if wrong else []
        what = f"has no option {wrong}" if wrong else f"has no use for {' '.join(unknown)}"
        meant = f"; did you mean {near[0]}?" if near else ";"
        parser.exit(2, f"error: {named} {what}{meant} see {named} --help\n")
    return options


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
    _add_output(parser)
    _add_prior_form(parser)
    parser.add_argument(
        "--report", action="store_true", help="write OUT.html beside OUT: pictures, noise, HU, prior, attention maps"
    )
    parser.add_argument("--weights", metavar="FILE", help="weights (default: the bundle's models/model.pt)")
    _add_network(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="slices at a time")
    _add_precision(parser)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network with torch.compile: takes a while at first, then faster",
    )
    _add_strength(parser)
    parser.add_argument(
        "--series-description",
        metavar="TEXT",
        help="SeriesDescription of the result (default: '{source} {derivation}', the source's and what was done)",
    )
    parser.add_argument(
        "--series-number-step", type=int, metavar="N", help="added to the source's SeriesNumber (default: 1000)"
    )
    parser.add_argument("--stable-uids", action="store_true", help="the same run gives the same UIDs, not new ones")
    parser.add_argument("--keep-private", action="store_true", help="keep private DICOM elements")
    parser.add_argument(
        "--cohort",
        action="store_true",
        help="SERIES is a list: a text file with one path per line, or a CSV with the columns input and output, and "
        "series (UID or number) where a folder holds several; each result is a folder in OUT. Several processes with "
        "the same list and OUT share the work",
    )
    parser.add_argument("--resume", action="store_true", help="with --cohort: leave out what is finished in OUT")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_explain(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "explain",
        help="show where the network attends in a slice, and what another prior changes",
        description="For one slice: attention maps as pictures and NIfTI, and the result with its own prior, the "
        "uniform one and that of another region: pictures, differences and figures.",
        epilog=f"{_PRIORS}\nexample: bioatt explain study/series3 explained --slice 40\n\n{_NOTICE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_input(parser)
    _add_output(parser)
    parser.add_argument("--slice", type=int, required=True, metavar="N", help="from 0, inferior to superior")
    parser.add_argument(
        "--other", default="", metavar="WORD", help="descriptor of the other region (default: the least likely one)"
    )
    _add_prior_form(parser)
    parser.add_argument("--weights", metavar="FILE", help="weights (default: the bundle's models/model.pt)")
    _add_network(parser)
    _add_precision(parser)
    _add_strength(parser)


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


def _add_output(parser: argparse.ArgumentParser) -> None:
    """The folder that a command makes whole, or not at all."""
    parser.add_argument("output", metavar="OUT", help="folder for the result; must not exist yet")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT, whole and only at the end")


def _add_prior_form(parser: argparse.ArgumentParser) -> None:
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


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the network; default auto: bf16 on GPUs and processors where it is faster, else fp32",
    )


def _add_strength(parser: argparse.ArgumentParser) -> None:
    """The one knob, and its numbers."""
    parser.add_argument(
        "--strength",
        default=DEFAULT,
        metavar="NAME",
        help=f"{table_in_words()}; default {DEFAULT}. What is much coarser than the anchor, in mm, stays the scanner's",
    )
    parser.add_argument("--anchor-mm", type=float, metavar="MM", help="the anchor as a number, for a strength between")
    parser.add_argument("--grain", type=float, metavar="G", help="0 to 1: share of the finer grain that stays too")


def _add_series(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="SERIES", help="folder of a DICOM series, a DICOM file, a NIfTI file or folder"
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
        help="take images of several StudyInstanceUIDs or SeriesInstanceUIDs as one scan, as programs that remove "
        "identities may leave them; patient, grid and positions must make one even stack",
    )


def _add_input(parser: argparse.ArgumentParser) -> None:
    _add_series(parser)
    parser.add_argument("--prior", metavar="PRIOR", help="where the anatomical prior comes from")
    parser.add_argument(
        "--prior-preparation",
        choices=("window", "minmax"),
        help="how a slice is shown to the prior model: in a HU window, or min-max scaled as in the paper",
    )
    parser.add_argument("--prior-window", nargs=2, type=float, metavar=("LOWER", "UPPER"), help="that HU window")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or mps (default: cuda if there is one)")


def _add_data(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "data",
        help="list what a data set holds for training, patient by patient",
        description="List the studies of DATA: layout, slices, thickness, body region, which doses there are, and what "
        "was refused and why. Patients are named by pseudonym. docs/data.md shows the layouts.",
    )
    _add_data_set(parser)
    parser.add_argument("--key", metavar="FILE", help="write the key, pseudonym to folder name, to this JSON file")


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train on real low doses, or on low doses simulated from full ones",
        description="Start the training workflow (configs/train.json).",
    )
    _add_workflow(parser)
    parser.add_argument("--tracking", metavar="NAME", help="mlflow: keep the curve in OUT/mlruns.db too")
    _add_validate(parser, "patients to validate on, left out of training (default: drawn, see split_fractions)")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure the quality of trained weights on patients left out",
        description="Start the evaluation workflow (configs/train.json with evaluate.json).",
    )
    _add_workflow(parser)
    _add_validate(parser, "patients to evaluate on (default: the test part of the split.json beside the weights)")
    parser.add_argument("--weights", metavar="FILE", help="weights (default: the bundle's models/model.pt)")
    _add_precision(parser)
    _add_strength(parser)


def _add_validate(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--validate", nargs="+", metavar="PATIENT", default=[], help=f"{what}; folders or pseudonyms")


def _add_data_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="folder with one folder per patient, or a MONAI datalist (JSON)")


def _add_workflow(parser: argparse.ArgumentParser) -> None:
    _add_data_set(parser)
    parser.add_argument("output", metavar="OUT", help="folder for checkpoints, curve and figures")
    _add_network(parser)
    _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override the config, e.g. prior=uniform train#trainer#max_epochs=5",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="use configs/network_NAME.json, e.g. bioatt96 or redcnn (weights with a recipe beside them name theirs)",
    )


def _add_ablate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "ablate",
        help="train and compare networks and priors on the same data",
        description="Train and evaluate every combination of networks, priors, seeds and patients left out, with the "
        "same data and budget, and write one table and one plot. Finished runs are kept: start it again to go on.",
        epilog=_PRIORS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_data_set(parser)
    parser.add_argument("output", metavar="OUT", help="folder for runs, table and plot")
    parser.add_argument(
        "--networks",
        default="redcnn,channel,spatial,bioatt",
        metavar="N,N",
        help="what stands in the attention slots: redcnn (nothing), channel, spatial, bioatt (prior); default: all",
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
    _add_settings(parser)


def _add_simulate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "simulate",
        help="make a low-dose series from a routine one",
        description="Simulate a lower dose: a DICOM series becomes a derived DICOM series, marked as simulated, NIfTI "
        "becomes NIfTI. Only the noise by which the doses differ is added; docs/simulation.md tells how.",
        epilog=f"example: bioatt simulate study/series3 study/series3_quarter --dose 0.25\n\n{_NOTICE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_series(parser)
    _add_output(parser)
    parser.add_argument("--dose", type=float, required=True, metavar="K", help="share of the dose of SERIES, in (0, 1]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default: 0)")
    parser.add_argument(
        "--realisations", type=int, default=1, metavar="N", help="several series, in OUT/realisation_1 and so on"
    )
    parser.add_argument(
        "--filter",
        default="hann",
        metavar="NAME",
        help="reconstruction filter, the noise texture: ramp, shepp-logan, cosine, hamming or hann, with a cut-off if "
        "wanted as in hann:0.8 (default: hann)",
    )
    parser.add_argument(
        "--photons",
        type=_number_or_auto,
        metavar="N",
        help="per ray at the dose of SERIES, or auto: found from the noise of SERIES (default: auto)",
    )
    parser.add_argument(
        "--electronic", type=float, default=1.0, metavar="SD", help="electronic noise in photons (default: 1)"
    )
    parser.add_argument(
        "--tube-current",
        default="",
        metavar="FROM",
        help="its profile: header (XRayTubeCurrent of each slice), or a file with one number per slice from inferior "
        "to superior (default: the same for all slices)",
    )
    parser.add_argument("--views", type=int, default=1000, metavar="N", help="angles over half a turn (default: 1000)")
    parser.add_argument(
        "--projector",
        choices=("fourier", "scikit-image"),
        default="fourier",
        help="how line integrals and images are computed (default: fourier, the fast one)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _number_or_auto(text: str) -> float | None:
    """None for ``auto``."""
    return None if text == "auto" else float(text)


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


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "export",
        help="write the network as ONNX, torch.export or TorchScript",
        description="Write the network for other runtimes, and compare it with PyTorch. Inputs are image "
        "(B, 1, H, W) in network range, (HU + 500) / 500, and prior (B, 11); B, H and W are free.",
        epilog=_NOTICE,
    )
    parser.add_argument("output", metavar="OUT", help="the file: .onnx, .pt2 (exported) or .ts (torchscript)")
    parser.add_argument("--format", choices=("onnx", "exported", "torchscript"), default="onnx", help="(default: onnx)")
    parser.add_argument("--weights", metavar="FILE", help="weights (default: the bundle's models/model.pt)")
    _add_network(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def _add_benchmark(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "benchmark",
        help="measure how fast this machine denoises",
        description="Measure, in one run and in turn: the rate of matrix products, RED-CNN as everyone runs it, the "
        "same output by the fastest path, the default network, and a whole series from reading to writing. Leave the "
        "machine alone meanwhile. docs/performance.md explains the figures.",
    )
    parser.add_argument("--output", default="benchmark", metavar="DIR", help="folder for benchmark.json, .md and .png")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="medians are over N (default: 5)")
    parser.add_argument("--size", type=int, default=512, metavar="N", help="images are N x N (default: 512)")
    parser.add_argument("--slices", type=int, default=100, metavar="N", help="of the made series (default: 100)")
    parser.add_argument("--threads", type=int, metavar="N", help="of PyTorch on the CPU (default: its own choice)")
    parser.add_argument("--series", metavar="PATH", help="a series to denoise in place of a made one")
    parser.add_argument(
        "--processes", type=int, default=0, metavar="N", help="measure also N processes on a list of series against one"
    )
    parser.add_argument("--training", action="store_true", help="measure also how long training steps wait for data")
    parser.add_argument("--compile", action="store_true", help="measure also the default network with torch.compile")
    parser.add_argument("--page", metavar="FILE", help="write benchmark.md also here, and the plot beside it")


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo",
        help="make a small low-dose series and denoise it",
        description="Make a small low-dose DICOM series of a phantom, denoise it, and print the quality before and "
        "after, against the truth. OUT then holds the DICOM series low_dose, truth and denoised, and demo.png.",
        epilog=_NOTICE,
    )
    parser.add_argument("output", metavar="OUT", help="folder to make; a former demo there is replaced")


def _add_info(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "info",
        help="tell versions, weights, device and precision",
        description="Tell the versions, the bundle's weights and their sha256, and the device and precision that would "
        "be used.",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


if __name__ == "__main__":
    raise SystemExit(main())
