"""The report as HTML: one file, its pictures inside, no script and nothing fetched; with a section for each volume."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..dose.image_noise import has_noise, local_sd
from ..evaluation.measures import SliceSamples
from ..hu import to_window
from ..ownership import REPORT_TITLE
from ..provenance import NOT_FOR_DIAGNOSIS, Provenance
from ..strengths import Strength
from .pictures import bar_picture, colour_picture, grey_picture, on_image, overlay_picture, shrunk
from .plots import histogram_plot, prior_plot, spectrum_plot

PACKAGES = ("torch", "monai", "pytorch-ignite", "open_clip_torch", "pydicom", "nibabel", "numpy", "scipy")
NOTICE = f"{NOT_FOR_DIAGNOSIS} Not for diagnosis."
#: Longest side in pixels of an attention map's picture.
MAP_PIXELS = 192


def page(
    volumes: Sequence[dict[str, Any]],
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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    loader = FileSystemLoader(here, encoding="utf-8")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.get_template("page.html").render(
        title=REPORT_TITLE,
        style=(here / "page.css").read_text(encoding="utf-8"),
        notice=NOTICE,
        made=provenance,
        cards=_cards(facts, provenance, seconds),
        volumes=volumes,
        warnings=warnings,
        facts=_made_by(provenance),
    )


def noise_words(pairs: Sequence[tuple[float, float]]) -> tuple[str, str]:
    """Median noise [before, after] of slices and the change, in words."""
    if not pairs:
        return "not measured", "no flat soft tissue in the slices"
    before, after = np.median(pairs, axis=0)
    change = f"{signed(100 * (after / before - 1), 0)}%, " if has_noise(before) else ""
    return f"{before:.1f} → {after:.1f} HU", f"{change}SD in flat soft tissue"


def strength_words(strength: Strength) -> str:
    """What a strength means, for a reader."""
    more = f"; {strength.grain:.0%} of the finer grain is kept" if strength.grain else ""
    more += "" if strength.restore else "; no detail is restored"
    return f"everything much coarser than {strength.anchor_mm:.4g} mm (SD) is left as the scanner made it{more}"


def _cards(facts: Sequence[dict[str, Any]], provenance: Provenance, seconds: float) -> list[tuple[str, str, str]]:
    slices = sum(one["slices"] for one in facts)
    several = f" in {len(facts)} volumes" if len(facts) > 1 else ""
    noise, change = noise_words([pair for one in facts for pair in one["noise_pairs"]])
    return [
        ("Noise before and after", noise, change),
        ("Slices", f"{slices}", f"{seconds:.1f} s, {seconds / max(1, slices):.2f} s a slice{several}"),
        ("Strength", provenance.strength.name, strength_words(provenance.strength)),
        ("Prior", provenance.prior, provenance.prior_model),
    ]


def _made_by(provenance: Provenance) -> list[tuple[str, str]]:
    return [
        ("Network", provenance.network),
        ("Weights, sha256", provenance.weights_sha256),
        ("Prior", f"{provenance.prior}: {provenance.prior_model}"),
        ("Strength", str(provenance.strength)),
        ("Precision", provenance.precision or "not recorded"),
        ("Bundle", f"{provenance.bundle} {provenance.version}"),
        ("Python", platform.python_version()),
        ("Packages", ", ".join(f"{name} {version(name)}" for name in PACKAGES)),
    ]


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


def volume_section(found: Findings) -> dict[str, Any]:
    """Everything about one volume, as page.html shows it."""
    rows, columns = found.samples.before_hu.shape[1:]
    width_mm = columns * found.spacing_mm[1]
    bar_mm = 50 if width_mm > 120 else 10
    return {
        "title": found.title,
        "count": len(found.priors),
        "ratio": f"{width_mm / (rows * found.spacing_mm[0]):.4f}",
        "bar_mm": bar_mm,
        "bar_percent": f"{100 * bar_mm / width_mm:.2f}",
        "slices": _slices(found),
        "noise": _noise(found),
        "hu": _hu(found),
        "prior": _prior(found),
        "attention": _attention(found),
    }


def signed(number: float, digits: int) -> str:
    """With plus or a real minus."""
    return _minus(f"{number:+.{digits}f}")


def _minus(number: str) -> str:
    return number.replace("-", "\u2212")


def _slices(found: Findings) -> dict[str, Any]:
    before, after = found.samples.before_hu, found.samples.after_hu
    largest = max(10.0, 10.0 * np.ceil(np.percentile(np.abs(after - before)[found.shown()], 99.5) / 10))
    rows = []
    for place in found.shown():
        index = found.samples.indices[place]
        where = f"Slice {index}, {signed(found.positions_mm[index], 0)} mm"
        pictures = {
            "before": grey_picture(before[place], found.window_hu),
            "after": grey_picture(after[place], found.window_hu),
            "after minus before": grey_picture(after[place] - before[place], (-largest, largest)),
        }
        rows.append([{"picture": picture, "words": f"{where}: {name}"} for name, picture in pictures.items()])
    scales = [_scale(found.window_hu, "HU", wide=2), _scale((-largest, largest), "HU, difference")]
    return {"rows": rows, "scales": scales}


def _noise(found: Findings) -> dict[str, Any]:
    place = found.samples.indices.index(found.attention_slice)
    maps = {"before": local_sd(found.samples.before_hu[place]), "after": local_sd(found.samples.after_hu[place])}
    noise = [before for before, _ in found.measures["noise_pairs"]]
    top = max(5.0, float(np.ceil(3 * np.median(noise) / 5) * 5)) if noise else 50.0  # of no noise too
    nps = found.measures["nps"]
    return {
        "pictures": [
            {"picture": colour_picture(one, (0.0, top)), "words": f"Slice {found.attention_slice}: SD {name}"}
            for name, one in maps.items()
        ],
        "scale": _scale((0.0, top), "HU, SD of 9 × 9 pixels", colour=True, wide=2),
        "nps": nps,
        "plot": "" if "reason" in nps else spectrum_plot(nps),
        "indices": found.samples.indices,
    }


def _hu(found: Findings) -> dict[str, Any]:
    tissues = [
        (
            tissue,
            f"{one['pixels']:,}",
            _minus(f"{one['before_hu']:.1f}"),
            _minus(f"{one['after_hu']:.1f}"),
            signed(one["bias_hu"], 2),
        )
        for tissue, one in found.measures["tissues"].items()
    ]
    return {"plot": histogram_plot(found.measures["histogram"]), "tissues": tissues}


def _prior(found: Findings) -> dict[str, Any]:
    shown = [found.samples.indices[place] for place in found.shown()]
    mean = found.priors.mean(axis=0)
    return {
        "plot": prior_plot(found.priors, found.descriptors, found.positions_mm, shown),
        "most": ", ".join(f"{found.descriptors[k]} {100 * mean[k]:.0f}%" for k in mean.argsort()[::-1][:3]),
        "places": ", the mean over the places of a dense prior" if found.dense_prior else "",
    }


def _attention(found: Findings) -> dict[str, Any]:
    if not found.attention:
        instead = {"channel": "channel attention, a weight for each channel"}
        return {"blocks": [], "instead": instead.get(found.attention_kind, "no attention")}
    place = found.samples.indices.index(found.attention_slice)
    grey = to_window(shrunk(found.samples.after_hu[place], MAP_PIXELS), found.window_hu)
    blocks = [_block(found, name, grid, grey) for name, grid in found.grids.items()]
    return {"blocks": blocks, "slice": found.attention_slice}


def _block(found: Findings, name: str, grid: tuple[int, int], grey: np.ndarray) -> dict[str, Any]:
    """The weighted sum of a block's maps, and of a prior attention each map with its share."""
    maps = on_image(found.attention[name], grid, found.samples.after_hu.shape[1:]).numpy()
    total = on_image(found.attention[f"{name}_weighted"], grid, found.samples.after_hu.shape[1:]).numpy()[0]
    lower, upper = (float(limit) for limit in np.nanpercentile(maps, (1, 99)))
    limits = (lower, max(upper, lower + 1e-3))
    shown = [(total, "", "")]
    if found.attention_kind == "prior":
        prior = found.priors[found.attention_slice]
        shown += [(one, word, f"{100 * p:.1f}%") for one, word, p in zip(maps, found.descriptors, prior, strict=True)]
    return {
        "covers": grid[0],
        "maps": [
            {"picture": overlay_picture(grey, shrunk(values, MAP_PIXELS), limits), "word": word, "percent": percent}
            for values, word, percent in shown
        ],
        "scale": _scale(limits, "attention", colour=True, digits=2),
    }


def _scale(
    limits: tuple[float, float], unit: str, *, colour: bool = False, wide: int = 1, digits: int = 0
) -> dict[str, Any]:
    lower, upper = (_minus(f"{limit:.{digits}f}") for limit in limits)
    return {"lower": lower, "upper": upper, "unit": unit, "wide": wide, "picture": bar_picture(colour)}
