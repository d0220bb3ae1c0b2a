"""What docs/evidence/operating_point.md says of an anchor for the lungs and one for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scripts.pages import table

from .operating_point import BODY, BY_HU, BY_PRIOR, LUNG, NODULE_HU, ONE, PAIRS_MM, REST
from .tables import mean_with_interval

Results = dict[str, Any]
#: What a reader would call better: measure to its sign. Noise is the price, and no gain by itself.
BETTER = {"contrast": 1.0, "error": -1.0}


def operating_point_section(one: Results, results: Path) -> str:
    """One table at equal noise, and how well the lungs are found."""
    patients, found = one["patients"], one["differences"]
    names = [name for name in next(iter(found.values())) if name.partition(",")[0] in (*BETTER, "noise")]
    shown = [name for name in names if not name.startswith("noise")]
    rows = [(setting, *(mean_with_interval(of[name], "+.1f" if "contrast" in name else "+.2f") for name in shown))
            for setting, of in found.items()]  # fmt: skip
    slices = sum(len(of["slices"]) for of in patients.values())
    discs = {region: sum(_first(of)["discs"][region] for of in patients.values()) for region in (LUNG, REST)}
    without = f" ({', '.join(one['without'])}: no slice with both)" if one["without"] else ""
    return f"""## At equal noise

{slices} slices of {len(patients)} patients left out that show lungs and even soft tissue{without}, dose
{one["dose_fraction"]:g}, shipped weights. *Settings*: anchor in the lungs and elsewhere. *{BY_HU}*: the low dose
smoothed by 3 mm lies below -300 to -600 HU inside the body. *{BY_PRIOR}*: what the compact model's dense prior says of
"lungs" at each of its 4 x 4 places, interpolated. Each setting is set beside the single anchor that leaves as much
noise in the body; noise is the SD of the difference of two realisations of the added noise, output over input.
{discs[LUNG]} nodules of {NODULE_HU:g} HU in lungs, {discs[REST]} discs of 20 to 40 HU in soft tissue.

Differences to one anchor of equal noise: contrast kept in points, error against the noise-free image in dB (less is
better); mean over patients (95% interval by Student's t):

{table(("setting", *shown), rows)}

How much of the pixels of lungs and of soft tissue each way takes for lung (1 and 0 would be right), mean over
the {len(patients)} patients (a description of these, so no interval):

{table(("way", LUNG, REST), [(way, *_found(one, way)) for way in (BY_HU, BY_PRIOR)])}

One anchor for all, mean over the {len(patients)} patients (the differences above are taken from these and
have the intervals):

{table(_ONE_HEAD, _one_rows(one))}"""


_ONE_HEAD = (
    "anchor",
    "noise left, body",
    LUNG,
    REST,
    "4 mm kept in lungs",
    "4 mm in soft tissue",
    "error, lungs (HU²)",
    REST,
    BODY,
)


def conclusion(one: Results) -> str:
    """Which settings gain something without losing something, by intervals that leave 0 out."""
    found = one["differences"]
    judged = {setting: judge(of) for setting, of in found.items()}
    paying = {setting: gains for setting, (gains, losses) in judged.items() if gains and not losses}
    n = max(interval["n"] for of in found.values() for interval in of.values())
    clear = [setting for setting, gains in paying.items() if any(gain.startswith("contrast") for gain in gains)]
    start = (
        f"{len(clear)} of {len(found)} ways to anchor the lungs apart gain contrast and show no loss"
        if clear
        else "No way to anchor the lungs apart gains contrast without showing a loss, so one anchor for all stays"
    )
    finer = f"{BY_HU}, {PAIRS_MM[1][0]:g} and {PAIRS_MM[1][1]:g} mm"
    of = found[finer]
    points = {region: mean_with_interval(of[f"contrast, {region}, 4 mm"], "+.1f") for region in (LUNG, REST)}
    error = mean_with_interval(of[f"error, {BODY}"], "+.2f")
    told = "; ".join(f"{setting}: {_told(gains)}" for setting, gains in paying.items())
    return (
        f"{start}. With a finer anchor in the lungs ({finer}) nodules of 4 mm keep {points[LUNG]} points more of their "
        f"contrast there, and discs of 4 mm in soft tissue {points[REST]} points, at equal noise; the error of the "
        f"body "
        f"changes by {error} dB (mean of {n} patients, 95% interval). Of {len(found)} ways {len(paying)} "
        f"{'gains' if len(paying) == 1 else 'gain'} something with no loss whose interval leaves out 0"
        f"{f' ({told})' if told else ''}. {n} patients are few: losses of some points of contrast cannot be excluded."
    )


def summary(one: Results) -> str:
    """For docs/priors.md: `conclusion`, and how well the dense prior tells lungs from soft tissue."""
    lungs, rest = _found(one, BY_PRIOR)
    return (
        f"{conclusion(one)} The dense prior calls {lungs} of the lungs' pixels lung, and {rest} of the soft "
        f"tissue's: its "
        "places are coarse."
    )


def judge(of: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Measures that are better than those of one anchor, and those that are worse, by 95% intervals without 0."""
    gains, losses = [], []
    for name, interval in of.items():
        sign, ends = BETTER.get(name.partition(",")[0]), interval["interval_95"]
        if sign and ends and min(ends) * max(ends) > 0.0:
            (gains if sign * interval["mean"] > 0.0 else losses).append(name)
    return gains, losses


def _told(names: list[str]) -> str:
    return ", ".join(name.replace(", ", " ") for name in names)


def _first(of: Results) -> Results:
    return next(iter(of["figures"].values()))


def _found(one: Results, way: str) -> list[str]:
    shares = zip(*(of["lung_pixels_found"][way] for of in one["patients"].values()), strict=True)
    return [_mean(list(of), ".2f") for of in shares]


def _one_rows(one: Results) -> list[tuple[str, ...]]:
    rows = []
    for mm in one["anchors_mm"]:
        of = [p["figures"][f"{ONE}, {mm:g} mm"] for p in one["patients"].values()]
        rows.append(
            (
                f"{mm:g} mm",
                *(_mean([x["noise"][region] for x in of], ".0%") for region in (BODY, LUNG, REST)),
                *(_mean([x["contrast"][region]["4"] for x in of], ".0%") for region in (LUNG, REST)),
                *(_mean([x["error"][region] for x in of], ".0f") for region in (LUNG, REST, BODY)),
            )
        )
    return rows


def _mean(values: list[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(float(np.mean(known)), form) if known else "-"
