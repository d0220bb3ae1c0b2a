"""Denoises each CT series of a study: which, by the rules of the node; each to a folder of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..cohort import Job, Places, denoise_jobs
from ..dicom.scan import Scan, scan, series_number
from ..errors import BioAttError, find_bioatt_error
from ..staging import check_output_folder
from ..volumes.save import check_apart
from .node.rules import Choice, Rule, choose
from .node.storage import is_uid

logger = logging.getLogger(__name__)


class SeriesOutcome(NamedTuple):
    """What became of a series.

    Args:
        state: ``denoised``, ``left out`` or ``failed``.
        told: where the result is, with its figures; of the two latter the reason.
    """

    number: int | None
    uid: str
    images: int
    state: str
    told: str


def denoise_study(
    study: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    configs: Sequence[str],
    overrides: Mapping[str, Any],
    rules: Sequence[Rule],
    places: Places,
) -> int:
    """Denoise each CT series of a folder or zip that the rules choose, and print what became of all series.

    ::

        output_dir/
          series0003/    a derived series, by the SeriesNumber of its source; appears whole or not at all
          series0004/

    A series that fails stops no other.

    Args:
        output_dir: folder of the results: new, or empty; with ``overwrite`` the folders in it are replaced one by one.
        configs, overrides: of `denoise_jobs`.

    Returns:
        The exit code: 0, or 1 if a series failed.

    Raises:
        BioAttError: there is no CT, the rules choose none, a damaged file, the folder cannot be used, or no series can
            be denoised with these settings.
    """
    check_apart(study, output_dir)
    check_output_folder(output_dir, bool(overrides.get("overwrite")))
    scanned, root = scan(Path(study)), Path(output_dir)
    outcomes = [SeriesOutcome(one.number, uid, one.images, "left out", one.kind) for uid, one in scanned.others.items()]
    jobs, source = [], Path(study).absolute()

    def tell(uid: str, state: str, told: str) -> None:
        files = scanned.series[uid]
        outcomes.append(SeriesOutcome(series_number(files[0][1]), uid, len(files), state, told))

    for uid, name in folder_names(scanned).items():
        choice = _choose(uid, scanned, rules)
        if isinstance(choice, Choice) and choice.settings is not None:
            jobs.append(Job(source=source, target=root.absolute() / name, series=uid, settings=choice.settings))
        elif isinstance(choice, Choice):
            tell(uid, "left out", choice.why)
        else:
            tell(uid, "failed", str(choice))
    for job, outcome in denoise_jobs(jobs, configs, overrides, places):
        if outcome["state"] == "done":
            tell(job.series, "denoised", _result(job.target.name, outcome))
        else:
            tell(job.series, "failed", outcome["why"])
    outcomes.sort(key=lambda one: (one.number or 0, one.uid))
    print("\n".join(_told(outcomes, root)), flush=True)
    if all(one.state == "left out" for one in outcomes):
        raise BioAttError(
            f"{study}: nothing was denoised, none of its {len(outcomes)} series is chosen (the table says why); choose "
            "others with --rules FILE (docs/node.md), or one with --series in place of --all-series"
        )
    return int(any(one.state == "failed" for one in outcomes))


def folder_names(scanned: Scan) -> dict[str, str]:
    """A folder for each CT series, by its number, a second one of a number with _2; with no words of the header."""
    names: dict[str, str] = {}
    for uid, files in scanned.series.items():
        number = series_number(files[0][1])
        name = f"series{number or 0:04d}"
        taken = sum(one == name or one.startswith(f"{name}_") for one in names.values())
        names[uid] = f"{name}_{taken + 1}" if taken else name
    return names


def _choose(uid: str, scanned: Scan, rules: Sequence[Rule]) -> Choice | BioAttError:
    """What becomes of a series, or why that cannot be said."""
    if not is_uid(uid):  # it becomes a setting, and settings can be code
        return BioAttError("its SeriesInstanceUID is no UID; repair it, or denoise it in a folder of its own")
    try:
        return choose([file for file, _ in scanned.series[uid]], rules)
    except Exception as error:
        ours = find_bioatt_error(error)
        if ours is None:
            logger.exception("series %s: unexpected error", uid)
        return ours or BioAttError(f"unexpected {type(error).__name__}")


def _told(outcomes: Sequence[SeriesOutcome], root: Path) -> list[str]:
    """A line for each series, and how many were denoised, left out and failed."""
    row = "{:>8}  {:>6}  {:<9}  {}"
    lines = ["", row.format("number", "images", "state", "")]
    for one in outcomes:
        number = "-" if one.number is None else one.number
        lines.append(row.format(number, one.images, one.state, one.told))
    counts = (f"{sum(one.state == state for one in outcomes)} {state}" for state in ("denoised", "left out", "failed"))
    where = f", results in {root}" if any(one.state == "denoised" for one in outcomes) else ""
    return [*lines, f"{len(outcomes)} series{where}: {', '.join(counts)}"]


def _result(folder: str, figures: Mapping[str, Any]) -> str:
    noise, scope = figures.get("noise_sd_hu"), figures.get("outside_scope", ())
    told = f", noise {noise['before']:.1f} HU before, {noise['after']:.1f} HU after" if noise else ""
    outside = "".join(f"; outside what the weights were trained on: {what}" for what in scope)
    return f"{folder}{told}{outside}"
