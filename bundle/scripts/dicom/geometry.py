"""Where slices lie: order along the normal, spacing, gaps, and the affine in RAS mm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from ..errors import BioAttError
from .headers import numbers, whole_number

#: Tolerances are shares of the spacing, so that they fit voxels of micrometres, up to a length in mm.
SAME_POSITION_MM, SAME_POSITION_SHARE = 0.01, 0.05
ROUNDING_MM, ROUNDING_SHARE = 0.105, 0.4  # of slice positions in a file: to a tenth of a mm; of the slices' spacing
SIDEWAYS_MM, SIDEWAYS_SHARE = 0.21, 0.75  # between neighbours, from rounding in two directions; of the pixels' spacing
UNIT_TOLERANCE = 0.01  # of direction cosines, which files round to few digits
MAX_PIXELS = 4096 * 4096  # of one slice; a larger matrix is no CT slice but a damaged or hostile header
AXIAL_COSINE = 0.8  # a normal within 37 degrees of the body axis: a tilted gantry (30 degrees) is still axial


@dataclass(frozen=True, eq=False)
class Plane:
    """Grid of one slice: `shape` (rows, columns), `spacing` (between rows, between columns) in mm, LPS vectors."""

    shape: tuple[int, int]
    spacing: np.ndarray
    orientation: np.ndarray  # (6,): direction of growing column index, then of growing row index
    position: np.ndarray  # (3,): centre of the first pixel


def read_plane(dataset: Dataset, where: object) -> Plane:
    """Grid of the slice that `dataset` describes (PS3.3 C.7.6.2).

    Raises:
        BioAttError: Rows, Columns, PixelSpacing, ImageOrientationPatient or ImagePositionPatient missing or invalid.
    """
    shape = read_shape(dataset, where)
    spacing = numbers(dataset, "PixelSpacing", 2, where)
    if spacing.min() <= 0:
        raise BioAttError(f"{where}: PixelSpacing is {spacing.tolist()}, expected mm above 0; repair the file")
    orientation = numbers(dataset, "ImageOrientationPatient", 6, where)
    across, down = orientation[:3], orientation[3:]
    lengths = np.array([np.linalg.norm(across), np.linalg.norm(down)])
    if np.abs(lengths - 1).max() > UNIT_TOLERANCE or abs(across @ down) > UNIT_TOLERANCE:
        raise BioAttError(
            f"{where}: ImageOrientationPatient is {orientation.tolist()}, "
            "expected two unit vectors at a right angle; repair the file"
        )
    directions = orientation / np.repeat(lengths, 3)  # rounded cosines would change the spacing
    return Plane(shape, spacing, directions, numbers(dataset, "ImagePositionPatient", 3, where))


def read_shape(dataset: Dataset, where: object) -> tuple[int, int]:
    """Rows and Columns, before anything of that size is made.

    Raises:
        BioAttError: missing, not whole, or more pixels than a CT slice can have.
    """
    shape = whole_number(dataset, "Rows", where, 1), whole_number(dataset, "Columns", where, 1)
    if shape[0] * shape[1] > MAX_PIXELS:
        raise BioAttError(
            f"{where}: Rows x Columns are {shape[0]} x {shape[1]}, more than a CT slice has (4096 x 4096); "
            "repair the file"
        )
    return shape


def slice_normal(orientation: np.ndarray) -> np.ndarray:
    """Unit normal of the slices in LPS, its largest component positive: up the body for axial slices."""
    normal = np.cross(orientation[:3], orientation[3:])
    normal = normal / np.linalg.norm(normal)
    return normal if normal[np.abs(normal).argmax()] > 0 else -normal


def is_axial(orientation: np.ndarray) -> bool:
    """Whether the slices lie across the body axis, a tilted gantry included."""
    return bool(slice_normal(orientation)[2] > AXIAL_COSINE)


def affine_ras(planes: list[Plane], single_spacing_mm: float) -> np.ndarray:
    """Index (column, row, slice) to RAS mm, 4x4, of sorted slices.

    The slice step is the way from the first to the last slice, scaled so that its part along the normal is the mean
    spacing, or where there are gaps the median one. Of a tilted gantry it keeps the shear.

    Args:
        single_spacing_mm: the step of a series of one slice.
    """
    first, normal = planes[0], slice_normal(planes[0].orientation)
    step = normal * single_spacing_mm
    if len(planes) > 1:
        way = planes[-1].position - first.position
        steps = np.diff(heights(planes))
        step = way * ((np.median(steps) if gaps(planes) else np.mean(steps)) / (way @ normal))
    lps = np.eye(4)
    lps[:3, 0] = first.orientation[:3] * first.spacing[1]
    lps[:3, 1] = first.orientation[3:] * first.spacing[0]
    lps[:3, 2] = step
    lps[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def heights(planes: list[Plane]) -> np.ndarray:
    """Position of each slice along the normal of the first, in mm."""
    normal = slice_normal(planes[0].orientation)
    return np.array([plane.position @ normal for plane in planes])


def same_position_mm(planes: list[Plane]) -> float:
    """How near two of these slices, sorted, may lie to count as one position."""
    smallest = float(planes[0].spacing.min())
    steps = np.diff(heights(planes))
    if (steps > 0).any():
        smallest = min(smallest, float(np.quantile(steps[steps > 0], 0.9)))  # phases add small steps, gaps large ones
    return min(SAME_POSITION_MM, SAME_POSITION_SHARE * smallest)


def even_runs(planes: list[Plane]) -> list[tuple[int, int]]:
    """First and behind the last of each part of sorted slices, as long as may be, whose spacing is even."""
    along = heights(planes)
    runs, start = [], 0
    for stop in range(2, len(planes)):
        steps = np.diff(along[start:stop])
        if len(steps) and not _is_even(along[stop] - along[stop - 1], float(np.median(steps))):
            runs.append((start, stop))
            start = stop
    return [*runs, (start, len(planes))]


def _is_even(steps: np.ndarray, usual: float) -> np.ndarray:
    """Whether steps are the usual one, but for rounding."""
    return np.abs(steps - usual) <= max(0.05 * usual, min(ROUNDING_MM, ROUNDING_SHARE * usual))


def gaps(planes: list[Plane]) -> list[str]:
    """Where sorted slices do not follow each other evenly, one phrase a place; empty where all is even.

    That is where the spacing is not the usual one, or a slice lies to the side of the line through the others (that of
    a tilted gantry is oblique). Positions rounded to a tenth of a millimetre, as some scanners write them, are even.
    """
    along = heights(planes)
    steps = np.diff(along)
    if len(steps) < 2:
        return []
    normal = slice_normal(planes[0].orientation)
    usual = float(np.median(steps))
    sideways = np.diff([plane.position - height * normal for plane, height in zip(planes, along, strict=True)], axis=0)
    drift = np.median(sideways / steps[:, None], axis=0)
    aside = np.linalg.norm(sideways - steps[:, None] * drift, axis=1)
    is_odd = ~_is_even(steps, usual)
    is_aside = aside > min(SIDEWAYS_MM, SIDEWAYS_SHARE * float(planes[0].spacing.min()))
    digits = 2 if usual >= 0.1 else 4
    phrases = []
    for i in np.flatnonzero(is_odd | is_aside):
        what = f"{steps[i]:.{digits}f} mm" if is_odd[i] else f"{aside[i]:.{digits}f} mm sideways"
        phrases.append(f"{what} between {along[i]:.{digits}f} and {along[i + 1]:.{digits}f} mm")
    return phrases
