"""Plots of the evidence, from its results alone: spectra, transfer functions, detectability, lesions, doses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Okabe and Ito's colours, which colour-blind readers can tell apart; with a marker or line style each.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#661100")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 2, 1, 2)), (0, (2, 2)))


def _line(i: int) -> dict[str, Any]:
    """How the i-th of several lines looks."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i % len(STYLES)]}


def plot_spectra(path: Path, denoisers: Mapping[str, Any]) -> None:
    """Noise power spectra of full dose, low dose and each denoiser, each divided by its highest value."""
    first = next(iter(denoisers.values()))["nps"]
    curves = {"full dose": first["full"], "low dose": first["low"]}
    curves |= {name: one["nps"]["denoised"] for name, one in denoisers.items()}
    with _Axes(path, "frequency (1/mm)", "noise power spectrum / its highest value", height=6.0) as (axes,):
        for i, (name, one) in enumerate(curves.items()):
            highest = max(one["nps_hu2_mm2"])
            values = [value / highest for value in one["nps_hu2_mm2"]]
            label = f"{name}, SD {one['sd_hu']:.1f} HU"
            axes.plot(one["frequency_per_mm"], values, label=label, **_line(i))
        axes.figure.legend(loc="outside lower center")


def plot_transfer(path: Path, denoisers: Mapping[str, Any]) -> None:
    """Task transfer functions of full dose and each denoiser, a panel per contrast."""
    contrasts = list(next(iter(denoisers.values()))["ttf"])
    with _Axes(path, "frequency (1/mm)", "task transfer function", len(contrasts)) as panels:
        for axes, contrast in zip(panels, contrasts, strict=True):
            first = next(iter(denoisers.values()))["ttf"][contrast]["low"]
            curves = {"full dose": first} | {name: one["ttf"][contrast]["denoised"] for name, one in denoisers.items()}
            for i, (name, one) in enumerate(curves.items()):
                axes.plot(one["frequency_per_mm"], one["ttf"], label=name, **_line(i))
            axes.axhline(0.5, color="0.7", linewidth=0.8)
            axes.set_title(f"rods of {contrast} HU")
        panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")


def plot_detectability(path: Path, doses: Mapping[str, Any]) -> None:
    """d' of each disc before and after the denoisers, with 95% intervals; a panel per dose."""
    with _Axes(path, "", "d'", len(doses)) as panels:
        for axes, (dose, denoisers) in zip(panels, doses.items(), strict=True):
            bars = {"before": ("before", next(iter(denoisers.values())))}
            bars |= {name: ("after", tasks) for name, tasks in denoisers.items()}
            for i, (name, (which, tasks)) in enumerate(bars.items()):
                middles = [one[which] for one in tasks.values()]
                low, high = zip(*(one[f"{which}_95"] for one in tasks.values()), strict=True)
                reach = [[max(0.0, m - x) for m, x in zip(middles, low, strict=True)]]
                reach += [[max(0.0, x - m) for m, x in zip(middles, high, strict=True)]]
                places = [place + 0.2 * (i - (len(bars) - 1) / 2) for place in range(len(middles))]
                style = {"color": COLOURS[i % 7], "marker": "osD^v<>"[i % 7], "linestyle": "none", "capsize": 3}
                axes.errorbar(places, middles, yerr=reach, label=name, **style)
            axes.set_xticks(range(len(middles)), [task.replace(", ", "\n").replace(" of the ", "\n") for task in tasks])
            axes.axhline(0.0, color="0.7", linewidth=0.8)
            axes.set_title(f"dose {float(dose):.0%}")
        panels[0].legend()


def plot_dose_response(path: Path, uniform: Mapping[str, Any], patients: Mapping[str, Any]) -> None:
    """d' as a share of the full dose's against the dose: in the phantom, and as the mean over patients."""
    with _Axes(path, "dose (%)", "d' over that of the full dose", 2) as panels:
        doses = [100.0 * float(dose) for dose in uniform["doses"]]
        for i, name in enumerate(uniform["potential"]):
            style = {"color": COLOURS[i % 7], "marker": "osD^v<>"[i % 7], "label": name}
            panels[0].plot(doses, uniform["potential"][name]["share"], **style)
            panels[1].plot(doses, [of["mean"] for of in patients["mean"][name].values()], **style)
        for axes, title in zip(panels, ("uniform phantom", "patients left out, mean"), strict=True):
            axes.axhline(1.0, color="0.7", linewidth=0.8)
            axes.set_xscale("log")
            axes.set_xticks(doses, [f"{dose:g}" for dose in doses])
            axes.minorticks_off()
            axes.set_title(title)
        panels[0].legend()


def plot_plane(path: Path, found: Mapping[str, Any], few: Mapping[str, Any], diameters: Sequence[str]) -> None:
    """Contrast kept against noise left, means over patients: a panel per diameter, a line per method's settings.

    Small dots are the patients of the network.
    """
    lines = [*((name, found[name]) for name in found), *((name, few[name]) for name in few if name not in found)]
    with _Axes(path, "noise left (SD, output over input)", "contrast kept", len(diameters)) as panels:
        for axes, diameter in zip(panels, diameters, strict=True):
            for i, (name, settings) in enumerate(lines):
                points = [_mean_point(of, diameter) for of in settings.values()]
                points = [point for point in points if point is not None]
                if not points:
                    continue
                if name == "Gaussian":  # beyond it neighbouring tissue runs into the flat places
                    points = points[: points.index(min(points)) + 1]
                else:
                    points.sort()
                style = {
                    "color": COLOURS[i % 7],
                    "marker": "osD^v<>"[i % 7],
                    "markersize": 4 if i else 8,
                    "zorder": 3 - i / 9,
                }
                axes.plot(*zip(*points, strict=True), linestyle=STYLES[i % 7], label=name, **style)
            for of in next(iter(found.values())).values():
                known = [one for one in of.values() if diameter in one["contrast"]]
                x, y = [one["noise_left"] for one in known], [one["contrast"][diameter] for one in known]
                axes.plot(x, y, linestyle="none", marker=".", color=COLOURS[0], alpha=0.4)
            axes.set(xlim=(0.0, 1.02), ylim=(0.0, 1.05), title=f"disc of {diameter} mm")
        panels[0].legend(loc="lower right")


def _mean_point(of: Mapping[str, Any], diameter: str) -> tuple[float, float] | None:
    known = [one for one in of.values() if diameter in one["contrast"]]
    if not known:
        return None
    return (
        sum(one["noise_left"] for one in known) / len(known),
        sum(one["contrast"][diameter] for one in known) / len(known),
    )


class _Axes:
    """Panels side by side in one PNG, which is written when the block ends."""

    def __init__(self, path: Path, x: str, y: str, panels: int = 1, height: float = 4.0) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.path = path
        self.figure = Figure(figsize=(max(6.0, 4.2 * panels), height), layout="constrained")
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.subplots(1, panels, squeeze=False)[0]
        for axes in self.axes:
            axes.set_xlabel(x)
        self.axes[0].set_ylabel(y)

    def __enter__(self) -> Any:
        return self.axes

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.figure.savefig(self.path, dpi=90)
