"""A low-dose series from a routine one: what `bioatt simulate` does. docs/simulation.md has method and limits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..dicom.headers import numbers, open_dicom
from ..dose import DoseSimulator, ParallelBeam, calibrate_on_series, modulated
from ..dose.filters import filter_window
from ..dose.image_noise import flat_soft_tissue, noise_sd_hu, tissue_mask
from ..dose.simulate import calibration_slices
from ..errors import BioAttError
from ..hu import VALID_RANGE_HU
from ..progress import bar
from ..provenance import SimulatedDose
from ..staging import staged_folder
from ..volumes.formats import format_of
from ..volumes.save import check_places, write_dicom_result, write_file_result
from ..volumes.volume import Volume, find_inputs, load_volume

AIR_HU = -1000.0


def simulate_series(
    source: str,
    output_dir: str,
    dose: SimulatedDose,
    *,
    overwrite: bool = False,
    progress: bool = False,
    **reading: Any,
) -> list[str]:
    """Write `source` as it would look at a lower dose, in the form it has, and return a line of figures for each input.

    A DICOM series becomes a derived series, NIfTI files become NIfTI files with a .json beside each; ``OUT`` appears
    whole. Noise is added inside the circle that fits the slice; padding and what lies outside keep their values.

    Args:
        reading: series, assume_hu, allow_gaps and one_scan of `load_volume`.

    Raises:
        BioAttError: input, output or choices cannot be used.
    """
    check_dose(dose)
    inputs = find_inputs(source, reading.get("series", ""))
    check_places(source, output_dir, overwrite)
    # One DICOM series is moved to its place by its writer, all else by us.
    alone = format_of(inputs[0]) is None
    lines = []
    with nullcontext(Path(output_dir)) if alone else staged_folder(output_dir, overwrite) as folder:
        for path in inputs:
            volume = load_volume(path, **reading, progress=progress)
            slices = _AxialSlices(volume.hu, volume.affine)
            current = _tube_current(volume, len(slices)) if dose.tube_current else np.ones(len(slices))
            simulator = _calibrated(volume, slices, current, dose)
            low_hu, figures = _low_dose(volume, simulator, current, dose, progress)
            record = replace(dose, photons=simulator.photons)
            if volume.series:
                selection = volume.series.selection
                write_dicom_result(volume.source, selection, low_hu, folder, record, overwrite=overwrite)
            else:
                write_file_result(volume.source, low_hu, folder, record)
            lines.append(f"{path.name}: {figures.line(dose, simulator)}")
    return lines


def check_dose(dose: SimulatedDose) -> None:
    """Refuse what cannot be simulated, before anything is read."""
    if not 0.0 < dose.dose_fraction <= 1.0:
        raise BioAttError(f"dose is {dose.dose_fraction:g}, expected a fraction in (0, 1] of the source's dose")
    for name, smallest in ("views", 1), ("seed", 0):
        if getattr(dose, name) < smallest:
            raise BioAttError(f"{name} is {getattr(dose, name)}, expected a whole number from {smallest}")
    if dose.photons is not None and not 0.0 < dose.photons < 1e15:
        raise BioAttError(f"photons is {dose.photons:g}, expected a number above 0, or auto")
    if not 0.0 <= dose.electronic_sd < 1e9:
        raise BioAttError(f"electronic noise is {dose.electronic_sd:g}, expected an SD in photons, 0 or above")
    try:
        filter_window(dose.filter_name)
    except ValueError as error:
        raise BioAttError(f"{error}; choose one of them with --filter") from error


@dataclass
class _Figures:
    """What is measured on the way: SDs in flat soft tissue, and the shift of all soft tissue."""

    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    shift_hu: list[float] = field(default_factory=list)
    starved: list[float] = field(default_factory=list)

    def measure(self, full_hu: np.ndarray, low_hu: np.ndarray) -> None:
        """Compare a slice with its low dose."""
        flat = flat_soft_tissue(full_hu)
        if flat.any():
            self.before.append(noise_sd_hu(full_hu, flat))
            self.after.append(noise_sd_hu(low_hu, flat))
            self.shift_hu.append(float((low_hu - full_hu)[tissue_mask(full_hu, "soft tissue")].mean()))

    def line(self, dose: SimulatedDose, simulator: DoseSimulator) -> str:
        """All of it in words."""
        noise = "noise not measured: no flat soft tissue"
        if self.before:
            before = np.median(self.before)
            noise = (
                f"noise {before:.1f} -> {np.median(self.after):.1f} HU (the dose alone: "
                f"{before / np.sqrt(dose.dose_fraction):.1f}), "
                f"soft tissue shifted by {np.mean(self.shift_hu):+.2f} HU"
            )
        how = "calibrated" if dose.photons is None else "given"
        return (
            f"dose fraction {dose.dose_fraction:g}, {simulator.photons:.3g} photons per ray at full dose "
            f"({how}), {noise}, {np.mean(self.starved):.2%} of the rays under 10 photons"
        )


class _AxialSlices(Sequence):
    """The axial slices of an array that lies as its volume does, from inferior to superior.

    ``slices[i]`` is what is projected: square, in the valid range, air for padding and NaN and around what is not
    square. ``slices.stored[i]`` is a view of the array.
    """

    def __init__(self, array: np.ndarray, affine: np.ndarray) -> None:
        from nibabel.orientations import io_orientation

        orientation = io_orientation(affine)
        axis = int(np.flatnonzero(orientation[:, 0] == 2)[0])
        self.stored = np.moveaxis(array, axis, 0)[:: int(orientation[axis, 1])]
        self.spacing_mm = np.delete(np.linalg.norm(affine[:3, :3], axis=0), axis)

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int) -> np.ndarray:
        hu = self.stored[index]
        filled = np.where(_in_field(hu), hu, AIR_HU).clip(*VALID_RANGE_HU).astype(np.float32)
        return np.pad(filled, self._margins(), constant_values=AIR_HU)

    def crop(self, square: np.ndarray) -> np.ndarray:
        """What of a square slice lies in the array."""
        (top, _), (left, _) = self._margins()
        rows, columns = self.stored.shape[1:]
        return square[top : top + rows, left : left + columns]

    def _margins(self) -> list[tuple[int, int]]:
        missing = [max(self.stored.shape[1:]) - count for count in self.stored.shape[1:]]
        return [(count // 2, count - count // 2) for count in missing]


def _in_field(hu: np.ndarray) -> np.ndarray:
    """Where there is an image: neither padding, which lies below the valid range, nor NaN."""
    return hu >= VALID_RANGE_HU[0]


def _calibrated(volume: Volume, slices: _AxialSlices, current: np.ndarray, dose: SimulatedDose) -> DoseSimulator:
    """The simulator of a volume: its geometry, and photons that are given or explain its noise."""
    one, other = slices.spacing_mm
    if abs(one - other) > 0.01 * max(one, other):
        raise BioAttError(
            f"{volume.source} has pixels of {one:g} x {other:g} mm in its axial slices, expected square ones; "
            "give an axial series"
        )
    geometry = ParallelBeam(views=dose.views, spacing_mm=float(one))
    simulator = DoseSimulator(geometry=geometry, electronic_sd=dose.electronic_sd)
    if dose.photons is not None:
        return replace(simulator, photons=dose.photons)
    try:
        return calibrate_on_series(simulator, slices, dose.filter_name, current)
    except ValueError as error:
        raise BioAttError(f"{volume.source}: {error}; give the photons per ray with --photons") from error


def _tube_current(volume: Volume, count: int) -> np.ndarray:
    """XRayTubeCurrent of each slice relative to their mean, (count,)."""
    files = volume.series.files if volume.series else ()
    if len(files) != count:
        raise BioAttError(f"{volume.source} has no tube current per axial slice; leave --tube-current out")
    keyword = "XRayTubeCurrent"
    values = [numbers(open_dicom(one, specific_tags=[keyword]), keyword, 1, one)[0] for one in files]
    if min(values) <= 0:
        raise BioAttError(f"{volume.source}: {keyword} is not positive everywhere; leave --tube-current out")
    return np.array(values) / np.mean(values)


def _low_dose(
    volume: Volume, simulator: DoseSimulator, current: np.ndarray, dose: SimulatedDose, progress: bool
) -> tuple[np.ndarray, _Figures]:
    """The volume at the lower dose, in the layout of ``volume.hu``, and its figures."""
    low_hu, figures = np.empty_like(volume.hu), _Figures()
    full, low = _AxialSlices(volume.hu, volume.affine), _AxialSlices(low_hu, volume.affine)
    measured = set(calibration_slices(len(full)))
    with bar(len(full), "simulating", progress) as advance:
        for i in range(len(full)):
            square, stored = full[i], full.stored[i]
            generator = np.random.default_rng([dose.seed, 1, i])  # 1: until 0.5.0 there were several realisations
            rays = simulator.geometry.project(square)
            noisy = simulator.low_dose(square, dose.dose_fraction, generator, dose.filter_name, rays, current[i])
            low.stored[i] = np.where(_in_field(stored), stored + full.crop(noisy - square), stored)
            figures.starved.append(simulator.starved_fraction(modulated(rays, current[i]), dose.dose_fraction))
            if i in measured:
                figures.measure(stored, low.stored[i])
            advance(1)
    return low_hu, figures
