"""Whether the error against the truth ranks denoisers alike if the added noise is not what it should be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scripts.evaluation.truth import pooled, region_errors
from scripts.pages import table

from .evaluating import EvaluatedPatient, EvaluatedSlice, Method
from .quality import NETWORK
from .tables import number

REGIONS = ("body", "edges", "flat")


def measure_alpha(patients: Sequence[EvaluatedPatient], methods: Sequence[Method]) -> dict[str, Any]:
    """Errors against the truth by the nominal alpha2, and by that which is measured in flat tissue.

    Args:
        patients: with simulated low doses.
        methods: the network, called `NETWORK`, and filters; of those with several settings, or several methods of one
            name, the one that serves best counts.

    Returns:
        ``patients``: name to ``alpha2``, nominal and measured, and ``error_hu2`` by each, see `least_errors`.
    """
    return {"patients": {one.name: _of_patient(one, methods) for one in patients}}


def _of_patient(patient: EvaluatedPatient, methods: Sequence[Method]) -> dict[str, Any]:
    outputs: dict[tuple[str, str], list[np.ndarray]] = {}
    for method in methods:
        for one in patient.slices:
            for setting, (output,) in method.results(one, [one.low_hu]).items():
                outputs.setdefault((method.name, setting), []).append(output)
    by_both = [least_errors(patient.slices, outputs, alpha2) for alpha2 in patient.alpha2]
    return {"alpha2": list(patient.alpha2), "error_hu2": by_both}


def least_errors(
    slices: Sequence[EvaluatedSlice], outputs: Mapping[tuple[str, str], Sequence[np.ndarray]], alpha2: float
) -> dict[str, dict[str, float]]:
    """Region to method to its error in HU^2 at the setting that serves it best there.

    Args:
        slices: of a patient.
        outputs: by method and setting, one for each slice, (H, W) in HU.
        alpha2: var(added noise) / var(noise of the full dose).
    """
    least: dict[str, dict[str, float]] = {region: {} for region in REGIONS}
    for (name, _), of in outputs.items():
        errors = [
            region_errors(output, one.full_hu, one.low_hu - one.full_hu, alpha2, one.regions)
            for one, output in zip(slices, of, strict=True)
        ]
        for region, kept in least.items():
            error = pooled(one[region] for one in errors)
            kept[name] = min(error, kept.get(name, error))
    return least


def alpha_section(one: Mapping[str, Any], _results: object = None) -> str:
    """What docs/evidence/quality.md says of it."""
    patients = one["patients"]
    rows = [
        (name, region, *(number(alpha2) for alpha2 in of["alpha2"]), *(_text(by[region]) for by in of["error_hu2"]))
        for region in REGIONS
        for name, of in patients.items()
    ]
    least = "; ".join(
        f"{region} on {_least(one, region, 0)} and {_least(one, region, 1)} patients" for region in REGIONS
    )
    filters = [name for name in next(iter(patients.values()))["error_hu2"][0]["body"] if name != NETWORK]
    return f"""### How much depends on alpha²

By the nominal and by the measured alpha², `network` at high has less error than the best filter: {least}.
In flat tissue alone the strongest blur is often best.

The error is unbiased where the added noise has the spectrum of the scanner's own and alpha² times its power. Both are
matched above 0.12 cycles per pixel. Below, what looks like noise in flat tissue is partly anatomy, so the measured
alpha² is a lower bound; if it were right, the nominal one would favour what keeps noise. The table has the error of
`network` at high over the least of {", ".join(filters[:-1])} and {filters[-1]}, each at the setting that serves it
best. *Below 0*: an estimated error is below 0, so this alpha² is too low. A row is one patient's four slices and has no
interval.

{table(("patient", "region", "alpha², nominal", "measured", "by the nominal", "by the measured"), rows)}"""


def flat_line(one: Mapping[str, Any]) -> str:
    """For README: where a blur is better."""
    least = _least(one, "flat", 0)
    return f"In flat tissue alone our error at high is the least on {least} patients; on the others a blur has less."


def _least(one: Mapping[str, Any], region: str, which: int) -> str:
    """On how many patients `network` has the least error, of those whose errors are above 0; by one of the alpha2."""
    ratios = [_ratio(of["error_hu2"][which][region]) for of in one["patients"].values()]
    known = [ratio for ratio in ratios if not math.isnan(ratio)]
    return f"{sum(ratio < 1.0 for ratio in known)} of {len(known)}"


def _text(errors: Mapping[str, float]) -> str:
    ratio = _ratio(errors)
    return "below 0" if math.isnan(ratio) else number(ratio)


def _ratio(errors: Mapping[str, float]) -> float:
    """Error of `network` over the least of the filters; NaN where an estimate is not above 0."""
    theirs = min(error for name, error in errors.items() if name != NETWORK)
    return errors[NETWORK] / theirs if min(errors[NETWORK], theirs) > 0.0 else math.nan
