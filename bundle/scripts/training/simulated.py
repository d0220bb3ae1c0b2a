"""Low doses of a full-dose slice, simulated with noise that looks like that of its own series."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, kw_only=True)
class KeptMatch:
    """What of a `NoiseMatch` is kept on disk: all but the geometry, which the recipe and the series tell.

    Args:
        photons, filter_name, mismatch, regions, fine_ratio, note: see `NoiseMatch`.
        words: the match in words.
    """

    photons: float
    filter_name: str
    mismatch: float
    regions: int
    fine_ratio: float
    note: str
    words: str

    def as_json(self) -> str:
        """The inverse of `read_match`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def of(self, spacing_mm: float, recipe: dict[str, Any]) -> NoiseMatch:
        """The match of a series with pixels of `spacing_mm`."""
        return NoiseMatch(
            simulator=DoseSimulator(geometry=_geometry(spacing_mm, recipe), photons=self.photons),
            filter_name=self.filter_name,
            mismatch=self.mismatch,
            regions=self.regions,
            fine_ratio=self.fine_ratio,
            note=self.note,
        )


def read_match(path: Path) -> KeptMatch | None:
    """What `KeptMatch.as_json` wrote; None if it is not there or damaged, so that it is found again."""
    try:
        return KeptMatch(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def find_match(volume: RadiologicalSlices, recipe: dict[str, Any]) -> KeptMatch:
    """How the noise of this volume is simulated."""
    clipped = _Clipped(volume)
    match = match_noise(DoseSimulator(geometry=_geometry(volume.spacing_mm, recipe)), clipped)
    return KeptMatch(
        photons=match.simulator.photons,
        filter_name=match.filter_name,
        mismatch=match.mismatch,
        regions=match.regions,
        fine_ratio=match.fine_ratio,
        note=match.note,
        words=str(match),
    )


def simulate(full_hu: np.ndarray, match: NoiseMatch, recipe: dict[str, Any], uid: str) -> np.ndarray:
    """Low doses (R, H, W) in HU of one full-dose slice (H, W), one a dose fraction.

    The noise hangs on the recipe's seed and the slice's `uid` alone.
    """
    generator = np.random.default_rng([recipe["seed"], zlib.crc32(uid.encode())])
    full_hu = full_hu.clip(*VALID_RANGE_HU)
    return full_hu + match.noise(full_hu, recipe["doses"], generator)


def _geometry(spacing_mm: float, recipe: dict[str, Any]) -> ParallelBeam:
    return ParallelBeam(views=recipe["views"], spacing_mm=spacing_mm, detectors_per_pixel=2)


class _Clipped:
    """The slices of a volume within the valid range, each made when it is asked for."""

    def __init__(self, volume: RadiologicalSlices) -> None:
        self.volume = volume

    def __len__(self) -> int:
        return len(self.volume)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.volume[index].clip(*VALID_RANGE_HU)
