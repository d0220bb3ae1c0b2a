"""Intervals over patients: textbook values, and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scripts.evaluation import patient_interval


def by_patient(*values):
    return {f"P{i}": value for i, value in enumerate(values)}


def test_the_interval_is_that_of_students_t():
    values = [30.1, 32.4, 29.8, 33.0, 31.2]
    got = patient_interval(by_patient(*values))
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert got["n"] == 5 and got["mean"] == pytest.approx(np.mean(values))
    assert got["sd"] == pytest.approx(np.std(values, ddof=1))
    assert got["interval_95"] == pytest.approx(list(expected))


def test_three_patients_by_hand():
    # t(0.975, 2) = 4.3027; SD 1, so the margin is 4.3027 / sqrt(3)
    assert patient_interval(by_patient(1.0, 2.0, 3.0))["interval_95"] == pytest.approx([-0.4841, 4.4841], abs=1e-4)


@pytest.mark.parametrize(("values", "sd"), [((), None), ((5.0,), None), ((5.0, 7.0), math.sqrt(2))])
def test_below_three_patients_there_is_no_interval(values, sd):
    got = patient_interval(by_patient(*values))
    assert got["interval_95"] is None and got["n"] == len(values)
    assert got["sd"] == (None if sd is None else pytest.approx(sd))


def test_a_patient_without_a_value_does_not_count():
    got = patient_interval(by_patient(1.0, math.nan, 2.0, 3.0))
    assert got["n"] == 3 and got["mean"] == 2.0
    assert patient_interval(by_patient(1.0, math.nan, 2.0))["interval_95"] is None


def test_the_interval_holds_the_true_mean_in_95_of_100_samples():
    generator = np.random.default_rng(0)
    samples = generator.normal(3.0, 2.0, size=(2000, 4))
    intervals = [patient_interval(by_patient(*sample))["interval_95"] for sample in samples]
    held = np.mean([lower <= 3.0 <= upper for lower, upper in intervals])
    assert held == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 2000))
