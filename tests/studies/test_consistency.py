"""Steps between neighbouring slices against known ones."""

from __future__ import annotations

import numpy as np
import pytest

from studies.measures.consistency import mean_changes, neighbour_steps


def reference():
    hu = np.full((128, 128), -1000.0)
    hu[16:112, 16:64] = 50.0
    hu[16:112, 64:112] = -100.0
    return hu


def test_the_mean_change_of_a_tissue_is_found_and_little_of_it_says_nothing():
    hu = reference()
    out = hu + np.where(hu == 50.0, 1.5, np.where(hu == -100.0, -0.5, 0.0))
    changes = mean_changes(out, hu, hu)
    assert changes["soft tissue"] == pytest.approx(1.5) and changes["fat"] == pytest.approx(-0.5, abs=0.1)
    assert changes["body"] == pytest.approx(0.5, abs=0.05)
    assert np.isnan(changes["bone"]) and np.isnan(changes["lung"])


def test_the_largest_step_and_its_place_are_found():
    nothing = float("nan")
    changes = [{"fat": x, "bone": y} for x, y in zip([0.1, 0.2, 0.9, 0.8], [nothing, 1.0, nothing, 1.0], strict=True)]
    steps = neighbour_steps(changes)
    assert steps["fat"]["max"] == pytest.approx(0.7) and steps["fat"]["slice"] == 1 and steps["fat"]["pairs"] == 3
    assert steps["fat"]["median"] == pytest.approx(0.1)
    assert "bone" not in steps, "no two neighbours show bone"
