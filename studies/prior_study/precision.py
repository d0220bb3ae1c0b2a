"""How well a gain is known: beside Student's interval over patients, what docs/priors.md set down beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

#: The confidence of every interval.
LEVEL = 0.95
#: More patients than this are not counted.
MOST_PATIENTS = 100_000
#: By patient and seed, in dB.
Gains = Mapping[tuple[str, int], float]


def adjusted_for_noise(gains: Mapping[str, float], low_errors: Mapping[str, float]) -> dict[str, Any]:
    """The mean gain from a straight line on log10 of the low dose's error, centred.

    The mean is that of the gains; the interval is narrower where the line explains a part of their spread, and holds
    for patients whose low doses are as noisy as these.

    Args:
        gains: by patient, in dB.
        low_errors: by patient, the mean squared error of the low dose in HU^2.

    Returns:
        ``mean``; ``interval_95``; ``slope_db``, of a tenfold error; ``r2``, the share of the variance explained.
    """
    patients = sorted(gains)
    x, y = np.log10([low_errors[patient] for patient in patients]), np.array([gains[patient] for patient in patients])
    x -= x.mean()
    slope = float(x @ y / (x @ x)) if x.any() else 0.0
    rest = y - y.mean() - slope * x
    half = _student(len(y) - 2) * math.sqrt(float(rest @ rest) / (len(y) - 2) / len(y))
    mean, explained = float(y.mean()), 1.0 - float(rest @ rest) / float(((y - y.mean()) ** 2).sum())
    return {"mean": mean, "interval_95": [mean - half, mean + half], "slope_db": slope, "r2": explained}


def random_patients_and_networks(gains: Gains, folds: Mapping[str, int]) -> dict[str, Any]:
    """The mean of ``gain = mean + patient + network + rest``, a network being one fold and seed.

    Mean squares of the two-way layout of patients and seeds in each fold give the variance of the mean; Satterthwaite's
    formula its degrees of freedom. Source: Satterthwaite, Biometrics Bulletin 2 (1946) 110.

    Args:
        gains: by patient and seed, in dB; every patient with every seed.
        folds: the fold of each patient.

    Returns:
        ``mean``; ``interval_95``; and ``half_width_of_patients``, what would be left of the interval with no end of
        seeds. None where a patient lacks a seed.
    """
    tables = _tables(gains, folds)
    if not tables:
        return {"mean": float(np.mean(list(gains.values()))), "interval_95": None, "half_width_of_patients": None}
    patients, networks, rest = (_mean_square(parts) for parts in zip(*map(_squares, tables), strict=True))
    # The rest is in both mean squares and counts once; never below what the patients alone say.
    terms = [patients, networks, (-rest[0], rest[1])] if networks[0] > rest[0] else [patients]
    variance = sum(term for term, _ in terms)
    freedom = variance**2 / sum(term**2 / df for term, df in terms)
    mean, count = float(np.concatenate(tables).mean()), sum(table.size for table in tables)
    half = _student(freedom) * math.sqrt(variance / count)
    alone = _student(patients[1]) * math.sqrt(max(0.0, patients[0] - rest[0]) / count)
    return {"mean": mean, "interval_95": [mean - half, mean + half], "half_width_of_patients": alone}


def patients_needed(sd: float, half_width: float) -> int:
    """The least n whose Student's interval of the mean is no wider than `half_width` to each side, if the SD stays.

    Raises:
        ValueError: it would be more than `MOST_PATIENTS`.
    """
    for n in range(3, MOST_PATIENTS):
        if _student(n - 1) * sd / math.sqrt(n) <= half_width:
            return n
    raise ValueError(f"an SD of {sd} needs more than {MOST_PATIENTS} patients for {half_width}")


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values after Holm's correction for their number. Source: Holm, Scand J Statist 6 (1979) 65."""
    found, highest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        found[name] = highest
    return found


def p_value(gains: Mapping[str, float]) -> float:
    """Two-sided p of Student's test that the mean gain is 0."""
    return float(stats.ttest_1samp(list(gains.values()), 0.0).pvalue)


def _tables(gains: Gains, folds: Mapping[str, int]) -> list[np.ndarray]:
    """Gains (patients, seeds) of each fold; none where a patient lacks a seed, or a fold has but one patient."""
    seeds = sorted({seed for _, seed in gains})
    by_fold = [[patient for patient, of in folds.items() if of == fold] for fold in sorted(set(folds.values()))]
    if len(gains) != len(seeds) * len(folds) or len(seeds) < 2 or min(map(len, by_fold)) < 2:
        return []
    return [np.array([[gains[patient, seed] for seed in seeds] for patient in of]) for of in by_fold]


def _squares(table: np.ndarray) -> tuple[tuple[float, int], ...]:
    """Sums of squares about the fold's mean, and degrees of freedom: patients (rows), networks (columns), the rest."""
    rows, columns = table.shape
    by_row, by_column = table.mean(1) - table.mean(), table.mean(0) - table.mean()
    rest = table - table.mean() - by_row[:, None] - by_column
    return (
        (columns * float((by_row**2).sum()), rows - 1),
        (rows * float((by_column**2).sum()), columns - 1),
        (float((rest**2).sum()), (rows - 1) * (columns - 1)),
    )


def _mean_square(parts: Sequence[tuple[float, int]]) -> tuple[float, int]:
    freedom = sum(df for _, df in parts)
    return sum(square for square, _ in parts) / freedom, freedom


def _student(freedom: float) -> float:
    return float(stats.t.ppf(0.5 + LEVEL / 2, freedom))
