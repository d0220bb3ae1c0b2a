"""Low doses of a full-dose slice, simulated with noise that looks like that of its own series."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..dose import DoseSimulator, NoiseMatch, ParallelBeam, match_noise
from ..hu import VALID_RANGE_HU
from ..volumes.orientation import RadiologicalSlices

#: Part of the cache's key; raise it when the simulation changes.
SIMULATION_VERSION = 3


def simulation_recipe(dose_fractions: tuple[float, ...], views: int, seed: int) -> dict[str, Any]:
    """What decides a simulated low dose besides its slice and series; keys the cache."""
    return {"version": SIMULATION_VERSION, "doses": list(dose_fractions), "views": views, "seed": seed}


#: What of a `NoiseMatch` is kept on disk besides photons and words; the recipe and the series tell the geometry.
_KEPT = ("filter_name", "mismatch", "regions", "fine_ratio", "note")


def match_as_json(match: NoiseMatch) -> str:
    """The inverse of `read_match`, with the match in words."""
    kept = {name: getattr(match, name) for name in _KEPT}
    return json.dumps({"photons": match.simulator.photons, **kept, "words": str(match)}, indent=2) + "\n"


def read_match(path: Path, spacing_mm: float, recipe: dict[str, Any]) -> NoiseMatch | None:
    """What `match_as_json` gave; None if it is not there or damaged, so that it is found again."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        simulator = DoseSimulator(geometry=_geometry(spacing_mm, recipe), photons=float(kept["photons"]))
        return NoiseMatch(simulator=simulator, **{name: kept[name] for name in _KEPT})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def find_match(volume: RadiologicalSlices, recipe: dict[str, Any]) -> NoiseMatch:
    """How the noise of this volume is simulated."""
    return match_noise(DoseSimulator(geometry=_geometry(volume.spacing_mm, recipe)), volume)


def simulate(full_hu: np.ndarray, match: NoiseMatch, recipe: dict[str, Any], uid: str) -> np.ndarray:
    """Low doses (R, H, W) in HU of one full-dose slice (H, W), one a dose fraction.

    The noise hangs on the recipe's seed and the slice's `uid` alone.
    """
    generator = np.random.default_rng([recipe["seed"], zlib.crc32(uid.encode())])
    full_hu = full_hu.clip(*VALID_RANGE_HU)
    return full_hu + match.noise(full_hu, recipe["doses"], generator)


def _geometry(spacing_mm: float, recipe: dict[str, Any]) -> ParallelBeam:
    return ParallelBeam(views=recipe["views"], spacing_mm=spacing_mm, detectors_per_pixel=2)
