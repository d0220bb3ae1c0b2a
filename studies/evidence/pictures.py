"""Pictures at full resolution, chosen by rule: both doses, the strengths, a Gaussian of equal noise, what they took."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scripts.dose.image_noise import noise_sd_hu
from scripts.hu import to_window
from scripts.staging import staged_file

from .bench import Bench
from .evaluating import EvaluatedSlice, Method, middle_window
from .methods import Smoothing

#: Side of what is shown, and the grey scale, in HU.
SIDE_MM, WINDOW_HU = 200.0, (-160.0, 240.0)
#: Grey scale of what was taken off, in HU.
TAKEN_HU = (-60.0, 60.0)
#: Setting by which slices are ranked and noise is matched.
RANKED = "standard"
GAP_PIXELS, LABEL_PIXELS, FOOT_PIXELS, FONT_PIXELS = 6, 20, 24, 13
#: Length of the bar below the panels.
BAR_MM = 50.0


@dataclass(frozen=True)
class Shown:
    """A slice with what the network makes of it at each setting, and by how much its error falls at `RANKED`."""

    patient: str
    slice: EvaluatedSlice
    outputs: dict[str, np.ndarray]
    error_left: float


def measure_pictures(bench: Bench, network: Method, folder: Path) -> dict[str, Any]:
    """Write a picture of each chosen slice into `folder`.

    Of all slices of all patients, ranked by the share of the error against the truth that is left: the two worst, the
    middle one and the best. Each shows `SIDE_MM` around the middle of the body, a pixel a pixel: doses and Gaussian,
    the strengths, and what the Gaussian, `RANKED` and the last strength took off the low dose.

    Args:
        bench: the patients.
        network: with a setting `RANKED`.
        folder: of the results.

    Returns:
        ``pictures``: file to patient, slice, rank, ``error_left`` and the ``gaussian_mm`` that leaves as much noise;
        ``slices``: how many were ranked; ``front``: the file of the picture of the README, of the middle one.
    """
    shown = (_shown(patient.name, one, network) for patient in bench.patients for one in patient.slices)
    ranked = sorted(shown, key=lambda one: -one.error_left)
    chosen = {"worst": 0, "second worst": 1, "middle": len(ranked) // 2, "best": len(ranked) - 1}
    pictures = {}
    for rank, place in chosen.items():
        one, name = ranked[place], f"picture_{rank.replace(' ', '_')}.png"
        smoothing = Smoothing(one.slice.low_hu, one.slice.plane.flat, one.slice.spacing_mm)
        sigma_mm, smooth = smoothing.sigma_mm(one.outputs[RANKED]), smoothing.like(one.outputs[RANKED])
        panels = {"low dose": one.slice.low_hu, f"Gaussian, {sigma_mm:.2f} mm": smooth, "full dose": one.slice.full_hu}
        panels |= {f"network, {strength}": image for strength, image in one.outputs.items()}
        panels = {f"{title}, {noise_sd_hu(x, one.slice.plane.flat):.0f} HU": x for title, x in panels.items()}
        last = list(one.outputs)[-1]
        taken = {"the Gaussian": smooth, RANKED: one.outputs[RANKED], last: one.outputs[last]}
        taken = {f"taken off by {title}": one.slice.low_hu - image for title, image in taken.items()}
        write_panels(
            folder / name,
            _cut(panels, one.slice),
            columns=3,
            spacing_mm=one.slice.spacing_mm,
            taken_hu=_cut(taken, one.slice),
        )
        pictures[name] = {
            "rank": rank,
            "patient": one.patient,
            "slice": one.slice.index,
            "error_left": one.error_left,
            "gaussian_mm": sigma_mm,
        }
    middle = ranked[chosen["middle"]]
    front = {"low dose": middle.slice.low_hu, "denoised": middle.outputs[RANKED], "full dose": middle.slice.full_hu}
    write_panels(folder / "front.png", _cut(front, middle.slice), columns=3, spacing_mm=middle.slice.spacing_mm)
    return {"pictures": pictures, "slices": len(ranked), "front": "front.png"}


def _shown(patient: str, one: EvaluatedSlice, network: Method) -> Shown:
    outputs = {name: result for name, (result,) in network.results(one, [one.low_hu]).items()}
    images = [one.measure([image]).errors["body"][0] for image in (one.low_hu, outputs[RANKED])]
    return Shown(patient, one, outputs, images[1] / images[0])


def _cut(panels: dict[str, np.ndarray], one: EvaluatedSlice) -> dict[str, np.ndarray]:
    part = middle_window(one.full_hu, round(SIDE_MM / one.spacing_mm))
    return {name: image[part] for name, image in panels.items()}


def write_panels(
    path: Path,
    panels_hu: dict[str, np.ndarray],
    *,
    columns: int,
    spacing_mm: float,
    taken_hu: dict[str, np.ndarray] | None = None,
) -> None:
    """Write panels (H, W) with their names above, a pixel a pixel, and a scale bar and the grey scales below, as a PNG.

    Args:
        path: the PNG.
        panels_hu: name to image in HU, shown in `WINDOW_HU`.
        columns: in a row.
        spacing_mm: of the pixels.
        taken_hu: name to difference in HU, shown in `TAKEN_HU` after the others.
    """
    from PIL import Image, ImageDraw, ImageFont

    shown = [(name, image, WINDOW_HU) for name, image in panels_hu.items()]
    shown += [(name, image, TAKEN_HU) for name, image in (taken_hu or {}).items()]
    height, width = shown[0][1].shape
    rows = -(-len(shown) // columns)
    size = (columns * (width + GAP_PIXELS) - GAP_PIXELS, rows * (height + LABEL_PIXELS) + FOOT_PIXELS)
    sheet = Image.new("L", size, 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PIXELS)
    for i, (name, image, window) in enumerate(shown):
        left, top = (i % columns) * (width + GAP_PIXELS), (i // columns) * (height + LABEL_PIXELS)
        draw.text((left + 2, top + 2), name, fill=0, font=font)
        grey = (to_window(np.asarray(image, np.float32), window) * 255).round().astype(np.uint8)
        sheet.paste(Image.fromarray(grey), (left, top + LABEL_PIXELS))
    bar, middle = round(BAR_MM / spacing_mm), size[1] - FOOT_PIXELS // 2
    draw.line([(2, middle), (1 + bar, middle)], fill=0, width=3)
    scales = [f"{BAR_MM / 10:g} cm", "images: {:g} to {:g} HU".format(*WINDOW_HU)]
    scales += ["taken off: {:g} to {:g} HU".format(*TAKEN_HU)] if taken_hu else []
    draw.text((bar + 8, middle - FONT_PIXELS // 2 - 2), "; ".join(scales), fill=0, font=font)
    with staged_file(path) as part:
        sheet.save(part, format="PNG", optimize=True)
