"""Denoise a DICOM series or NIfTI files.

Denoise CT: a DICOM series becomes a derived DICOM series, NIfTI becomes NIfTI. HU and geometry are kept; the input is
never changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BioAttError
from ...provenance import NOT_FOR_DIAGNOSIS
from ..arguments import add_input, add_output, add_result, given, inference_overrides, priors_in_words

if TYPE_CHECKING:
    from ...cohort import Places

EPILOG = f"{priors_in_words()}\nexample: bioatt denoise study/series3 study/series3_denoised\n\n{NOT_FOR_DIAGNOSIS}"


def add(parser: argparse.ArgumentParser) -> None:
    add_input(parser)
    add_output(parser)
    option = parser.add_argument
    option("--report", action="store_true", help="also write OUT.html: pictures, noise, HU, prior, attention maps")
    option("--batch-size", type=int, metavar="N", help="slices per forward pass of the network")
    option(
        "--compile",
        action="store_true",
        help="run the network through torch.compile: minutes more at the start; `bioatt benchmark --compile` tells "
        "whether it pays",
    )
    add_result(parser)
    option(
        "--series-description",
        metavar="TEXT",
        help="SeriesDescription of the result (default: '{source} {derivation}', the source's and what was done)",
    )
    option("--series-number-step", type=int, metavar="N", help="added to the source's SeriesNumber (default: 1000)")
    option("--stable-uids", action="store_true", help="give the same result the same UIDs instead of new ones")
    option("--keep-private", action="store_true", help="keep private DICOM elements")
    option(
        "--all-series",
        action="store_true",
        help="SERIES is a folder or zip with several series: denoise each CT series into a folder in OUT, named by "
        "SeriesNumber, and list why the others were left out",
    )
    option(
        "--rules",
        metavar="FILE",
        help="with --all-series: which series, and how (JSON, docs/node.md; default: original CT)",
    )
    option(
        "--cohort",
        action="store_true",
        help="SERIES is a list: a text file with one path per line, or a CSV with the columns input and output, and "
        "series (UID or number) where a folder holds several; each result is a folder in OUT, and OUT/cohort.csv "
        "a table of all",
    )
    _add_places(parser)
    option("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> int:
    from ...workflow import run_workflow

    overrides = inference_overrides(options, elsewhere=bool(options.scheduler)) | {
        "report": options.report,
        "stable_uids": options.stable_uids,
        "keep_private": options.keep_private,
        "compile": options.compile,
        "progress": not options.quiet,
    }
    overrides |= given(options, "batch_size", "series_description", "series_number_step")
    configs = ["inference.json"]
    if options.all_series:
        return _all_series(options, configs, overrides)
    if options.rules:
        raise BioAttError("--rules choose among the series of a study; give them together with --all-series")
    if options.cohort:
        from ...cohort import denoise_cohort

        places = _places(options)
        return denoise_cohort(options.input, options.output, configs, overrides, resume=options.resume, places=places)
    for name in ("resume", "processes", "scheduler", "resource", "tries"):
        if not any(getattr(options, name) is one for one in (None, False)):  # a 0 is given
            also = "" if name == "resume" else " or --all-series"
            raise BioAttError(f"--{name} applies to several series; use it with --cohort{also}")
    run_workflow("inference", configs, overrides)
    return 0


def _all_series(options: argparse.Namespace, configs: list[str], overrides: dict[str, Any]) -> int:
    """Every CT series of a study."""
    from ..node.rules import read_rules
    from ..study import denoise_study

    for name in ("series", "one_scan", "cohort", "resume"):
        if getattr(options, name):
            raise BioAttError(f"--all-series applies to a whole study; leave out --{name.replace('_', '-')}")
    rules = read_rules(Path(options.rules) if options.rules else None)
    return denoise_study(options.input, options.output, configs, overrides, rules, _places(options))


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Where a list of series is denoised."""
    option = parser.add_argument
    option("--resume", action="store_true", help="with --cohort: skip what is finished in OUT")
    option("--processes", type=int, metavar="N", help="with --cohort or --all-series: processes here (default: 1)")
    option(
        "--scheduler",
        metavar="ADDRESS",
        help="with either: use the workers of a Dask scheduler, by address or scheduler file",
    )
    option("--resource", action="append", metavar="NAME=N", help="with --scheduler: what a series needs, e.g. GPU=1")
    option(
        "--tries",
        type=int,
        metavar="N",
        help="attempts for a series whose worker dies or fails unexpectedly (default: 3)",
    )


def _places(options: argparse.Namespace) -> Places:
    """Where a list is denoised, as the options say it."""
    from ...cohort import Places

    if options.scheduler and options.processes is not None:
        raise BioAttError("--processes are of this machine, --scheduler has its own workers; give one of them")
    if options.resource and not options.scheduler:
        raise BioAttError("--resource applies to the workers of a cluster; use it with --scheduler")
    for name in ("processes", "tries"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise BioAttError(f"--{name} {number}: expected 1 or more")
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
        raise BioAttError(f"--resource {word}: expected NAME=N, e.g. GPU=1") from None
