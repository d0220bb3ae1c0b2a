"""The report's sections about one volume: slices, noise, HU, prior, attention."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from torch import Tensor

from ..dose.image_noise import local_sd
from ..evaluation.samples import SliceSamples
from ..hu import to_window
from .pictures import bar_picture, colour_picture, grey_picture, on_image, overlay_picture, shrunk
from .plots import histogram_plot, prior_plot, spectrum_plot

#: Longest side in pixels of an attention map's picture.
MAP_PIXELS = 192


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is shown of one volume.

    Args:
        title: names it, without a word about the patient.
        samples: slices before and after.
        measures: see `measure_samples`.
        spacing_mm: between rows, between columns.
        positions_mm: (slices,) along the patient, superior positive.
        priors: (slices, K); of a dense prior its mean over the places of a slice.
        dense_prior: whether it was dense.
        descriptors: the K words.
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
    """Everything about one volume."""
    return (
        f'<section class="volume"><p class="uid">{escape(found.title)}, {len(found.priors)} slices</p>'
        f"{_slices(found)}{_noise(found)}{_hu(found)}{_prior(found)}{_attention(found)}</section>"
    )


def signed(number: float, digits: int) -> str:
    """With plus or a real minus."""
    return f"{number:+.{digits}f}".replace("-", "\u2212")


def _slices(found: Findings) -> str:
    before, after = found.samples.before_hu, found.samples.after_hu
    largest = max(10.0, 10.0 * np.ceil(np.percentile(np.abs(after - before)[found.shown()], 99.5) / 10))
    rows = []
    for place in found.shown():
        index = found.samples.indices[place]
        where = f"Slice {index}, {signed(found.positions_mm[index], 0)} mm"
        pictures = (
            ("before", grey_picture(before[place], found.window_hu)),
            ("after", grey_picture(after[place], found.window_hu)),
            ("after minus before", grey_picture(after[place] - before[place], (-largest, largest))),
        )
        rows.append(f'<div class="row3">{"".join(_figure(found, p, f"{where}: {name}") for name, p in pictures)}</div>')
    scales = _scale(found.window_hu, "HU", wide=2) + _scale((-largest, largest), "HU, difference")
    return (
        f"<h2>Slices</h2>{''.join(rows)}<div class='row3'>{scales}</div><p>After minus before should be noise. An "
        "organ or a vessel in it is detail that changed. Thin lines at the strongest edges can be wanted: the shipped "
        "weights sharpen skin, bone and gas a little.</p>"
    )


def _noise(found: Findings) -> str:
    place = found.samples.indices.index(found.attention_slice)
    maps = [local_sd(stack[place]) for stack in (found.samples.before_hu, found.samples.after_hu)]
    noise = [before for before, _ in found.measures["noise_pairs"]]
    top = max(5.0, float(np.ceil(3 * np.median(noise) / 5) * 5)) if noise else 50.0  # of no noise too
    pictures = "".join(
        _figure(found, colour_picture(one, (0.0, top)), f"Slice {found.attention_slice}: SD {name}")
        for one, name in zip(maps, ("before", "after"), strict=True)
    )
    pictures += _scale((0.0, top), "HU, SD of 9 × 9 pixels", colour=True, wide=2)
    nps = found.measures["nps"]
    if "reason" in nps:
        plot = f'<div class="plot"><p>No noise power spectrum: {escape(nps["reason"])}.</p></div>'
    else:
        side = nps["side_pixels"]
        plot = (
            f'<figure class="plot">{spectrum_plot(nps)}<figcaption>Noise power spectrum of {nps["regions"]} regions of '
            f"{side} × {side} pixels in soft tissue, the same ones before and after.</figcaption></figure>"
        )
    return (
        f'<h2>Noise</h2><div class="noise"><div class="row2">{pictures}</div>{plot}</div>'
        f"<p>Measured on {len(found.samples.indices)} of {len(found.priors)} slices, from inferior: "
        f"{', '.join(map(str, found.samples.indices))}. Edges of organs are light in both maps: they must stay.</p>"
    )


def _hu(found: Findings) -> str:
    rows = "".join(
        f"<tr><th>{tissue}</th><td>{one['pixels']:,}</td><td>{one['before_hu']:.1f}</td><td>{one['after_hu']:.1f}</td>"
        f"<td>{signed(one['bias_hu'], 2)}</td></tr>".replace(">-", ">\u2212")
        for tissue, one in found.measures["tissues"].items()
    )
    table = (
        '<table class="numbers"><thead><tr><th>Tissue</th><th>Pixels</th><th>Mean before (HU)</th>'
        f"<th>Mean after (HU)</th><th>Bias (HU)</th></tr></thead><tbody>{rows}</tbody></table>"
    )
    return (
        f'<h2>HU</h2><figure class="plot">{histogram_plot(found.measures["histogram"])}</figure>'
        f"{table if rows else '<p>No lung, fat, soft tissue or bone in the slices measured.</p>'}"
        "<p>Bias is the mean of after minus before, where the 9 × 9 mean before lies in the range of a tissue.</p>"
    )


def _prior(found: Findings) -> str:
    shown = [found.samples.indices[place] for place in found.shown()]
    mean = found.priors.mean(axis=0)
    most = ", ".join(f"{found.descriptors[k]} {100 * mean[k]:.0f}%" for k in mean.argsort()[::-1][:3])
    plot = prior_plot(found.priors, found.descriptors, found.positions_mm, shown)
    return (
        f'<h2>Prior along the patient</h2><figure class="plot">{plot}</figure>'
        f"<p>How likely each descriptor is in each slice{_places(found)}. Most of all, on average: {most}.</p>"
    )


def _places(found: Findings) -> str:
    return ", the mean over the places of a dense prior" if found.dense_prior else ""


def _attention(found: Findings) -> str:
    if not found.attention:
        what = {"channel": "channel attention, a weight for each channel"}.get(found.attention_kind, "no attention")
        return f"<h2>Attention</h2><p>This network has {what}: there are no maps to show.</p>"
    place = found.samples.indices.index(found.attention_slice)
    grey = to_window(shrunk(found.samples.after_hu[place], MAP_PIXELS), found.window_hu)
    blocks = []
    for number, (name, grid) in enumerate(found.grids.items(), 1):
        maps = on_image(found.attention[name], grid, found.samples.after_hu.shape[1:]).numpy()
        total = on_image(found.attention[f"{name}_weighted"], grid, found.samples.after_hu.shape[1:]).numpy()[0]
        limits = tuple(float(limit) for limit in np.nanpercentile(maps, (1, 99)))
        limits = (limits[0], max(limits[1], limits[0] + 1e-3))
        cells = [_map(found, grey, total, limits, "<b>weighted sum</b>", None)]
        if found.attention_kind == "prior":
            prior = found.priors[found.attention_slice]
            cells += [
                _map(found, grey, one, limits, escape(word), float(p))
                for one, word, p in zip(maps, found.descriptors, prior, strict=True)
            ]
        blocks.append(
            f"<h3>Block {number} of {len(found.grids)}: a pixel of its maps covers {grid[0]} × {grid[0]} pixels</h3>"
            f'<div class="maps">{"".join(cells)}</div>{_scale(limits, "attention", colour=True, digits=2)}'
        )
    return (
        f"<h2>Attention in slice {found.attention_slice}</h2><p>Each descriptor's map over the denoised slice, and the "
        f"prior that weights it (bar{_places(found)}). The features of a block are multiplied by the weighted sum.</p>"
        + "".join(blocks)
    )


def _map(
    found: Findings, grey: np.ndarray, values: np.ndarray, limits: tuple[float, float], word: str, prior: float | None
) -> str:
    picture = overlay_picture(grey, shrunk(values, MAP_PIXELS), limits)
    share = ""
    if prior is not None:
        percent = f"{100 * prior:.1f}%"
        share = f' <span class="share">{percent}</span><span class="track"><i style="width:{percent}"></i></span>'
    return f"<figure>{_image(found, picture, 'attention map')}<figcaption>{word}{share}</figcaption></figure>"


def _figure(found: Findings, picture: str, caption: str) -> str:
    width_mm = found.samples.before_hu.shape[2] * found.spacing_mm[1]
    bar_mm = 50 if width_mm > 120 else 10
    bar = f'<span class="mm" style="width:{100 * bar_mm / width_mm:.2f}%">{bar_mm} mm</span>'
    picture = f'<div class="frame">{_image(found, picture, caption)}{bar}</div>'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _image(found: Findings, picture: str, words: str) -> str:
    rows, columns = found.samples.before_hu.shape[1:]
    ratio = columns * found.spacing_mm[1] / (rows * found.spacing_mm[0])
    return f'<img src="{picture}" alt="{escape(words)}" style="aspect-ratio:{ratio:.4f}">'


def _scale(limits: tuple[float, float], unit: str, *, colour: bool = False, wide: int = 1, digits: int = 0) -> str:
    lower, upper = (f"{limit:.{digits}f}".replace("-", "\u2212") for limit in limits)
    bar = f'<img src="{bar_picture(colour)}" alt="scale from {lower} to {upper} {unit}">'
    return f'<div class="scale wide{wide}"><span>{lower}</span>{bar}<span>{upper} {unit}</span></div>'
