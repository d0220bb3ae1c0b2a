"""Patients that the weights were not trained on: their full-dose slices, and low doses of them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from scripts.dose import DoseSimulator, NoiseMatch, ParallelBeam, match_noise
from scripts.hu import VALID_RANGE_HU
from scripts.volumes import radiological_slices
from scripts.volumes.orientation import RadiologicalSlices
from scripts.volumes.reader import slice_keys_from_meta

VIEWS = 600


class Patient:
    """One series at full dose, and what it looks like at lower ones.

    The noise is that of the series' own spectrum (`match_noise`); a low dose depends on seed, slice, dose and
    realisation alone. HU are whole numbers, as a scanner stores them.

    Args:
        name: of the patient in the tables: a public collection's, or a pseudonym.
        slices: the series.
        seed: of the noise.
        views: projection angles over 180 degrees.
    """

    def __init__(self, name: str, slices: RadiologicalSlices, seed: int = 0, views: int = VIEWS) -> None:
        self.name = name
        self.slices = slices
        self.seed = seed
        self.keys = slice_keys_from_meta(slices.meta, len(slices))
        spacing = slices.spacing_mm
        geometry = ParallelBeam(views=views, spacing_mm=spacing, detectors_per_pixel=2)
        self.match: NoiseMatch = match_noise(DoseSimulator(geometry=geometry), slices)

    @classmethod
    def read(cls, folder: Path, seed: int = 0) -> Patient:
        """The series in a folder, named as the folder is."""
        return cls(folder.name, radiological_slices(folder), seed)

    def __len__(self) -> int:
        return len(self.slices)

    def chosen(self, count: int) -> list[int]:
        """Indices of about `count` evenly spread slices, as training and `bioatt evaluate` choose them; 0 for all."""
        every = -(-len(self) // count) if count else 1
        return list(range(len(self)))[every // 2 :: every]

    def full(self, index: int) -> np.ndarray:
        """Slice `index` (H, W) in HU."""
        return self.slices[index].clip(*VALID_RANGE_HU)

    def low(self, index: int, dose_fraction: float, realisation: int = 0) -> np.ndarray:
        """Slice `index` (H, W) in HU at `dose_fraction`."""
        full = self.full(index)
        if dose_fraction == 1.0:
            return full
        name = zlib.crc32((self.keys[index].sop_instance_uid or str(index)).encode())
        generator = np.random.default_rng([self.seed, name, round(dose_fraction * 1000), realisation])
        return np.rint(full + self.match.noise(full, [dose_fraction], generator)[0]).clip(*VALID_RANGE_HU)
