"""Figures of each arm from the records of the runs: what its error against the truth is beside the baselines'."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.errors import BioAttError
from scripts.evaluation.intervals import FEWEST_PATIENTS, patient_interval

from .precision import adjusted_for_noise, holm, p_value, patients_needed, random_patients_and_networks

#: The interval that the study was made to reach, in dB: so small a difference does not matter.
TARGET_DB = 0.05
#: The baselines: attention with a prior that knows nothing, and no attention.
UNIFORM, NONE = "prior: uniform", "no attention"
#: Arms whose prior knows something of the slice.
KNOWING = ("prior: compact", "prior: dense", "prior: oracle")
RIGHT = "right"
#: Gains that differ by less between patients are equal, and have no interval.
LEAST_SD_DB = 1e-9
#: Values by (patient, seed).
Values = dict[tuple[str, int], float]


def read_records(results: Path, study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of the runs that are in, in the order of the plan.

    Raises:
        BioAttError: one cannot be read, or is of other settings or another pack.
    """
    order = {name: number for number, name in enumerate(study["arms"])}
    records = []
    for file in sorted(results.glob("*_fold*_seed*.json")):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            where = (record["seed"], record["fold"], order[record["arm"]])
            told = record["settings"], record["made"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BioAttError(f"run {file} cannot be read ({error}); delete it, and it is done again") from error
        if told != (study["settings"], records[0][1]["made"] if records else record["made"]):
            raise BioAttError(f"run {file} is of other settings or another pack; keep each study in its own folder")
        records.append((where, record))
    return [record for _, record in sorted(records, key=lambda one: one[0])]


def summarise(records: Sequence[Mapping[str, Any]], baselines: Sequence[str]) -> dict[str, Any]:
    """Figures of each arm.

    A gain is ``10 log10(error of the baseline / error of the arm)`` of the same patient and seed, averaged over seeds;
    its interval is over patients. The same over networks, one a fold and seed, each the mean of its patients, shows
    how much depends on the training's chance.

    Returns:
        ``arms``: by name ``patients``, ``seeds``; ``error_left``, the mean over patients of the error over the low
        dose's; ``contrast_kept``; and by baseline ``gain_db``, ``gain_db_by_network``, ``contrast_gain``, each as
        `patient_interval`, the first with ``by_patient`` and ``by_seed``. ``use``: by arm and prior at test the gain of
        the right prior over it. ``precision``: see `_precision`. ``not_positive``: estimates of an error that are 0 or
        less, which have no dB.
    """
    errors: dict[tuple[str, str], Values] = defaultdict(dict)
    contrast: dict[str, Values] = defaultdict(dict)
    fold_of: dict[str, int] = {}
    for record in records:
        for patient, figures in record["patients"].items():
            fold_of[patient] = record["fold"]
            key = (patient, record["seed"])
            if figures["contrast"]:
                contrast[record["arm"]][key] = sum(figures["contrast"].values()) / len(figures["contrast"])
            for test, value in figures.items():
                if isinstance(value, float):
                    errors[record["arm"], test][key] = value
    arms = list(dict.fromkeys(record["arm"] for record in records))
    summary: dict[str, Any] = {"arms": {}, "use": {}, "baselines": list(baselines)}
    for arm in arms:
        own = errors[arm, RIGHT]
        left = {key: value / errors[arm, "low"][key] for key, value in own.items()}
        others = [name for name in baselines if name != arm and name in arms]
        gains = {name: _gains(own, errors[name, RIGHT]) for name in others}
        summary["arms"][arm] = {
            "patients": len({patient for patient, _ in own}),
            "seeds": len({seed for _, seed in own}),
            "error_left": patient_interval(_over_seeds(left)),
            "contrast_kept": patient_interval(_over_seeds(contrast[arm])),
            "gain_db": {
                name: patient_interval(_over_seeds(one)) | {"by_patient": _over_seeds(one), "by_seed": _by_seed(one)}
                for name, one in gains.items()
                if one
            },
            "gain_db_by_network": {
                name: patient_interval(_means((f"{fold_of[p]} {seed}", v) for (p, seed), v in one.items()))
                for name, one in gains.items()
                if one
            },
            "contrast_gain": {
                name: patient_interval(_over_seeds(_paired(contrast[arm], contrast[name], lambda a, b: a - b)))
                for name in others
            },
        }
        tests = [test for name, test in errors if name == arm and test not in (RIGHT, "low")]
        if tests:
            used = {test: _over_seeds(_gains(own, errors[arm, test])) for test in tests}
            summary["use"][arm] = {test: patient_interval(one) for test, one in used.items()}
    if UNIFORM in arms:
        low = _over_seeds(
            {key: value for (_, test), of in errors.items() if test == "low" for key, value in of.items()}
        )
        gains_of = {arm: _gains(errors[arm, RIGHT], errors[UNIFORM, RIGHT]) for arm in arms if arm != UNIFORM}
        summary["precision"] = _precision(gains_of, low, fold_of)
    summary["not_positive"] = sum(
        value <= 0 for (_, test), values in errors.items() for value in values.values() if test == RIGHT
    )
    return summary


def _precision(
    gains: Mapping[str, Values], low_errors: Mapping[str, float], folds: Mapping[str, int]
) -> dict[str, Any]:
    """How well each arm's gain over the uniform prior is known, by all the ways that docs/priors.md sets down.

    Returns:
        By arm: ``adjusted``, ``random`` (see `precision`), ``patients_needed`` for `TARGET_DB` and ``p_holm``, of the
        arms whose prior knows something. Arms with fewer than four patients are left out.
    """
    known = {arm: {key: value for key, value in of.items() if not math.isnan(value)} for arm, of in gains.items()}
    means = {arm: _over_seeds(of) for arm, of in known.items()}
    enough = [
        arm for arm, of in means.items() if len(of) > FEWEST_PATIENTS and patient_interval(of)["sd"] > LEAST_SD_DB
    ]
    corrected = holm({arm: p_value(means[arm]) for arm in KNOWING if arm in enough})
    return {
        arm: {
            "adjusted": adjusted_for_noise(means[arm], low_errors),
            "random": random_patients_and_networks(known[arm], {patient: folds[patient] for patient in means[arm]}),
            "patients_needed": patients_needed(patient_interval(means[arm])["sd"], TARGET_DB),
            "p_holm": corrected.get(arm),
        }
        for arm in enough
    }


def _gains(own: Values, other: Values) -> Values:
    return _paired(own, other, lambda a, b: 10 * math.log10(b / a) if a > 0 and b > 0 else math.nan)


def _paired(own: Values, other: Values, difference: Any) -> Values:
    return {key: difference(value, other[key]) for key, value in own.items() if key in other}


def _over_seeds(values: Values) -> dict[str, float]:
    return _means((patient, value) for (patient, _), value in sorted(values.items()))


def _by_seed(values: Values) -> dict[str, float]:
    return _means((str(seed), value) for (_, seed), value in sorted(values.items()))


def _means(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Means by name, of what is a number."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, value in values:
        if not math.isnan(value):
            found[name].append(value)
    return {name: math.fsum(several) / len(several) for name, several in found.items()}
