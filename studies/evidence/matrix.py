"""Where the network holds and where it ends: every patient left out, at several doses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom import Dataset
from scripts.dicom import select_series
from scripts.dicom.headers import open_dicom

from .bench import HELD_OUT, Bench, Figures, patient_folder
from .methods import anchored, gaussians
from .plane import EDGE_MM, GAUSSIAN, EvaluatedNetwork, Found, above_gaussian, best_error, filter_figures
from .quality import NETWORK
from .tables import ratio

#: Fractions of the full dose.
DOSES = (0.5, 0.25, 0.1)
#: What sets a series apart: names in the results, and what DICOM calls them.
SERIES = {
    "kernel": "ConvolutionKernel",
    "kvp": "KVP",
    "slice_thickness_mm": "SliceThickness",
    "manufacturer": "Manufacturer",
}


def measure_matrix(
    data: Path,
    work: Path,
    *,
    weights: Path,
    network_config: str = "",
    prior: str = "uniform",
    strength: tuple[str, tuple[float, float]],
    names: Sequence[str] = HELD_OUT,
    slices: int = 4,
    seed: int = 0,
) -> dict[str, Any]:
    """The network at one strength beside the Gaussian, by patient and dose.

    Args:
        data, work, names, slices, seed: see `Bench`.
        weights, network_config, prior: of the network.
        strength: its name and (anchor in mm, share of the grain).

    Returns:
        ``series``: patient to what its header says; ``doses``: dose to patient to ``noise_in_hu``, ``noise_left``,
        ``contrast``, ``above`` (points over a Gaussian of equal noise, by diameter), ``body`` and ``edges`` (error
        over that of the input, and of the best Gaussian), ``wider_mm`` by kind of edge, and ``ends``: what does not
        hold.
    """
    name, numbers = strength
    network = EvaluatedNetwork(NETWORK, weights, network_config, prior, {name: anchored(*numbers)}, {name: numbers})
    doses = {}
    for dose in DOSES:
        bench = Bench(data, work, names, slices, seed, dose_fraction=dose)
        found = {NETWORK: network.evaluated(bench), GAUSSIAN: filter_figures(bench, gaussians())}
        doses[f"{dose:g}"] = {patient: row(found, found[NETWORK][name], patient) for patient in names}
    return {
        "strength": name,
        "slices": slices,
        "series": {patient: series_facts(patient_folder(data, patient)) for patient in names},
        "doses": doses,
    }


def row(found: Found, of: Figures, patient: str) -> dict[str, Any]:
    """One cell of the matrix, see `measure_matrix`."""
    one = of[patient]
    above = {d: above_gaussian(found, one, patient, d) for d in ("4", "6", "10")}
    low = next(iter(found[GAUSSIAN].values()))[patient]["error_hu2"]
    errors = {
        region: {
            "input": ratio(one["error_hu2"][region], low[region]),
            "gaussian": ratio(one["error_hu2"][region], best_error(found, GAUSSIAN, patient, region)),
        }
        for region in ("body", "edges")
    }
    wider = {edge: after - before for edge, (before, after) in one["edges_mm"].items()}
    ends = [f"{d} mm below a Gaussian" for d, points in above.items() if points < 0.0]
    ends += [f"error of {region} above a Gaussian's" for region, of in errors.items() if of["gaussian"] >= 1.0]
    ends += [f"{edge} edges {by:.2f} mm wider" for edge, by in wider.items() if by >= EDGE_MM]
    return {
        **{key: one[key] for key in ("noise_in_hu", "noise_left", "contrast")},
        "above": above,
        **{name: errors[name] for name in ("body", "edges")},
        "wider_mm": wider,
        "ends": ends,
    }


def series_facts(folder: Path) -> dict[str, Any]:
    """What the header of a series says of how it was made, and its field of view in mm."""
    header = open_dicom(select_series(folder, tell=False).files[0], stop_before_pixels=True)
    return {
        **{name: _text(header, keyword) for name, keyword in SERIES.items()},
        "field_of_view_mm": float(header.PixelSpacing[0]) * int(header.Rows),
    }


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    if value is None or value == "":
        return "-"
    return "/".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def held(one: Mapping[str, Any]) -> tuple[int, int]:
    """How many cells hold, of how many."""
    cells = [cell for of in one["doses"].values() for cell in of.values()]
    return sum(not cell["ends"] for cell in cells), len(cells)
