"""What docs/evidence/quality.md says of the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.markdown import table

from studies.measures.edges import EDGES_HU

from .quality import NETWORK
from .tables import limits_table, number

Results = dict[str, Any]

_THREE = ("denoised", "gaussian", "nlm")
_MEASURES = {
    "psnr_db": ("PSNR (dB)", ".2f"),
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
    rows = []
    for patient, mean in one["patients"].items():
        for image in (name for name in mean if name != "slices"):
            gain = one["gain"][patient].get(image)
            told = (f"{gain['psnr_db']:+.2f}", f"{gain['share_of_cap']:.0%}") if gain else ("", "")
            values = [number(mean[image][key], form) for key, (_, form) in _MEASURES.items()]
            rows.append((patient, image, values[0], *told, *values[1:]))
    titles = [title for title, _ in _MEASURES.values()]
    head = ("patient", "image", titles[0], "gain (dB)", "of the cap", *titles[1:])
    slices = {name: mean["slices"] for name, mean in one["patients"].items()}
    return f"""## Quarter dose, patients left out

Full dose: routine CT from The Cancer Imaging Archive;
{", ".join(f"{n} slices of {name}" for name, n in slices.items())}, evenly spread. Low dose: simulated at
{one["dose_fraction"]:g} (docs/simulation.md; noise of each series' own spectrum). Window -160 to 240 HU; the
four columns of tissues are the mean of image minus full dose. `network` is the shipped weights; the rows with
other priors are the same weights. Two patients allow no interval.

The full dose is noisy, which caps the gain: with the anatomy known, the best estimate of a noisy full dose from
a dose k leaves (1 - k) of its variance where the low dose has (1/k - 1), so the cap is -10 lg k, here
{one["cap_db"]:.2f} dB. Anatomy without any noise would gain 10 lg (1/k - 1), 4.77 dB at a quarter.

{limits_table(one["limits"])}

{table(head, rows)}

`nlm` is non-local means as tuned before these patients were looked at, `nlm, retuned` with the settings that
gained most on them; both blend the result with the input.

The slices where the network gains least over the low dose:

{table(("patient", "slice", "PSNR low", "network", "gain (dB)", "SSIM low", "network"), worst_slices(one))}"""


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
    rows = []
    for row in one["rows"]:
        edges = [
            (
                " / ".join(number(row["edges_mm"][edge][name]) for name in ("full", "low", "out"))
                if edge in row["edges_mm"]
                else "-"
            )
            for edge in EDGES_HU
        ]
        pairs = [
            f"{number(row['low'][key], form)} | {number(row['out'][key], form)}"
            for key, form in (("psnr_db", ".2f"), ("ssim", ".4f"), ("noise_sd_hu", ".1f"))
        ]
        rows.append((row["patient"], f"{row['dose_fraction']:g}", f"{row['strength']}", *pairs, *edges))
    head = ("patient", "dose", "strength", "PSNR in (dB)", "out", "SSIM in", "out", "noise in (HU)", "out")
    head += ("body edge full / in / out (mm)", "bone edge")
    return f"""## From full dose to a tenth

Against the full dose. At dose 1 that is the input itself: PSNR and SSIM out tell what the network changes in an
image that asks for little. Edges are the 10-90% width of the mean profile. A row is four slices of one patient: no
interval.

{table(head, rows)}"""


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
much it differs between neighbours, on whole series at a dose of {one["dose_fraction"]:g}. The limit is that of the
body. Steps of a tissue of few pixels, such as bone, hold the noise of the input too, which is not the same in two
slices.

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
