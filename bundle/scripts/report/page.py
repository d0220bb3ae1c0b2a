"""The report as HTML: one file, its pictures inside, no script and nothing fetched; with a section for each volume."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..dose.image_noise import has_noise, local_sd
from ..evaluation.measures import SliceSamples
from ..hu import to_window
from ..ownership import REPORT_TITLE
from ..pages import render
from ..provenance import NOT_FOR_DIAGNOSIS, Provenance
from .pictures import bar_picture, colour_picture, grey_picture, map_limits, on_image, overlay_picture, shrunk
from .plots import histogram_plot, prior_plot, spectrum_plot

PACKAGES = ("torch", "monai", "pytorch-ignite", "open_clip_torch", "pydicom", "nibabel", "numpy", "scipy")
HERE = Path(__file__).parent
#: Longest side in pixels of an attention map's picture.
MAP_PIXELS = 192


def page(
    volumes: Sequence[str],
    facts: Sequence[dict[str, Any]],
    provenance: Provenance,
    seconds: float,
    warnings: Sequence[str],
) -> str:
    """The whole page, by page.html.

    Args:
        volumes: one for each volume, see `volume_section`.
        facts: one for each volume, its ``slices`` and ``noise_pairs``.
    """
    return render(
        HERE / "page.html",
        title=REPORT_TITLE,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        notice=NOT_FOR_DIAGNOSIS,
        made=provenance,
        noise=noise_words([pair for one in facts for pair in one["noise_pairs"]]),
        slices=sum(one["slices"] for one in facts),
        seconds=seconds,
        volumes=volumes,
        warnings=warnings,
        python=platform.python_version(),
        packages={name: version(name) for name in PACKAGES},
    )


def noise_words(pairs: Sequence[tuple[float, float]]) -> tuple[str, str]:
    """Median noise [before, after] of slices and the change, in words."""
    if not pairs:
        return "not measured", "no flat soft tissue in the slices"
    before, after = np.median(pairs, axis=0)
    change = f"{number(100 * (after / before - 1), 0, '+')}%, " if has_noise(before) else ""
    return f"{before:.1f} → {after:.1f} HU", f"{change}SD in flat soft tissue"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is shown of one volume.

    Args:
        title: names it, without a word about the patient.
        measures: see `measure_samples`.
        spacing_mm: between rows, between columns.
        positions_mm: (slices,) along the patient, superior positive.
        priors: (slices, K); of a dense prior its mean over the places of a slice.
        window_hu: grey scale of the slices.
        attention_slice: of which slice the maps are, one of the samples.
        attention_kind: what stands in the network's slots.
        attention: see the networks' ``attention_maps``, of one image.
        grids: see the networks' ``attention_grids``.
    """

    title: str
    samples: SliceSamples
    measures: dict[str, Any]
    spacing_mm: tuple[float, float]
    positions_mm: np.ndarray
    priors: np.ndarray
    dense_prior: bool
    descriptors: tuple[str, ...]
    window_hu: tuple[float, float]
    attention_slice: int
    attention_kind: str
    attention: dict[str, Tensor]
    grids: dict[str, tuple[int, int]]

    def shown(self) -> list[int]:
        """Places in the samples of the slices that are shown: up to three, spread out."""
        return np.unique(np.linspace(0, len(self.samples.indices) - 1, 5).round().astype(int)[1:-1]).tolist()


def volume_section(found: Findings) -> str:
    """The section of one volume, by volume.html."""
    rows, columns = found.samples.before_hu.shape[1:]
    height_mm, width_mm = rows * found.spacing_mm[0], columns * found.spacing_mm[1]
    shown = [found.samples.indices[place] for place in found.shown()]
    nps, mean = found.measures["nps"], found.priors.mean(axis=0)
    return render(
        HERE / "volume.html",
        found=found,
        ratio=width_mm / height_mm,
        width_mm=width_mm,
        bar_mm=50 if width_mm > 120 else 10,
        slices=_slices(found),
        noise=_noise(found),
        spectrum="" if "reason" in nps else spectrum_plot(nps),
        histogram=histogram_plot(found.measures["histogram"]),
        prior=prior_plot(found.priors, found.descriptors, found.positions_mm, shown),
        most=[(found.descriptors[k], mean[k]) for k in mean.argsort()[::-1][:3]],
        blocks=_blocks(found),
        number=number,
        colours=bar_picture,
    )


def number(value: float, digits: int, sign: str = "-") -> str:
    """A number with a real minus; with plus too where `sign` is that."""
    return f"{value:{sign}.{digits}f}".replace("-", "\u2212")


def _slices(found: Findings) -> dict[str, Any]:
    """Pictures of the slices shown, by what they show, and the limit of the differences in HU."""
    before, after = found.samples.before_hu, found.samples.after_hu
    largest = max(10.0, 10.0 * np.ceil(np.percentile(np.abs(after - before)[found.shown()], 99.5) / 10))
    rows = {}
    for place in found.shown():
        rows[found.samples.indices[place]] = {
            "before": grey_picture(before[place], found.window_hu),
            "after": grey_picture(after[place], found.window_hu),
            "after minus before": grey_picture(after[place] - before[place], (-largest, largest)),
        }
    return {"rows": rows, "largest_hu": largest}


def _noise(found: Findings) -> dict[str, Any]:
    """Pictures of the local SD, before and after, and their upper limit in HU."""
    place = found.samples.indices.index(found.attention_slice)
    maps = {"before": local_sd(found.samples.before_hu[place]), "after": local_sd(found.samples.after_hu[place])}
    noise = [before for before, _ in found.measures["noise_pairs"]]
    top = max(5.0, float(np.ceil(3 * np.median(noise) / 5) * 5)) if noise else 50.0  # of no noise too
    return {"pictures": {name: colour_picture(one, (0.0, top)) for name, one in maps.items()}, "top_hu": top}


def _blocks(found: Findings) -> list[dict[str, Any]]:
    """Of each block the weighted sum of its maps, and of a prior attention each map with its share."""
    place = found.samples.indices.index(found.attention_slice)
    grey = to_window(shrunk(found.samples.after_hu[place], MAP_PIXELS), found.window_hu)
    shares: list[tuple[str, float]] = []
    if found.attention_kind == "prior":
        shares = list(zip(found.descriptors, found.priors[found.attention_slice], strict=True))
    blocks = []
    for name, grid in found.grids.items():
        both = torch.cat([found.attention[f"{name}_weighted"], found.attention[name]])
        total, *maps = on_image(both, grid, found.samples.after_hu.shape[1:]).numpy()
        limits = map_limits(maps)
        pictures = [overlay_picture(grey, shrunk(one, MAP_PIXELS), limits) for one in (total, *maps)]
        blocks.append({"covers": grid[0], "pictures": pictures, "shares": shares, "limits": limits})
    return blocks
