"""`bioatt denoise`: the inference workflow, for one input or for each of a list."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BioAttError
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

if TYPE_CHECKING:
    from ...cohort import Places


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "denoise",
        help="denoise a DICOM series or NIfTI files",
        description="Denoise CT: a DICOM series becomes a derived DICOM series, NIfTI becomes NIfTI. "
        "HU and geometry are kept; the input is never changed.",
        epilog=f"{PRIORS}\nexample: bioatt denoise study/series3 study/series3_denoised\n\n{NOTICE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_input(parser)
    add_output(parser)
    parser.add_argument(
        "--report", action="store_true", help="also write OUT.html: pictures, noise, HU, prior, attention maps"
    )
    add_weights(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="slices that the network takes at a time")
    add_precision(parser)
    parser.add_argument(
        "--compile", action="store_true", help="compile the network with torch.compile: slower to start, then faster"
    )
    add_strength(parser)
    parser.add_argument(
        "--series-description",
        metavar="TEXT",
        help="SeriesDescription of the result (default: '{source} {derivation}', the source's and what was done)",
    )
    parser.add_argument(
        "--series-number-step", type=int, metavar="N", help="added to the source's SeriesNumber (default: 1000)"
    )
    parser.add_argument(
        "--stable-uids", action="store_true", help="give the same result the same UIDs instead of new ones"
    )
    parser.add_argument("--keep-private", action="store_true", help="keep private DICOM elements")
    parser.add_argument(
        "--all-series",
        action="store_true",
        help="SERIES is a folder or zip with several series: denoise each CT series into a folder in OUT, named by "
        "SeriesNumber, and list why the others were left out",
    )
    parser.add_argument(
        "--rules",
        metavar="FILE",
        help="with --all-series: JSON that says which series, and how (default: original CT; docs/node.md)",
    )
    parser.add_argument(
        "--cohort",
        action="store_true",
        help="SERIES is a list: a text file with one path per line, or a CSV with the columns input and output, and "
        "series (UID or number) where a folder holds several; each result is a folder in OUT, and OUT/cohort.csv "
        "a table of all",
    )
    _add_places(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> int:
    from ...workflow import run_workflow

    device = options.device
    if options.scheduler:
        options.device = None  # it is of the workers, and not looked for here
    overrides = inference_overrides(options) | {
        "report": options.report,
        "stable_uids": options.stable_uids,
        "keep_private": options.keep_private,
        "compile": options.compile,
        "progress": not options.quiet,
    }
    for name in ("batch_size", "series_description", "series_number_step"):
        if getattr(options, name) is not None:
            overrides[name] = getattr(options, name)
    configs = ["inference.json"]
    if options.scheduler and device:
        overrides["device"] = device
    if options.all_series:
        return _all_series(options, configs, overrides)
    if options.rules:
        raise BioAttError("--rules choose among the series of a study; give them together with --all-series")
    if options.cohort:
        from ...cohort import denoise_cohort

        places = _places(options)
        return denoise_cohort(options.input, options.output, configs, overrides, resume=options.resume, places=places)
    for name in ("resume", "processes", "scheduler", "resource", "tries"):
        if getattr(options, name):
            also = "" if name == "resume" else " or --all-series"
            raise BioAttError(f"--{name} applies to several series; use it with --cohort{also}")
    run_workflow("inference", configs, overrides)
    return 0


def _all_series(options: argparse.Namespace, configs: list[str], overrides: dict[str, Any]) -> int:
    """Every CT series of a study.

    Raises:
        BioAttError: with an option that names one series, or a list.
    """
    from ..node.rules import read_rules
    from ..study import denoise_study

    for name in ("series", "one_scan", "cohort", "resume"):
        if getattr(options, name):
            raise BioAttError(f"--all-series applies to a whole study; leave out --{name.replace('_', '-')}")
    rules = read_rules(Path(options.rules) if options.rules else None)
    return denoise_study(options.input, options.output, configs, overrides, rules, _places(options))


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Where a list of series is denoised."""
    parser.add_argument("--resume", action="store_true", help="with --cohort: skip what is finished in OUT")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="with --cohort or --all-series: processes here (default: 1)"
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="with --cohort or --all-series: use the workers of this Dask scheduler, by its address or scheduler file",
    )
    parser.add_argument(
        "--resource",
        action="append",
        metavar="NAME=N",
        help="with --scheduler: Dask resources that a series needs, e.g. GPU=1",
    )
    parser.add_argument(
        "--tries",
        type=int,
        metavar="N",
        help="with either: attempts for a series whose worker dies or that fails unexpectedly (default: 3)",
    )


def _places(options: argparse.Namespace) -> Places:
    """Where a list is denoised, as the options say it.

    Raises:
        BioAttError: they contradict each other, or a number is none.
    """
    from ...cohort import Places

    if options.scheduler and options.processes:
        raise BioAttError("--processes are of this machine, --scheduler has its own workers; give one of them")
    if options.resource and not options.scheduler:
        raise BioAttError("--resource applies to the workers of a cluster; use it with --scheduler")
    for name in ("processes", "tries"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise BioAttError(f"--{name} {number}: wanted 1 or more")
    return Places(
        processes=options.processes or 1,
        scheduler=options.scheduler or "",
        resources=dict(map(_resource, options.resource or ())),
        tries=options.tries or 3,
    )


def _resource(word: str) -> tuple[str, float]:
    """``NAME=N`` as both."""
    name, _, number = word.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise BioAttError(f"--resource {word}: wanted NAME=N, e.g. GPU=1") from None
