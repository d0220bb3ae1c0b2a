"""The plane of noise left against contrast kept, on a real slice: discs put into it, and the noise of flat places.

A filter that smooths takes noise and contrast together; whether one serves a reader better than another shows only
at equal noise. The baseline of the plane is the Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..dose.image_noise import flat_regions, flat_soft_tissue, noise_sd_hu, without_trend
from ..errors import BioAttError
from .lesions import EDGE_SD_MM, Lesion, contrast_recovery, place_lesions
from .measures import FEWEST_REGION_PIXELS
from .texture import noise_power_spectrum

DIAMETERS_MM = (4.0, 6.0, 10.0, 15.0)
CONTRASTS_HU = (-20.0, 20.0, 40.0)
INSERTIONS = len(CONTRASTS_HU)  # each diameter meets each contrast
#: Of these a slice must have room for one each; 15 mm are put in where they fit.
NEEDED_MM = (4.0, 6.0, 10.0)
#: How often they are placed anew where the first place of a large one leaves none for the others.
TRIES = 3
#: Discs of each diameter that one insertion tries to place; small ones scatter most.
DISCS_AN_INSERTION = {4.0: 5, 6.0: 4, 10.0: 2, 15.0: 1}

#: Side of the flat squares whose noise spectrum is taken, and the range of their local means.
SQUARE_MM, SQUARE_HU = 20.0, (-60.0, 160.0)


@dataclass(frozen=True)
class Disc:
    """A lesion with its contrast in HU."""

    lesion: Lesion
    contrast_hu: float


def insert_discs(full_hu: np.ndarray, spacing_mm: float, generator: np.random.Generator, turn: int = 0) -> list[Disc]:
    """Places and contrasts of the discs of one insertion, which is one image to denoise: as many as there is room for.

    The contrasts go round from disc to disc and from turn to turn, so that in `INSERTIONS` insertions each diameter
    meets each contrast equally often. The largest gives way if else a needed diameter would find no place.

    Args:
        full_hu: (H, W) in HU; decides where soft tissue is even, see `place_lesions`.
        turn: which insertion of several on this slice.

    Raises:
        BioAttError: there is no room for a disc of each diameter in `NEEDED_MM`.
    """
    for largest in (max(DIAMETERS_MM), *[max(NEEDED_MM)] * TRIES):
        diameters = [d for d, count in DISCS_AN_INSERTION.items() for _ in range(count) if d <= largest]
        lesions = place_lesions(full_hu, diameters, spacing_mm, generator)
        if set(NEEDED_MM) <= {one.diameter_mm for one in lesions}:
            return [Disc(one, CONTRASTS_HU[(turn + j) % INSERTIONS]) for j, one in enumerate(lesions)]
    raise BioAttError(
        f"no room for discs of {', '.join(f'{d:g}' for d in NEEDED_MM)} mm in even soft tissue; choose another slice"
    )


@dataclass(frozen=True, kw_only=True)
class PlaneSlice:
    """A noisy slice, the discs that are put into it, and the flat places where its noise is measured.

    ``images()`` are denoised by whatever is evaluated, with one prior (that of the slice without discs) and one noise;
    ``measure()`` takes the results.

    Args:
        low_hu: the noisy slice, (H, W) in HU.
        anatomy_hu: the same slice at the best dose there is; decides the flat places.
        insertions: of each the discs, see `insert_discs`.
        window: the part of the slice that is looked at; the discs must lie in it.
    """

    low_hu: np.ndarray
    anatomy_hu: np.ndarray
    spacing_mm: float
    insertions: Sequence[Sequence[Disc]]
    window: tuple[slice, slice] = (slice(None), slice(None))

    @cached_property
    def flat(self) -> np.ndarray:
        """Flat soft tissue in the window, (H, W)."""
        return flat_soft_tissue(self.anatomy_hu) & self.seen

    @cached_property
    def seen(self) -> np.ndarray:
        """The window as a mask, (H, W)."""
        mask = np.zeros(self.low_hu.shape, bool)
        mask[self.window] = True
        return mask

    @cached_property
    def squares(self) -> list[tuple[slice, slice]]:
        """Flat squares of soft tissue, for noise power spectra."""
        side = max(FEWEST_REGION_PIXELS, 2 * round(SQUARE_MM / self.spacing_mm / 2))
        return flat_regions(np.where(self.seen, self.anatomy_hu, -1000.0), side, SQUARE_HU)

    @cached_property
    def noise_hu(self) -> float:
        """Noise of the slice in the flat places."""
        return noise_sd_hu(self.low_hu, self.flat)

    @cached_property
    def cores(self) -> list[list[tuple[Disc, tuple[slice, slice], np.ndarray]]]:
        """By insertion: each disc with the part of the slice that it reaches, and its profile there."""
        return [[(one, *self._core(one.lesion)) for one in discs] for discs in self.insertions]

    def _core(self, lesion: Lesion) -> tuple[tuple[slice, slice], np.ndarray]:
        reach = math.ceil((lesion.diameter_mm / 2 + 6 * EDGE_SD_MM) / self.spacing_mm)  # beyond it lies nothing
        starts = [max(0, middle - reach) for middle in lesion.center]
        stops = [min(n, middle + reach + 1) for n, middle in zip(self.low_hu.shape, lesion.center, strict=True)]
        moved = Lesion(lesion.diameter_mm, tuple(m - start for m, start in zip(lesion.center, starts, strict=True)))
        shape = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
        return tuple(map(slice, starts, stops)), moved.profile(shape, self.spacing_mm)

    def images(self) -> np.ndarray:
        """The slice without discs and with those of each insertion, (1 + insertions, H, W) in HU."""
        images = np.repeat(np.asarray(self.low_hu, np.float32)[None], 1 + len(self.insertions), axis=0)
        for image, discs in zip(images[1:], self.cores, strict=True):
            for one, part, profile in discs:
                image[part] += one.contrast_hu * profile
        return images

    def measure(self, outputs_hu: Sequence[np.ndarray]) -> PlanePoint:
        """What became of `images`.

        Args:
            outputs_hu: an output for each of `images`; fewer where not all insertions were denoised.
        """
        without = np.asarray(outputs_hu[0])
        shares = [
            (
                one.lesion.diameter_mm,
                one.contrast_hu,
                contrast_recovery(np.asarray(output[part], np.float64) - without[part], profile, one.contrast_hu),
            )
            for output, discs in zip(outputs_hu[1:], self.cores, strict=False)
            for one, part, profile in discs
        ]
        return PlanePoint(
            noise_hu=[(self.noise_hu, noise_sd_hu(without, self.flat))],
            shares=shares,
            squares=[(self.low_hu[part], without[part]) for part in self.squares],
            spacing_mm=self.spacing_mm,
        )


@dataclass(frozen=True)
class PlanePoint:
    """Where something lies in the plane, by one slice or, added up, by several of one patient.

    Args:
        noise_hu: (input, output) of each slice.
        shares: (diameter in mm, contrast in HU, share of the contrast that is kept) of each disc.
        squares: flat squares of (input, output).
    """

    noise_hu: list[tuple[float, float]] = field(default_factory=list)
    shares: list[tuple[float, float, float]] = field(default_factory=list)
    squares: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    spacing_mm: float = 1.0

    def __add__(self, other: PlanePoint) -> PlanePoint:
        return PlanePoint(
            self.noise_hu + other.noise_hu, self.shares + other.shares, self.squares + other.squares, self.spacing_mm
        )

    def summary(self) -> dict[str, Any]:
        """The figures.

        Returns:
            ``noise_in_hu``, ``noise_left`` (mean over slices of output over input), ``frequency_left``
            (the same of the noise's mean frequency), ``contrast`` and ``discs`` by diameter. Keys are strings, as in
            JSON.
        """
        known = [(a, b) for a, b in self.noise_hu if a > 0.0 and not math.isnan(b)]
        before, after = (self._mean_frequency(i) for i in (0, 1))
        by = {d: [s for s in self.shares if s[0] == d] for d in sorted({s[0] for s in self.shares})}
        return {
            "noise_in_hu": float(np.mean([a for a, _ in known])) if known else math.nan,
            "noise_left": float(np.mean([b / a for a, b in known])) if known else math.nan,
            "frequency_left": after / before,
            "contrast": {f"{d:g}": float(np.mean([s[2] for s in of])) for d, of in by.items()},
            "discs": {f"{d:g}": len(of) for d, of in by.items()},
        }

    def _mean_frequency(self, which: int) -> float:
        if not self.squares:
            return math.nan
        noise_hu = without_trend(np.stack([pair[which] for pair in self.squares]))
        return noise_power_spectrum(noise_hu, self.spacing_mm)["mean_frequency_per_mm"]
