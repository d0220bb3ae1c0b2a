"""The report's plots as SVG: spectra, histograms, and the prior along the patient."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .pictures import AFTER, BEFORE, OKABE_ITO

#: After Okabe and Ito's colours come their first ones again, hatched.
HATCHES = ("", "////", "....")
_LINES = {"before": {"color": BEFORE, "linestyle": (0, (4, 2))}, "after": {"color": AFTER, "linestyle": "-"}}


def spectrum_plot(nps: dict[str, Any]) -> str:
    """Radial noise power spectra before and after, see `spectra`."""
    with _figure(5.4, 3.1) as figure:
        axes = figure.subplots()
        for name, line in _LINES.items():
            one = nps[name]
            label = f"{name}, SD {one['sd_hu']:.1f} HU"
            axes.plot(one["frequency_per_mm"], one["nps_hu2_mm2"], label=label, linewidth=1.8, **line)
        axes.set(xlabel="spatial frequency (1/mm)", ylabel="NPS (HU² mm²)", ylim=(0, None), xlim=(0, None))
        _finish(axes)
        return _svg(figure)


def histogram_plot(histogram: dict[str, Sequence[float]]) -> str:
    """Share of pixels by HU before and after: all of them on a log scale, and soft tissue on a linear one."""
    with _figure(10.4, 3.1) as figure:
        for axes, (title, limits, scale) in zip(
            figure.subplots(1, 2),
            (("All HU, logarithmic", (-1024, 1500), "log"), ("Fat and soft tissue", (-200, 300), "linear")),
            strict=True,
        ):
            hu = np.asarray(histogram["hu"])
            inside = (hu >= limits[0]) & (hu <= limits[1])
            for name, line in _LINES.items():
                share = 100 * np.asarray(histogram[name])[inside]
                share = np.where(share > 0, share, np.nan) if scale == "log" else share
                axes.plot(hu[inside], share, label=name, linewidth=1.6, **line)
            axes.set(xlabel="HU", ylabel="% of pixels per 10 HU", xlim=limits, yscale=scale, title=title)
            if scale == "linear":
                axes.set_ylim(0, None)
            _finish(axes)
        return _svg(figure)


def prior_plot(priors: np.ndarray, descriptors: Sequence[str], positions_mm: np.ndarray, shown: Sequence[int]) -> str:
    """The prior of each slice as a stack over the slice's position.

    Args:
        priors: (slices, K).
        positions_mm: (slices,) along the patient, superior positive.
        shown: slices whose pictures the page has; marked.
    """
    with _figure(10.4, 4.0) as figure:
        axes = figure.subplots()
        count = len(priors)
        edges = np.arange(count + 1) - 0.5
        turns = [HATCHES[k // len(OKABE_ITO) % len(HATCHES)] for k in range(len(descriptors))]
        look = {"colors": OKABE_ITO, "hatch": turns, "edgecolor": "#ffffff", "linewidth": 0.6}
        axes.stackplot(edges, np.append(priors, priors[-1:], axis=0).T, labels=descriptors, step="post", **look)
        for top, share, word in zip(priors.T.cumsum(axis=0), priors.T, descriptors, strict=True):
            _name_band(axes, edges, top, share, word)
        for i in shown:
            axes.axvline(i, color="#111827", linewidth=0.9, linestyle=(0, (2, 2)))
            axes.annotate(f"{i}", (i, 1.0), xytext=(0, 3), textcoords="offset points", ha="center", color="#111827")
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1), ylabel="prior", xlabel="slice, inferior to superior")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if count > 1:
            step = (positions_mm[-1] - positions_mm[0]) / (count - 1)
            ends = f"{positions_mm[0]:.0f} to {positions_mm[-1]:.0f} mm".replace("-", "\u2212")
            axes.set_xlabel(f"slice, inferior to superior ({ends}, {step:.2f} mm apart; dashed: slices shown)")
        place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
        axes.legend(**place, reverse=True, frameon=False, handlelength=1.6, handleheight=1.1)
        return _svg(figure)


def _name_band(axes: Any, edges: np.ndarray, top: np.ndarray, share: np.ndarray, word: str) -> None:
    """Write a descriptor's name into its band of the stack, where that is widest."""
    widest = int(np.convolve(share, np.ones(3) / 3, mode="same").argmax())
    if share[widest] > 0.12:
        side = {True: "left", False: "right"}[widest < len(top) / 2] if widest in (0, len(top) - 1) else "center"
        axes.annotate(
            word,
            (edges[widest] + 0.5, top[widest] - share[widest] / 2),
            ha=side,
            va="center",
            fontsize=9,
            color="#111827",
            bbox={"facecolor": "#ffffff", "edgecolor": "none", "alpha": 0.75, "pad": 1.5},
        )


@contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    """Yield a figure of this size in inches, to be drawn and written in the report's style."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(fname=Path(__file__).with_name("page.mplstyle")):
        yield Figure(figsize=(width, height), layout="constrained")


def _finish(axes: Any) -> None:
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, handlelength=2.6)


def _svg(figure: Any) -> str:
    """The figure as an SVG element, for inside a page."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="\w+_\d+"', "", text)  # several plots on a page would repeat them
    return text[text.index("<svg") :]
