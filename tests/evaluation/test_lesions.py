"""Lesions in slices: where they are put, what they add, and how their contrast is measured."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scripts.evaluation.lesions import Lesion, contrast_recovery, place_lesions


def slice_with_liver():
    """Fat with an ellipse of liver and a bone in it, 256 pixels of 0.8 mm."""
    rows, columns = np.mgrid[:256, :256] - 128.0
    hu = np.where((rows / 100) ** 2 + (columns / 110) ** 2 < 1, -100.0, -1000.0)
    hu[(rows / 60) ** 2 + (columns / 80) ** 2 < 1] = 100.0
    hu[np.hypot(rows, columns) < 10] = 600.0
    return hu + np.random.default_rng(0).normal(0.0, 10.0, hu.shape)


def test_a_lesion_holds_its_area_and_has_half_its_contrast_at_its_edge():
    profile = Lesion(10.0, (32, 32)).profile((64, 64), 0.5)
    assert profile.sum() * 0.25 == pytest.approx(np.pi * (25.0 + 0.6**2), rel=0.01)
    assert profile[32, 32] == pytest.approx(1.0) and profile[32, 42] == pytest.approx(0.5) and profile[0, 0] < 1e-9


def test_lesions_lie_in_even_soft_tissue_apart_from_each_other():
    hu, spacing = slice_with_liver(), 0.8
    for seed in range(5):
        lesions = place_lesions(hu, (5.0, 10.0, 15.0), spacing, np.random.default_rng(seed))
        assert [one.diameter_mm for one in lesions] == [15.0, 10.0, 5.0]
        profiles = np.stack([one.profile(hu.shape, spacing) for one in lesions])
        assert (profiles > 0.01).sum(0).max() == 1
        touched = gaussian_filter(hu, 2.0)[profiles.max(0) > 0.01]
        assert touched.min() > 40.0 and touched.max() < 160.0


def test_a_lesion_without_room_is_passed_over():
    assert place_lesions(np.full((64, 64), -800.0), [15.0], 0.8, np.random.default_rng(0)) == []


def test_contrast_recovery_is_the_share_that_is_left():
    profile = Lesion(10.0, (32, 32)).profile((64, 64), 0.7)
    assert contrast_recovery(-20.0 * profile, profile, -20.0) == pytest.approx(1.0)
    assert contrast_recovery(-15.0 * profile, profile, -20.0) == pytest.approx(0.75)
    blurred = {d: Lesion(d, (32, 32)).profile((64, 64), 0.7) for d in (4.0, 10.0)}
    small, large = (contrast_recovery(gaussian_filter(p, 2.0), p, 1.0) for p in blurred.values())
    assert small < large < 1.0, "a blur costs small lesions more"
