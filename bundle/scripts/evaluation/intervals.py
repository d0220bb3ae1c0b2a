"""Means over patients with their 95% intervals: the patient is the unit, slices never are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import stdtrit

#: Below so many patients no interval is given: with two it would be a dozen times as wide as their distance.
FEWEST_PATIENTS = 3


def patient_interval(values_by_patient: Mapping[str, float]) -> dict[str, Any]:
    """Mean over patients, SD between them, and the 95% interval of the mean by Student's t.

    The interval is ``mean ± t(0.975, n - 1) SD / sqrt(n)``. The slices of a patient are alike, so they enter as one
    value, their mean, and are never counted or resampled as if they were independent.

    Args:
        values_by_patient: one value a patient, e.g. the mean over the slices; NaN where it could not be measured.

    Returns:
        ``n``, patients that have a value; ``mean``, NaN for none; ``sd`` with n - 1 in the denominator, None below
        two patients; ``interval_95`` as [lower, upper], None below three.
    """
    values = np.array([value for value in values_by_patient.values() if not math.isnan(value)], dtype=np.float64)
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    with np.errstate(invalid="ignore"):  # the PSNR of equal images is infinite
        sd = float(values.std(ddof=1)) if n > 1 else None
    interval = None
    if n >= FEWEST_PATIENTS:
        margin = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
        interval = [mean - margin, mean + margin]
    return {"n": n, "mean": mean, "sd": sd, "interval_95": interval}
