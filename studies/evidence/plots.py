"""Plots of the evidence, from its results alone: spectra, transfer functions, detectability, lesions, doses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.evaluation.intervals import patient_interval

#: Okabe and Ito's colours, which colour-blind readers can tell apart; with a marker or line style each.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#661100")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 2, 1, 2)), (0, (2, 2)))


def _pairs(denoisers: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How the line of each denoiser looks: a Gaussian that stands beside another has its colour, dashed."""
    beside = {name: next((other for other in denoisers if name.endswith(f", as {other}")), None) for name in denoisers}
    plain = [name for name, other in beside.items() if other is None]
    looks = {}
    for name, other in beside.items():
        colour = COLOURS[1 + plain.index(name if other is None else other)]
        looks[name] = {
            "color": colour,
            "linestyle": "-" if other is None else "--",
            "label": name.partition(", as ")[0],
        }
    return looks


def plot_spectra(path: Path, denoisers: Mapping[str, Any]) -> None:
    """Noise power spectra of full dose, low dose and each denoiser, each divided by its highest value."""
    first = next(iter(denoisers.values()))["nps"]
    curves = {"full dose": first["full"], "low dose": first["low"]}
    curves |= {name: one["nps"]["denoised"] for name, one in denoisers.items()}
    looks = {"full dose": {"color": "black", "label": "full dose"}}
    looks |= {"low dose": {"color": "0.6", "label": "low dose", "linewidth": 3.0, "zorder": 1}} | _pairs(denoisers)
    with _Axes(path, "frequency (1/mm)", "noise power spectrum / its highest value", height=5.4, width=7.0) as (axes,):
        for name, one in curves.items():
            highest = max(one["nps_hu2_mm2"])
            values = [value / highest for value in one["nps_hu2_mm2"]]
            look = looks[name] | {"label": f"{looks[name]['label']}, SD {one['sd_hu']:.1f} HU"}
            axes.plot(one["frequency_per_mm"], values, **look)
        axes.figure.legend(loc="outside lower center", ncols=2)


def plot_transfer(path: Path, denoisers: Mapping[str, Any]) -> None:
    """Task transfer functions of full dose and each denoiser, a panel per contrast."""
    contrasts = list(next(iter(denoisers.values()))["ttf"])
    looks = _pairs(denoisers)
    with _Axes(path, "frequency (1/mm)", "task transfer function", len(contrasts), columns=2) as panels:
        for axes, contrast in zip(panels, contrasts, strict=True):
            first = next(iter(denoisers.values()))["ttf"][contrast]["low"]
            axes.plot(first["frequency_per_mm"], first["ttf"], color="black", label="full dose")
            for name, one in denoisers.items():
                of = one["ttf"][contrast]["denoised"]
                axes.plot(of["frequency_per_mm"], of["ttf"], **looks[name])
            axes.axhline(0.5, color="0.7", linewidth=0.8)
            axes.set_title(f"rods of {contrast} HU")
        panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def plot_detectability(path: Path, doses: Mapping[str, Any]) -> None:
    """d' of each disc before and after the denoisers, with 95% intervals; a panel per dose."""
    with _Axes(path, "", "d'", len(doses), width=3.7) as panels:
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
            axes.set_xticks(
                range(len(middles)), [task.replace(", ", "\n").replace(" of the ", "\nof the ") for task in tasks]
            )
            axes.tick_params(axis="x", labelsize=8)
            axes.axhline(0.0, color="0.7", linewidth=0.8)
            axes.set_title(f"dose {float(dose):.0%}")
            axes.sharey(panels[0])
        panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def plot_changes(path: Path, uniform: Mapping[str, Any], patients: Mapping[str, Any], shape: str) -> None:
    """Change of d' from the input of the same dose, by dose: discs and a shape in the phantom, and discs in patients.

    Args:
        path: the PNG.
        uniform, patients: of detection.json.
        shape: the task that is no disc.
    """
    doses = list(uniform["doses"])
    names = list(uniform["potential"])[1:]
    series = {
        "discs in the phantom": lambda name, dose: _mean_change(
            [one for task, one in uniform["doses"][dose][name].items() if task != shape]
        ),
        "phantom, round or spiculated": lambda name, dose: _mean_change([uniform["doses"][dose][name][shape]]),
        "discs in patients, mean": lambda name, dose: _patients_change(patients, name, doses.index(dose)),
    }
    with _Axes(path, "dose", "change of d' (%)", len(series), height=4.6, width=3.4) as panels:
        for axes, (title, changed) in zip(panels, series.items(), strict=True):
            for i, name in enumerate(names):
                points = [changed(name, dose) for dose in doses]
                places = [place + 0.16 * (i - (len(names) - 1) / 2) for place in range(len(doses))]
                middles = [100.0 * middle for middle, _, _ in points]
                reach = [[100.0 * (m - a) for m, a, _ in points], [100.0 * (b - m) for m, _, b in points]]
                style = {"color": COLOURS[i % 7], "marker": "osD^v<>"[i % 7], "linestyle": "none", "capsize": 2}
                axes.errorbar(places, middles, yerr=reach, label=name, markersize=5, **style)
            axes.axhline(0.0, color="0.5", linewidth=0.8)
            axes.set_xticks(range(len(doses)), [f"{float(dose):.0%}" for dose in doses])
            axes.set_title(title)
            axes.figure.legends or axes.figure.legend(
                *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4
            )


def _mean_change(tasks: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Mean over tasks of the change, and of the ends of its interval."""
    known = [(one["change"], *one["change_95"]) for one in tasks if one["change_95"]]
    first, lower, upper = (sum(column) / len(known) for column in zip(*known, strict=True))
    return first, lower, upper


def _patients_change(patients: Mapping[str, Any], name: str, dose: int) -> tuple[float, float, float]:
    """Mean over patients of the change of the mean d', and its 95% interval; of the mean itself without one."""
    shares = {patient: of["potential"] for patient, of in patients["patients"].items()}
    changes = {
        patient: of[name]["share"][dose] / next(iter(of.values()))["share"][dose] - 1.0
        for patient, of in shares.items()
    }
    found = patient_interval(changes)
    lower, upper = found["interval_95"] or (found["mean"], found["mean"])
    return found["mean"], lower, upper


def plot_plane(
    path: Path,
    found: Mapping[str, Any],
    few: Mapping[str, Any],
    diameters: Sequence[str],
    corner: tuple[float, float] | None = None,
) -> None:
    """Contrast kept against noise left, means over patients: a panel per diameter, a line per method's settings.

    Small dots are the patients of the network.

    Args:
        path: the PNG.
        found, few: name to setting to patient to figures; of all slices, and of some.
        diameters: of the discs, in mm.
        corner: most noise and least contrast that are shown, in percent; all by default.
    """
    lines = [*((name, found[name]) for name in found), *((name, few[name]) for name in few if name not in found)]
    count = len(diameters)
    columns, width = (2, 4.4) if count % 2 == 0 else (count, 3.4)
    with _Axes(path, "noise left (%)", "contrast kept (%)", count, columns=columns, width=width) as panels:
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
                    "markersize": 5 if corner else 4 if i else 8,
                    "zorder": 3 - i / 9,
                }
                axes.plot(*zip(*points, strict=True), linestyle=STYLES[i % 7], label=name, **style)
            for of in next(iter(found.values())).values():
                known = [one for one in of.values() if diameter in one["contrast"]]
                x, y = (
                    [100.0 * one for one in side]
                    for side in ([k["noise_left"] for k in known], [k["contrast"][diameter] for k in known])
                )
                axes.plot(x, y, linestyle="none", marker=".", color=COLOURS[0], alpha=0.4)
            axes.set(xlim=(0, 102), title=f"disc of {diameter} mm")
            axes.set_ylim(min(20.0, axes.get_ylim()[0]) if diameter == diameters[0] else None, 102)
            if corner:
                axes.set(xlim=(10, corner[0]), ylim=(corner[1], 101))
        panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _mean_point(of: Mapping[str, Any], diameter: str) -> tuple[float, float] | None:
    known = [one for one in of.values() if diameter in one["contrast"]]
    if not known:
        return None
    return (
        100.0 * sum(one["noise_left"] for one in known) / len(known),
        100.0 * sum(one["contrast"][diameter] for one in known) / len(known),
    )


class _Axes:
    """Panels, row by row, in one PNG, which is written when the block ends.

    Args:
        path: the PNG.
        x, y: names of the axes.
        panels: how many.
        height, width: of a panel, in inches.
        columns: in a row; all panels if 0.
    """

    def __init__(
        self, path: Path, x: str, y: str, panels: int = 1, height: float = 4.0, width: float = 4.4, columns: int = 0
    ) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.path = path
        columns = min(columns or panels, panels)
        rows = -(-panels // columns)
        self.figure = Figure(figsize=(max(6.0, width * columns), height * rows), layout="constrained")
        FigureCanvasAgg(self.figure)
        grid = self.figure.subplots(rows, columns, squeeze=False)
        self.axes = grid.ravel()[:panels]
        for axes in grid.ravel()[panels:]:
            axes.remove()
        for axes in self.axes:
            axes.set_xlabel(x)
        for row in grid:
            row[0].set_ylabel(y)

    def __enter__(self) -> Any:
        return self.axes

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.figure.savefig(self.path, dpi=100)
