"""What docs/evidence/quality.md says of the plane and of the error against the truth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scripts.evaluation.intervals import patient_interval
from scripts.pages import table
from scripts.strengths import DEFAULT

from . import plots
from .matrix import held
from .plane import BM3D, GAUSSIAN, NLM, OLD, TV, WRONG, above_gaussian, best_error
from .quality import NETWORK
from .tables import limits_table, mean_with_interval, number

Results = dict[str, Any]

DIAMETERS = ("4", "6", "10", "15")
REGIONS = ("body", "edges", "flat")
#: What the error is set beside, each with the setting that serves it best.
OTHERS = (OLD, GAUSSIAN, NLM, TV)
#: Settings of the Gaussian that the table shows; the picture has all.
SHOWN_GAUSSIANS = ("0 mm", "0.5 mm", "0.7 mm", "1 mm", "1.4 mm", "2 mm")


def plane_section(one: Results, results: Path) -> str:
    """Contrast and noise, then the error."""
    found, few = one["figures"], one["few"]["figures"]
    drawn = {name: of for name, of in found.items() if name != WRONG}
    plots.plot_plane(results / "plane.png", drawn, few, DIAMETERS)
    strengths = ", ".join(
        f"{name} {anchor:g} mm" + (f" with {grain:.0%} of the grain" if grain else "")
        for name, (anchor, grain) in one["strengths"].items()
    )
    slices = {name: len(of["slices"]) for name, of in one["patients"].items()}
    discs = {d: sum(_discs(of, d) for of in found[NETWORK]["standard"].values()) for d in DIAMETERS}
    about = [
        (name, len(of["slices"]), f"{of['spacing_mm']:.2f}", number(_first(found, name)["noise_in_hu"], ".1f"))
        + (number(of["alpha2"], ".1f"), number(of["alpha2_measured"]), of["noise"])
        for name, of in one["patients"].items()
    ]
    kept = sum(limit["kept"] for limit in one["limits"])
    broken = [limit for limit in one["limits"] if not limit["kept"]]
    return f"""## Noise left and contrast kept, patients left out

{len(slices)} patients, {sum(slices.values())} slices evenly spread over those with room; low dose simulated at
{one["dose_fraction"]:g} with noise of the series' own spectrum. Discs of {", ".join(DIAMETERS)} mm at -20, +20 and
+40 HU ({", ".join(map(str, discs.values()))} of them) are put into even soft tissue; each slice is denoised with and
without them, with one noise and one prior. *Contrast kept*: the mean of the difference over what was put in. *Noise
left*: local SD in flat soft tissue, output over input. *Frequency left*: mean frequency of the noise in flat squares,
output over input. *Above*: points of contrast above a Gaussian that leaves as much noise. Anchors of `network`,
detail restored: {strengths}. Cells: mean over the {len(slices)} patients (95% interval by Student's t).

{table(_PLANE_HEAD, _plane_rows(found, few, one["few"]["slices"]))}

![Contrast kept against noise left by diameter; small dots are the patients of network](results/plane.png)

Points of the picture are the means of the table, which has their intervals; small dots are the single patients of
`network`, a dot for each strength.

By contrast, `network`, mean over {len(slices)} patients (95% interval):

{table(("strength", "diameter", "-20 HU", "+20 HU", "+40 HU"), _contrast_rows(found))}

### Error against the truth

The full dose is noisy, so PSNR against it is best for an output that keeps a part of the scanner's noise. Here the mean
squared error against the noise-free image is estimated without bias (docs/evaluation.md), in HU². Each filter, and
0.3.2, with the setting that serves it best, chosen anew for each patient and region; `network` at each strength. A row
is one patient's four slices, which allow no interval; means over patients with theirs follow.

{table(_ERROR_HEAD, _error_rows(found, few))}

{_of_bm3d(one["few"])} Mean over the {len(slices)} patients of the error of `network` at high over that of the others
(95% interval):
{_ratios(found, few)}.

How the low doses came about. alpha² is the variance of the added noise over that of the full dose's own, nominal and as
measured in flat tissue; a row describes the four slices of one patient and has no interval:

{table(_ABOUT_HEAD, about)}

Limits are on the figures of single patients, which have no interval.
Of {len(one["limits"])} {kept} are kept.{" Not kept:" if broken else ""}

{limits_table(broken) if broken else ""}""".rstrip()


_PLANE_HEAD = (
    *("image", "setting", "noise left", "frequency left", *(f"{d} mm" for d in DIAMETERS)),
    *("above, 4 mm", "6 mm", "10 mm", "PSNR to the noisy full dose (dB)"),
)
_ERROR_HEAD = (
    *("patient", "region", "low dose", "network, low", "standard", "high"),
    *("0.3.2", "Gaussian", "non-local means", "total variation", "BM3D over high"),
)
_ABOUT_HEAD = ("patient", "slices", "pixel (mm)", "noise of the low dose (HU)", "alpha²", "measured", "noise")


def conclusion(found: Mapping[str, Any]) -> str:
    """Two plain sentences, of noise and contrast at standard and of the Gaussian beside it."""
    standard = found[NETWORK][DEFAULT]
    noise = _cell(standard, lambda one: one["noise_left"], ".0%")
    kept = [_cell(standard, lambda one, d=d: one["contrast"][d], ".0%") for d in ("4", "6", "10")]
    points = _points(found)
    below = sum(value < 0.0 for value in points)
    told = f"on all of {len(points)} figures" if not below else f"on {len(points) - below} of {len(points)} figures"
    return (
        f"At standard strength {noise} of the noise is left, and {kept[0]}, {kept[1]} and {kept[2]} of the contrast of "
        f"4, 6 and 10 mm discs is kept (mean of {len(standard)} patients, 95% interval). The network keeps more "
        f"contrast "
        f"than a Gaussian blur that leaves as much noise {told} (patients, strengths and diameters), by "
        f"{min(points):+.1f} to {max(points):+.1f} points."
    )


def page_conclusion(one: Results, matrix: Results) -> str:
    """`conclusion`, the error beside the filters', and where it ends."""
    found = one["figures"]
    kept, count = held(matrix)
    body = [_ratio_to(found, who, "body") for who in (NLM, TV)]
    return (
        f"{conclusion(found)} At high its error against the noise-free image, in the body, is {body[0]} times that of "
        f"{NLM} and {body[1]} times that of {TV}.{_beaten(one)} Of {count} pairs of patient and dose {kept} keep all "
        f"that is promised"
        f"{f'; what others do not keep: {_ends(matrix)}' if kept < count else ''}."
    )


def _points(found: Mapping[str, Any]) -> list[float]:
    """Points of contrast above a Gaussian of equal noise: each strength, patient and diameter."""
    return [
        above_gaussian(found, of, patient, d)
        for by in found[NETWORK].values()
        for patient, of in by.items()
        for d in ("4", "6", "10")
    ]


def _beaten(one: Results) -> str:
    """On how many patients BM3D has less error; empty where it was not measured, or has on none."""
    bm3d = [limit for limit in one["limits"] if f"error of body over that of {BM3D}" in limit["name"]]
    worse = [limit["value"] for limit in bm3d if not limit["kept"]]
    if not worse:
        return ""
    return (
        f" {BM3D}, given the noise spectrum, has less error on {len(worse)} of {len(bm3d)} patients (ours is "
        f"up to {max(worse) - 1.0:.0%} higher)."
    )


def _ends(matrix: Results) -> str:
    """What is not kept in the matrix, and how often."""
    ends = Counter(_promise(end) for of in matrix["doses"].values() for x in of.values() for end in x["ends"])
    return ", ".join(f"{name} ({count})" for name, count in ends.items())


def _promise(end: str) -> str:
    """The kind of one entry of ``ends``, see `matrix.measure_matrix`."""
    first, second, *_ = end.split()
    return {"edges": f"wider {first} edges", "of": "error"}.get(second, f"contrast of {first} {second}")


def front_table(one: Mapping[str, Any]) -> str:
    """The table of the README: the network at its strengths, and each filter at the setting of least mean error."""
    found, few = one["figures"], one["few"]["figures"]
    rows = [(f"BioAtt, {name}", found, of) for name, of in found[NETWORK].items()]
    for who, figures in ((GAUSSIAN, found), (NLM, found), (TV, found), (BM3D, few)):
        if who in figures:
            setting = min(figures[who], key=lambda name, of=figures[who], base=figures: _error_left(base, of[name]))
            rows.append((f"{who}, {setting}", figures, figures[who][setting]))
    return table(
        (
            f"quarter dose, mean of {len(found[GAUSSIAN]['0 mm'])} patients",
            "noise left",
            "contrast kept, 4 mm",
            "6 mm",
            "10 mm",
            "points above a Gaussian of equal noise",
            "error left",
        ),
        [
            (name, f"{np.mean([p['noise_left'] for p in of.values()]):.0%}")
            + tuple(f"{np.mean([p['contrast'][d] for p in of.values()]):.0%}" for d in ("4", "6", "10"))
            + (" / ".join(_above(figures, of, d) for d in ("4", "6", "10")), f"{_error_left(figures, of):.0%}")
            for name, figures, of in rows
        ],
    )


def _above(figures: Mapping[str, Any], of: Mapping[str, Any], diameter: str) -> str:
    """Contrast above that of the Gaussian of equal noise in points, mean over patients."""
    found = (above_gaussian(figures, one, patient, diameter) for patient, one in of.items())
    return f"{np.mean(list(found)):+.1f}"


def _error_left(figures: Mapping[str, Any], of: Mapping[str, Any]) -> float:
    """Error against the truth in the body over that of the low dose, mean over patients."""
    low = figures[GAUSSIAN]["0 mm"]
    return float(np.mean([one["error_hu2"]["body"] / low[p]["error_hu2"]["body"] for p, one in of.items()]))


def _plane_rows(found: Mapping[str, Any], few: Mapping[str, Any], few_slices: int) -> list[tuple[str, ...]]:
    rows = []
    for who, figures in (
        (NETWORK, found),
        (WRONG, found),
        (OLD, found),
        (GAUSSIAN, found),
        (NLM, found),
        (TV, found),
        (BM3D, few),
    ):
        for setting, of in figures.get(who, {}).items():
            if who == GAUSSIAN and setting not in SHOWN_GAUSSIANS:
                continue
            name = f"{who} ({few_slices} slices a patient)" if figures is few else who
            above = [{p: above_gaussian(figures, one, p, d) for p, one in of.items()} for d in ("4", "6", "10")]
            rows.append(
                (name, setting, _cell(of, lambda one: one["noise_left"], ".0%"))
                + (_cell(of, lambda one: one["frequency_left"], ".0%"),)
                + tuple(_cell(of, lambda one, d=d: one["contrast"].get(d), ".0%") for d in DIAMETERS)
                + tuple("" if who == GAUSSIAN else _mean(values, "+.1f") for values in above)
                + (_cell(of, lambda one: one["psnr_db"], ".2f"),)
            )
    return rows


def _of_bm3d(few: Mapping[str, Any]) -> str:
    if not few["slices"]:
        return "BM3D was not measured."
    return (
        f"BM3D is slow: it is evaluated on {few['slices']} slices a patient, in the middle {few['window']} x "
        f"{few['window']} pixels of the body, and given as a multiple of the error that `network` at high has there."
    )


def _contrast_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (strength, f"{d} mm")
        + tuple(
            _cell(of, lambda one, d=d, c=c: one["contrast_by_hu"].get(d, {}).get(c), ".0%") for c in ("-20", "20", "40")
        )
        for strength, of in found[NETWORK].items()
        for d in DIAMETERS
    ]


def _error_rows(found: Mapping[str, Any], few: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for patient in found[NETWORK]["high"]:
        for region in REGIONS:
            ours = [found[NETWORK][s][patient]["error_hu2"][region] for s in ("low", "standard", "high")]
            cells = [found[GAUSSIAN]["0 mm"][patient]["error_hu2"][region], *ours]
            cells += [best_error(found, who, patient, region) if who in found else None for who in OTHERS]
            slow = "-"
            if BM3D in few:
                same = few[NETWORK]["high"][patient]["error_hu2"][region]
                slow = f"{best_error(few, BM3D, patient, region) / same:.2f}"
            rows.append((patient, region, *(number(cell, ".1f") for cell in cells), slow))
    return rows


def _ratios(found: Mapping[str, Any], few: Mapping[str, Any]) -> str:
    known = [(figures, who) for figures, of in ((found, OTHERS), (few, (BM3D,))) for who in of if who in figures]
    return "; ".join(
        f"{who}, {region} {_ratio_to(figures, who, region)}" for figures, who in known for region in ("body", "edges")
    )


def _ratio_to(found: Mapping[str, Any], who: str, region: str) -> str:
    """Error of the network at high over that of a method at its best setting, mean over patients."""
    return _mean(
        {p: one["error_hu2"][region] / best_error(found, who, p, region) for p, one in found[NETWORK]["high"].items()},
        ".2f",
    )


def _cell(of: Mapping[str, Any], value: Any, form: str) -> str:
    values = {patient: value(one) for patient, one in of.items()}
    return _mean({patient: math.nan if value is None else value for patient, value in values.items()}, form)


def _mean(values: Mapping[str, float], form: str) -> str:
    return mean_with_interval(patient_interval(values), form)


def _first(found: Mapping[str, Any], patient: str) -> Mapping[str, Any]:
    return next(iter(found[NETWORK].values()))[patient]


def _discs(figures: Mapping[str, Any], diameter: str) -> int:
    return figures["discs"].get(diameter, 0)
