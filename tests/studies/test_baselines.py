"""The tuned non-local means, and the cap of the gain against its derivation in numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scripts.errors import BioAttError

from studies.measures.baselines import gain_cap_db, non_local_means


def gain_db(estimate, low, full):
    return 10 * math.log10(((low - full) ** 2).mean() / ((estimate - full) ** 2).mean())


@pytest.mark.parametrize("k", [0.1, 0.25, 0.5])
def test_the_best_blend_of_known_anatomy_and_low_dose_gains_the_cap(k):
    generator = np.random.default_rng(0)
    full = generator.normal(0.0, 10.0, 400_000)  # anatomy 0, known
    low = full + generator.normal(0.0, 10.0 * math.sqrt(1 / k - 1), full.size)
    gains = {blend: gain_db(blend * low, low, full) for blend in (0.8 * k, k, 1.2 * k)}
    assert gains[k] == pytest.approx(gain_cap_db(k), abs=0.05) and gains[k] == max(gains.values())
    assert gain_db(0 * low, low, full) == pytest.approx(10 * math.log10(1 / k - 1), abs=0.05)


def test_the_cap_at_quarter_dose_is_six_decibels_and_at_full_dose_none():
    assert gain_cap_db(0.25) == pytest.approx(6.02, abs=0.001) and gain_cap_db(1.0) == 0.0
    with pytest.raises(ValueError, match=r"dose_fraction must be in \(0, 1\], got 0"):
        gain_cap_db(0.0)


def test_non_local_means_takes_noise_and_keeps_an_edge():
    truth = np.where(np.arange(96)[None] < 48, 40.0, 140.0) * np.ones((96, 1))
    noisy = truth + np.random.default_rng(0).normal(0.0, 10.0, truth.shape)
    pure, blended = (non_local_means(noisy, 10.0, blend=blend) for blend in (1.0, 0.6))
    np.testing.assert_allclose(blended, 0.6 * pure + 0.4 * noisy, atol=1e-3)
    assert (blended - truth)[:, 10:40].std() < 6.0
    edge = pure[10:86].mean(0)
    assert edge[50] - edge[45] > 90.0


def test_the_noise_is_measured_where_none_is_given():
    generator = np.random.default_rng(1)
    soft = 50.0 + generator.normal(0.0, 12.0, (96, 96))
    np.testing.assert_allclose(non_local_means(soft), non_local_means(soft, 12.0), atol=3.0)
    with pytest.raises(BioAttError, match="shows no soft tissue; give noise_hu"):
        non_local_means(np.full((64, 64), -1000.0))
