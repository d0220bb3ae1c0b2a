"""The plane of noise left against contrast kept and the error against the truth, on all patients left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scripts.dose.image_noise import TISSUES_HU
from scripts.networks import read_recipe, weights_sha256
from scripts.strengths import DEFAULT

from .bench import Bench, Figures
from .evaluating import Method
from .limits import Limit
from .methods import anchored, blends, block_matching, gaussians, network_method, non_local, total_variation
from .quality import NETWORK

#: Names of the methods in the results.
GAUSSIAN, NLM, BM3D, OLD = "Gaussian", "non-local means", "BM3D", "0.3.2"
TV = "total variation"
#: The same network with a prior that knows nothing of the slice.
WRONG, WRONG_PRIOR = "network, random prior", "random:0"
#: What is promised: contrast by diameter and noise at standard, contrast of 4 mm at low, points above a Gaussian there.
STANDARD_CONTRAST = {"4": 0.80, "6": 0.89, "10": 0.95}
STANDARD_NOISE, LOW_CONTRAST, POINTS_ABOVE = 0.45, 0.88, 3.0
FREQUENCY_LEFT, ERROR_TO_OLD, BIAS_HU = 0.5, 0.85, 0.5
#: An edge is wider if it is by more than the measurement resolves.
EDGE_MM = 0.02
#: By how much a wrong prior may change the error, as a share, and the contrast kept, in points.
WRONG_ERROR, WRONG_POINTS = 0.02, 3.0

Found = dict[str, dict[str, Figures]]  # method to setting to patient to figures


def measure_plane(
    bench: Bench,
    few: Bench | None,
    *,
    weights: Path,
    network_config: str = "",
    prior: str = "uniform",
    strengths: Mapping[str, tuple[float, float]],
    old: tuple[Path, str] | None = None,
) -> dict[str, Any]:
    """Evaluate the network at its strengths beside the filters and 0.3.2.

    Args:
        bench: the patients.
        few: the same patients with fewer slices and a window, for BM3D, which is slow; without it BM3D is left out.
        weights, network_config, prior: of the network.
        strengths: name to (anchor in mm, share of the grain).
        old: weights of 0.3.2 and their prior; left out without them.

    Returns:
        ``patients``; ``strengths``; ``figures`` by method, setting and patient (see `patient_figures`); ``few``,
        the same for BM3D and what it is compared with, on its slices; ``limits``.
    """
    ours = EvaluatedNetwork(
        NETWORK, weights, network_config, prior, {n: anchored(*s) for n, s in strengths.items()}, strengths
    )
    theirs = [ours]
    if old is not None:
        theirs.append(EvaluatedNetwork(OLD, old[0], "", old[1], blends(), {}))
    found: Found = {one.name: one.evaluated(bench) for one in theirs}
    standard = {DEFAULT: strengths[DEFAULT]}
    wrong = EvaluatedNetwork(WRONG, weights, network_config, WRONG_PRIOR, {DEFAULT: ours.settings[DEFAULT]}, standard)
    found[WRONG] = wrong.evaluated(bench)
    found[GAUSSIAN] = filter_figures(bench, gaussians())
    found[NLM] = filter_figuress(bench, non_local())
    found[TV] = filter_figuress(bench, total_variation())
    slow: Found = {}
    if few is not None:
        slow = {one.name: one.evaluated(few) for one in theirs} | {GAUSSIAN: filter_figures(few, gaussians())}
        slow[BM3D] = filter_figuress(few, block_matching())
    return {
        "dose_fraction": bench.patients[0].dose_fraction,
        "patients": {one.name: one.about() for one in bench.patients},
        "strengths": {name: list(values) for name, values in strengths.items()},
        "figures": found,
        "few": {"slices": few.slices if few else 0, "window": few.window if few else 0, "figures": slow},
        "limits": [one.as_dict() for one in plane_limits(found, slow)],
    }


class EvaluatedNetwork:
    """A network to be evaluated, opened only if its figures are not there."""

    def __init__(
        self, name: str, weights: Path, config: str, prior: str, settings: Mapping[str, Any], numbers: Mapping[str, Any]
    ) -> None:
        self.name, self.settings = name, settings
        self._key = f"{network_key(weights, config, prior)} {sorted(numbers.items())}"
        self._make = lambda: network_method(name, weights, settings, network_config=config, prior=prior)

    def evaluated(self, bench: Bench) -> dict[str, Figures]:
        """Setting to patient to figures."""
        return bench.figures(self._key, list(self.settings), self._make)


#: Changes when the step from a network's output to its result does, so that figures which were kept are not read.
RESULT = "restored 2"


def network_key(weights: Path, config: str, prior: str) -> str:
    """All that decides what these weights make of an image, besides the strength, for `Bench.figures`."""
    share = (read_recipe(weights).network_def or {}).get("prior_share", 1.0)
    of_prior = "" if prior == "uniform" or share == 1.0 else f" share {share}"  # the uniform prior has none
    return f"{weights_sha256(weights)} {config} {prior}{of_prior} {RESULT}"


def filter_figures(bench: Bench, method: Method) -> dict[str, Figures]:
    """Figures of a filter at all its settings."""
    return bench.figures(method.name, list(method.settings), lambda: method)


def filter_figuress(bench: Bench, methods: Sequence[Method]) -> dict[str, Figures]:
    """Figures of filters that have one setting each."""
    return {name: of for one in methods for name, of in filter_figures(bench, one).items()}


def above_gaussian(found: Found, figures: Mapping[str, Any], patient: str, diameter: str) -> float:
    """Points of contrast that are kept above a Gaussian which leaves as much noise; NaN without such a disc."""
    if diameter not in figures["contrast"]:
        return math.nan
    curve = [of[patient] for of in found[GAUSSIAN].values()]
    return 100.0 * (figures["contrast"][diameter] - contrast_at_noise(curve, figures["noise_left"], diameter))


def best_error(found: Found, who: str, patient: str, region: str) -> float:
    """Least error of a method over its settings, each patient and region with the setting that serves it best."""
    return min(_known(of[patient]["error_hu2"][region]) for of in found[who].values())


def plane_limits(found: Found, slow: Found) -> list[Limit]:
    """The acceptance limits, and whether the weights keep them."""
    limits = [limit for name, of in found[NETWORK].items() for limit in _plane(found, name, of)]
    limits += _named(found)
    limits += [limit for patient in found[NETWORK]["high"] for limit in _errors(found, slow, patient)]
    limits += [limit for patient in found.get(WRONG, {}).get(DEFAULT, {}) for limit in _wrong_prior(found, patient)]
    if OLD in found:
        ratios = [
            _known(of["error_hu2"]["body"]) / best_error(found, OLD, patient, "body")
            for patient, of in found[NETWORK]["high"].items()
        ]
        limits.append(Limit("high: error over 0.3.2's, mean", float(np.mean(ratios)), "<", ERROR_TO_OLD, ""))
    return limits


def _plane(found: Found, strength: str, of: Figures) -> list[Limit]:
    limits = []
    for diameter in STANDARD_CONTRAST:
        points = {p: above_gaussian(found, one, p, diameter) for p, one in of.items()}
        limits += [
            Limit(f"{patient}, {strength}: {diameter} mm above a Gaussian", value, ">=", 0.0, "points")
            for patient, value in points.items()
        ]
        if diameter == "4":
            mean = float(np.mean(list(points.values())))
            limits.append(Limit(f"{strength}: 4 mm above a Gaussian, mean", mean, ">=", POINTS_ABOVE, "points"))
    for patient, one in of.items():
        biases = [abs(_known(one["bias_hu"][tissue])) for tissue in TISSUES_HU]
        worst = max(bias for bias in biases if not math.isnan(bias))
        limits.append(Limit(f"{patient}, {strength}: HU of every tissue kept", worst, "<", BIAS_HU, "HU"))
        limits += [
            Limit(f"{patient}, {strength}: {edge} edge wider", after - before, "<", EDGE_MM, "mm")
            for edge, (before, after) in one["edges_mm"].items()
        ]
    return limits


def _named(found: Found) -> list[Limit]:
    """What low and standard promise by themselves."""
    standard, low = found[NETWORK]["standard"], found[NETWORK]["low"]
    limits = [
        Limit(f"standard: {diameter} mm kept, mean", _mean(standard, diameter), ">=", bound, "")
        for diameter, bound in STANDARD_CONTRAST.items()
    ]
    noise, frequency = (
        float(np.nanmedian([_known(one[key]) for one in standard.values()])) for key in ("noise_left", "frequency_left")
    )
    return [
        *limits,
        Limit("standard: noise left, median series", noise, "<", STANDARD_NOISE, ""),
        Limit("standard: mean frequency left, median series", frequency, ">=", FREQUENCY_LEFT, ""),
        Limit("low: 4 mm kept, mean", _mean(low, "4"), ">=", LOW_CONTRAST, ""),
    ]


def _errors(found: Found, slow: Found, patient: str) -> list[Limit]:
    limits = []
    for region in ("body", "edges"):
        for baselines, figures in (((NLM, TV, OLD), found), ((BM3D,), slow)):
            for baseline in (one for one in baselines if one in figures):
                ours = _known(figures[NETWORK]["high"][patient]["error_hu2"][region])
                ratio = ours / best_error(figures, baseline, patient, region)
                limits.append(Limit(f"{patient}, high: error of {region} over that of {baseline}", ratio, "<", 1.0, ""))
    return limits


def _wrong_prior(found: Found, patient: str) -> list[Limit]:
    """What a random prior may change at the default strength."""
    right, wrong = (found[name][DEFAULT][patient] for name in (NETWORK, WRONG))
    errors = [_known(one["error_hu2"]["body"]) for one in (right, wrong)]
    points = [100.0 * abs(wrong["contrast"][d] - right["contrast"][d]) for d in STANDARD_CONTRAST]
    name = f"{patient}, {DEFAULT}, random prior:"
    return [
        Limit(f"{name} error of body changed by", abs(errors[1] / errors[0] - 1.0), "<", WRONG_ERROR, "as a share"),
        Limit(f"{name} contrast kept changed by", max(points), "<", WRONG_POINTS, "points"),
    ]


def _mean(of: Figures, diameter: str) -> float:
    return float(np.mean([one["contrast"][diameter] for one in of.values() if diameter in one["contrast"]]))


def _known(value: float | None) -> float:
    """JSON's null as NaN."""
    return math.nan if value is None else value


def contrast_at_noise(curve: Sequence[Mapping[str, Any]], noise_left: float, diameter: str) -> float:
    """Contrast that a filter keeps where it leaves so much noise, between its settings by a straight line.

    A wide Gaussian draws neighbouring tissue into flat places, so from some width on the SD there rises again: the
    curve ends where it is least. Where less noise is wanted than any setting leaves, the filter is given the contrast
    that it keeps there, which is more than it would keep with less noise.

    Args:
        curve: `PlanePoint.summary` of the filter at each setting, from the identity to the strongest.
        noise_left: as a share of the input's; the identity's contrast stands for more than all of it.
        diameter: key of ``contrast``.
    """
    noise = [one["noise_left"] for one in curve]
    points = sorted((one["noise_left"], one["contrast"][diameter]) for one in curve[: int(np.argmin(noise)) + 1])
    return float(np.interp(noise_left, *zip(*points, strict=True)))
