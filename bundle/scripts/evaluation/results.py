"""The figures of an evaluation: by slice as CSV; by patient, region and overall as JSON."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..hu import WINDOWS_HU
from ..staging import make_folder, staged_file
from .intervals import patient_interval
from .quality import UNWINDOWED, WINDOWED, measure_name


@dataclass(frozen=True, kw_only=True)
class SliceResult:
    """What was measured on one slice.

    Args:
        region: head, chest, abdomen, pelvis or unknown.
        measures: image (``low``, ``denoised``) to measures by name, see `slice_measures`.
    """

    patient: str
    region: str
    uid: str
    measures: dict[str, dict[str, float]]


def summarise(slices: Sequence[SliceResult]) -> dict[str, Any]:
    """Figures by patient and over patients.

    Returns:
        ``patients``: pseudonym to ``slices`` (how many) and, for each image, the mean over them of each measure
        (NaN where none could be measured). ``overall``: for ``low``, ``denoised`` and ``difference`` (denoised -
        low, paired by patient) each measure as `patient_interval` gives it.
    """
    patients = {
        name: mean_measures([one.measures for one in slices if one.patient == name])
        for name in sorted({one.patient for one in slices})
    }
    overall: dict[str, dict[str, Any]] = {"low": {}, "denoised": {}, "difference": {}}
    for measure in slices[0].measures["low"] if slices else ():
        low, denoised = ({name: of[image][measure] for name, of in patients.items()} for image in ("low", "denoised"))
        difference = {name: denoised[name] - low[name] for name in patients}
        for image, values in zip(overall, (low, denoised, difference), strict=True):
            overall[image][measure] = patient_interval(values)
    return {"patients": patients, "overall": overall}


def mean_measures(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Number of slices, and for each image the mean of each measure over those that could be measured.

    Args:
        rows: of each slice its measures by image, see `slice_measures`; at least one.
    """
    means: dict[str, Any] = {"slices": len(rows)}
    for image, row in rows[0].items():
        means[image] = {}
        for measure in row:
            known = [one[image][measure] for one in rows if not math.isnan(one[image][measure])]
            means[image][measure] = math.fsum(known) / len(known) if known else math.nan
    return means


def summary_document(slices: Sequence[SliceResult], metrics: Sequence[str], windows: Sequence[str]) -> dict[str, Any]:
    """`summarise` of all slices and, under ``regions``, of each region's, with what was measured.

    ``window`` is the one of the measures that have no window in their name.
    """
    names = sorted({one.region for one in slices})
    regions = {name: summarise([one for one in slices if one.region == name]) for name in names}
    return {
        "window": windows[0],
        "windows_hu": {name: WINDOWS_HU[name] for name in windows},
        "metrics": list(metrics),
        **summarise(slices),
        "regions": regions,
    }


def write_csv(
    path: str | os.PathLike[str], slices: Iterable[SliceResult], metrics: Sequence[str], windows: Sequence[str]
) -> None:
    """Write a line per slice, image and window; the file appears whole.

    Columns: patient, region, uid, image, window, then the measures. Noise and bias have no window: they stand in the
    line of each. An empty cell is what the slice shows too little of.

    Raises:
        BioAttError: see `staged_file`.
    """
    windowed = [WINDOWED[name] for name in metrics if name in WINDOWED]
    others = [measure for name in metrics for measure in UNWINDOWED.get(name, ())]
    make_folder(Path(path).parent)
    with staged_file(path) as partial, open(partial, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["patient", "region", "uid", "image", "window", *windowed, *others])
        for one in slices:
            for image, row in one.measures.items():
                for window in windows:
                    values = [row[measure_name(measure, window, windows)] for measure in windowed]
                    values += [row[measure] for measure in others]
                    cells = ["" if math.isnan(value) else value for value in values]
                    writer.writerow([one.patient, one.region, one.uid, image, window, *cells])
