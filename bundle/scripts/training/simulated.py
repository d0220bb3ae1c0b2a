"""Low doses of a full-dose slice, simulated with photons that explain the noise of its own series."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from ..dose import DoseSimulator, ParallelBeam, calibrate_on_series
from ..hu import VALID_RANGE_HU
from ..volumes.orientation import RadiologicalSlices

#: Part of the cache's key; raise it when the simulation changes.
SIMULATION_VERSION = 2


def simulation_recipe(
    dose_fractions: tuple[float, ...], filter_names: tuple[str, ...], views: int, seed: int
) -> dict[str, Any]:
    """What decides a simulated low dose besides its slice and series; keys the cache."""
    return {
        "version": SIMULATION_VERSION,
        "doses": list(dose_fractions),
        "filters": list(filter_names),
        "views": views,
        "seed": seed,
    }


def simulator_for(volume: RadiologicalSlices, recipe: dict[str, Any]) -> DoseSimulator:
    """A simulator whose photons explain the noise of this volume.

    Raises:
        ValueError: no slice shows soft tissue to measure its noise in.
    """
    geometry = ParallelBeam(views=recipe["views"], spacing_mm=volume.spacing_mm, projector="fourier")
    return calibrate_on_series(DoseSimulator(geometry=geometry), volume)


def simulate(full_hu: np.ndarray, simulator: DoseSimulator, recipe: dict[str, Any], uid: str) -> np.ndarray:
    """Low doses (R, H, W) in HU of one full-dose slice (H, W), one a dose fraction.

    Each has a reconstruction filter drawn from the recipe's. The noise hangs on the recipe's seed and the slice's
    `uid` alone.
    """
    generator = np.random.default_rng([recipe["seed"], zlib.crc32(uid.encode())])
    full_hu = full_hu.clip(*VALID_RANGE_HU)
    line_integrals = simulator.geometry.project(full_hu)
    return np.stack(
        [
            simulator.low_dose(full_hu, dose, generator, str(generator.choice(recipe["filters"])), line_integrals)
            for dose in recipe["doses"]
        ]
    )
