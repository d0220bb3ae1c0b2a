"""What docs/evidence/quality.md says of the results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scripts.evaluation.intervals import patient_interval
from scripts.pages import table

from studies.measures.edges import EDGES_HU

from .quality import NETWORK, SMOOTH
from .tables import limits_table, mean_with_interval, number

Results = dict[str, Any]

_THREE = ("denoised", "gaussian", "nlm")
_MEASURES = {
    "psnr_db": ("PSNR (dB)", ".2f"),
    "gain_db": ("gain (dB)", "+.2f"),
    "ssim": ("SSIM", ".4f"),
    "rmse_hu": ("RMSE (HU)", ".2f"),
    "noise_sd_hu": ("noise (HU)", ".1f"),
    "bias_lung_hu": ("lung (HU)", "+.2f"),
    "bias_fat_hu": ("fat", "+.2f"),
    "bias_soft_tissue_hu": ("soft tissue", "+.2f"),
    "bias_bone_hu": ("bone", "+.2f"),
}


def quality_section(one: Results, results: Path) -> str:
    """Quarter dose against the full dose."""
    mean, gain = over_patients(one), one["gain"]
    rows = [
        (image, *(mean_with_interval(of[key], form) if key in of else "" for key, (_, form) in _MEASURES.items()))
        for image, of in mean.items()
    ]
    gained = [image for image in mean if image != "low"]
    by_patient = [
        (patient, means["slices"], number(means["low"]["psnr_db"]))
        + tuple(f"{gain[patient][image]['psnr_db']:+.2f}" for image in gained)
        + (f"{gain[patient][NETWORK]['share_of_cap']:.0%}",)
        for patient, means in one["patients"].items()
    ]
    gain_head = ("patient", "slices", "PSNR low (dB)", *(f"gain, {image}" for image in gained), "network, of the cap")
    broken = [limit for limit in one["limits"] if not limit["kept"]]
    return f"""## Quarter dose, patients left out

Full dose: routine CT from The Cancer Imaging Archive, {len(one["patients"])} patients. Low dose: simulated at
{one["dose_fraction"]:g} (docs/simulation.md; noise of each series' own spectrum). Window -160 to 240 HU; the four
columns of
tissues are the mean of image minus full dose. `network` is the shipped weights; rows with other priors are the same
weights. `{SMOOTH}` leaves as much noise in flat tissue of each slice as `network`. Mean over patients (95% interval by
Student's t, the patient as unit):

{table(("image", *(title for title, _ in _MEASURES.values())), rows)}

By patient; a row is the mean over the slices of one patient and has no interval:

{table(gain_head, by_patient)}

The full dose is noisy, which caps the gain: with the anatomy known, the best estimate of a noisy full dose from
a dose k leaves (1 - k) of its variance where the low dose has (1/k - 1), so the cap is -10 lg k, here
{one["cap_db"]:.2f} dB. Anatomy without any noise would gain 10 lg (1/k - 1), 4.77 dB at a quarter.

`nlm` is non-local means as tuned before these patients were looked at, `nlm, retuned` with the settings that
gained most on CRLM-CT-1004 and -1006; both blend the result with the input.

Limits, by patient: PSNR at least 0.5 dB over `nlm` and not below the Gaussian's, SSIM above `nlm`'s, HU of each tissue
kept within 2 HU. Of {len(one["limits"])} limits {len(one["limits"]) - len(broken)} are
kept.{" Not kept:" if broken else ""}

{limits_table(broken) if broken else ""}

The slices where the network gains least over the low dose (single slices, so no interval):

{table(("patient", "slice", "PSNR low", "network", "gain (dB)", "SSIM low", "network"), worst_slices(one))}"""


def over_patients(quality: Results) -> dict[str, dict[str, Any]]:
    """Image to measure, and ``gain_db``, to `patient_interval`, from quality.json."""
    means, gain = quality["patients"], quality["gain"]
    images = [image for image in next(iter(means.values())) if image != "slices"]
    measures = {
        image: {
            name: patient_interval({patient: mean[image][name] for patient, mean in means.items()})
            for name in next(iter(means.values()))[image]
        }
        for image in images
    }
    for image, of in measures.items():
        if image != "low":
            of["gain_db"] = patient_interval({patient: one[image]["psnr_db"] for patient, one in gain.items()})
    return measures


def worst_slices(one: Results, count: int = 4) -> list[tuple[str, ...]]:
    """Rows of the slices with the least gain in PSNR, worst first."""
    rows = [
        (patient, index, measures["low"], measures[NETWORK])
        for patient, of in one["slices"].items()
        for index, measures in of.items()
    ]
    rows.sort(key=lambda row: row[3]["psnr_db"] - row[2]["psnr_db"])
    return [
        (
            patient,
            index,
            number(low["psnr_db"]),
            number(out["psnr_db"]),
            f"{out['psnr_db'] - low['psnr_db']:+.2f}",
            number(low["ssim"], ".4f"),
            number(out["ssim"], ".4f"),
        )
        for patient, index, low, out in rows[:count]
    ]


def doses_section(one: Results, results: Path) -> str:
    """From full dose to a tenth."""
    groups: dict[tuple[float, str], list[Results]] = {}
    for row in one["rows"]:
        groups.setdefault((row["dose_fraction"], row["strength"]), []).append(row)
    rows = [(f"{dose:g}", strength, *_dose_cells(of)) for (dose, strength), of in groups.items()]
    patients = {row["patient"] for row in one["rows"]}
    slices = {row["slices"] for row in one["rows"]}
    head = ("dose", "strength", "PSNR in (dB)", "out", "Gaussian", "SSIM in", "out", "Gaussian", "noise in (HU)", "out")
    head += tuple(f"{edge} edge wider (mm), {what}" for edge in EDGES_HU for what in ("out", "Gaussian"))
    return f"""## From full dose to a tenth

Against the full dose, {len(patients)} patients, {" or ".join(map(str, sorted(slices)))} slices each; mean over
patients (95% interval by
Student's t). At dose 1 the full dose is the input itself: PSNR and SSIM tell how much is changed in an image that needs
little. *Gaussian*: it leaves as much noise in flat tissue of each slice as the network at that strength. *Edge wider*:
10-90% width of the mean profile, less that of the input.

{table(head, rows)}"""


def _dose_cells(rows: Sequence[Results]) -> list[str]:
    """Cells of one dose and strength, means over patients."""
    cells = []
    for key, form in (("psnr_db", ".2f"), ("ssim", ".4f"), ("noise_sd_hu", ".1f")):
        for image in ("low", "out", "gaussian") if key != "noise_sd_hu" else ("low", "out"):
            cells.append(_over_patients(rows, lambda row, i=image, k=key: row.get(i, {}).get(k), form))
    for edge in EDGES_HU:
        for image in ("out", "gaussian"):
            cells.append(_over_patients(rows, lambda row, e=edge, i=image: _wider(row["edges_mm"].get(e), i), "+.3f"))
    return cells


def _wider(widths: dict[str, float] | None, image: str) -> float | None:
    """How much wider an edge is than the input's; None where one of them was not measured."""
    if not widths or widths.get(image) is None or widths["low"] is None:
        return None
    return widths[image] - widths["low"]


def _over_patients(rows: Sequence[Results], value: Callable[[Results], float | None], form: str) -> str:
    values = {row["patient"]: math.nan if (v := value(row)) is None else v for row in rows}
    return mean_with_interval(patient_interval(values), form)


def volumes_section(one: Results, results: Path) -> str:
    """Neighbouring slices."""
    rows = [
        (patient, tissue, s["pairs"], number(s["median"], ".3f"), number(s["p95"], ".3f"), number(s["max"], ".3f"))
        + (f"{s['slice']}, {s['slice'] + 1}",)
        for patient, steps in one["patients"].items()
        for tissue, s in steps.items()
    ]
    head = ("patient", "tissue", "pairs", "median (HU)", "95%", "max", "worst pair of slices")
    pictures = "\n\n".join(f"![Coronal and sagittal reformats](results/{name})" for name in one["pictures"])
    return f"""## From slice to slice

Slices are denoised one by one. Here: the mean of (output - input) over the body and over each tissue, and how
much it differs between neighbours, on the {len(one["patients"])} series left out whose slices touch, at a dose of
{one["dose_fraction"]:g}. The limit is that of the body. Steps of a tissue of few pixels, such as bone, contain the
noise
of the input too, which differs from slice to slice. n is the number of pairs of slices; they are all there are, so the
median, 95% quantile and maximum describe the series and have no interval, and two series allow none over patients. A
Gaussian in the plane changes no mean and has no steps.

{limits_table(one["limits"])}

{table(head, rows)}

{pictures}"""


def series_section(one: Results, results: Path) -> str:
    """Routine-dose series as they are."""
    noise, edges = [], []
    for name, s in one["series"].items():
        before, after = s["noise_sd_hu"]
        every = s["soft_tissue_sd_hu"][1] / s["soft_tissue_sd_hu"][0] - 1
        biases = [number(s["bias_hu"].get(t), "+.2f") for t in ("fat", "soft tissue", "bone")]
        row = (name, s["slices"], number(before, ".1f"), number(after, ".1f"), f"{after / before - 1:+.0%}")
        noise.append((*row, f"{every:+.0%}", *biases))
        for edge in (edge for edge in EDGES_HU if edge in s["edges"]):
            widths = [number(s["edges"][edge][x]) for x in ("input", "denoised", "gaussian", "nlm")]
            edges.append((name, edge, *widths, " / ".join(number(s["edges"]["noise_sd_hu"][x], ".1f") for x in _THREE)))
    head = (
        "series",
        "slices",
        "noise before (HU)",
        "after",
        "change",
        "all soft tissue",
        "fat (HU)",
        "soft tissue",
        "bone",
    )
    edge_head = ("series", "edge", "input (mm)", "denoised", "gaussian", "nlm", "noise of the last three (HU)")
    pictures = "\n\n".join(f"![Input, denoised, difference](results/{name})" for name in one["pictures"])
    return f"""## Routine-dose series as they are

The series themselves, denoised, those trained on among them (the model card names them). Noise as in
docs/conventions.md; "all soft tissue" is the same without the choice of flat places, so it holds the edges of
organs and vessels, which must stay. The columns of tissues are the mean of output minus input. The Gaussian
filter and non-local means are tuned to the noise of the denoised slices. A row is one series: no interval. Pictures are
smaller than the slices; those above show every pixel.

{table(head, noise)}

{table(edge_head, edges)}

{pictures}"""
