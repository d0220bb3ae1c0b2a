"""Slices of the low dose to slices of the full dose, by where they lie in the patient and by nothing else.

UIDs and file order cannot do it: in the Mayo data the UIDs differ between the doses, and files may be missing.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from ..dicom import Series
from ..dicom.enhanced import frame_headers
from ..dicom.geometry import read_plane
from ..dicom.headers import label, open_dicom
from ..errors import BioAttError
from ..priors import SliceKey
from ..volumes.formats import format_of
from ..volumes.orientation import radiological_change

#: Closer than this, in mm, two pixels are at the same place: far below a pixel, far above rounding in headers.
SAME_PLACE_MM = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """Where the axial slices of one volume lie, by headers alone; turned and sorted as `radiological_slices` does.

    Args:
        path: DICOM folder or NIfTI file.
        series_instance_uid: of a DICOM series, else empty.
        shape: (rows, columns).
        steps_mm: (2, 3), from row to row and from column to column, in RAS.
        positions_mm: (n, 3), centre of the first pixel of each slice in RAS, from inferior to superior.
        uids: one per slice: SOPInstanceUID, or of NIfTI a digest of the file and the slice's number.
        body_part: BodyPartExamined, or empty.
        description: SeriesDescription, or empty.
        thickness_mm: SliceThickness, of NIfTI the distance of slices; None if not known.
    """

    path: Path
    series_instance_uid: str = ""
    shape: tuple[int, int]
    steps_mm: np.ndarray
    positions_mm: np.ndarray
    keys: tuple[SliceKey, ...]
    uids: tuple[str, ...]
    body_part: str = ""
    description: str = ""
    thickness_mm: float | None = None

    def __len__(self) -> int:
        return len(self.uids)

    @property
    def heights_mm(self) -> np.ndarray:
        """(n,) positions along the normal of the slices, in mm, growing to superior."""
        return self.positions_mm @ _normal(self)


def dicom_stack(series: Series, path: str | os.PathLike[str]) -> Stack:
    """The slices of an axial DICOM series found in `path`; each at its own ImagePositionPatient, so gaps are kept.

    Raises:
        BioAttError: the series is not axial, or a file cannot be read any more.
    """
    if not series.is_axial:
        raise BioAttError(f"series {series.series_instance_uid} is not axial; leave reformatted series out")
    headers: dict[int, Dataset] = {}
    for file, slices in series.by_file().items():
        frames = frame_headers(open_dicom(file, stop_before_pixels=True), file)
        headers |= {i: frames[frame] for frame, i in slices.items()}
    lps = np.array([read_plane(headers[i], series.files[i]).position for i in range(len(series.files))])
    affine = _turned(series.affine, (series.columns, series.rows, len(series.files)))
    return Stack(
        path=Path(path),
        series_instance_uid=series.series_instance_uid,
        shape=(series.rows, series.columns),
        steps_mm=affine[:3, :2].T,
        # An axial series is sorted already, so turning moves the first pixel within its slice only.
        positions_mm=lps * (-1.0, -1.0, 1.0) + (affine - series.affine)[:3, 3],
        keys=tuple(
            SliceKey(i, uid, str(file))
            for i, (uid, file) in enumerate(zip(series.slice_names, series.files, strict=True))
        ),
        uids=series.slice_names,
        body_part=label(headers[0], "BodyPartExamined", series.files[0]),
        description=series.description,
        thickness_mm=series.slice_thickness_mm,
    )


def file_stack(path: str | os.PathLike[str]) -> Stack:
    """The axial slices of a file of `formats`, however it is stored.

    Raises:
        BioAttError: see `geometry` of its format.
    """
    shape, stored = format_of(path).geometry(path)
    affine = _turned(stored, shape)
    rows, columns, slices = (shape[int(axis)] for axis in radiological_change(stored)[:, 0].argsort())
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Stack(
        path=Path(path),
        shape=(rows, columns),
        steps_mm=affine[:3, :2].T,
        positions_mm=affine[:3, 3] + np.arange(slices)[:, None] * affine[:3, 2],
        keys=tuple(SliceKey(i, "", str(path)) for i in range(slices)),
        uids=tuple(f"{digest[:32]}-{i:04d}" for i in range(slices)),
        thickness_mm=float(np.linalg.norm(affine[:3, 2])),
    )


def pair_slices(full: Stack, low: Stack) -> tuple[list[tuple[int, int]], list[str]]:
    """Pair each slice of the full dose with the slice of the low dose at the same place.

    Args:
        full, low: the two volumes. FrameOfReferenceUID is not compared: de-identification renews it by series.

    Returns:
        Pairs of slice indices (full, low) from inferior to superior, and in words what was left out, by position.

    Raises:
        BioAttError: the two are the same images, their grids differ, or no slice has a partner.
    """
    if set(full.uids) & set(low.uids):
        raise BioAttError("low and full dose are the same images; name the low dose's own")
    _check_same_grid(full, low)
    heights, lows, normal = full.heights_mm, low.heights_mm, _normal(full)
    nearest = np.abs(heights[:, None] - lows[None]).argmin(1)
    away = low.positions_mm[nearest] - full.positions_mm
    along = away @ normal
    aside = np.linalg.norm(away - along[:, None] * normal, axis=1)
    spacing = float(np.median(np.diff(heights))) if len(heights) > 1 else full.thickness_mm or 1.0
    at_height = np.abs(along) <= SAME_PLACE_MM
    good = at_height & (aside <= SAME_PLACE_MM)
    displaced = ~at_height & (np.abs(along) <= spacing / 2)
    lone = np.setdiff1d(np.arange(len(lows)), nearest[at_height | displaced])
    refused = []
    for left, what in (
        (at_height & ~good, f"in-plane position differs by up to {aside[at_height].max(initial=0.0):.2f} mm"),
        (displaced, f"low dose displaced along the normal by up to {np.abs(along[displaced]).max(initial=0.0):.2f} mm"),
        (~at_height & ~displaced, "full dose without low dose"),
    ):
        if left.any():
            refused.append(f"{what}: slices at {_ranges(heights, np.flatnonzero(left))}")
    if lone.size:
        refused.append(f"low dose without full dose: slices at {_ranges(lows, lone)}")
    if not good.any():
        raise BioAttError(f"no slice of the low dose lies where one of the full dose does: {'; '.join(refused)}")
    return [(int(i), int(nearest[i])) for i in np.flatnonzero(good)], refused


def _check_same_grid(full: Stack, low: Stack) -> None:
    """Raise where rows and columns are not the same in number, distance and direction."""
    if full.shape != low.shape:
        raise BioAttError(
            f"shapes differ: full dose {full.shape[0]} x {full.shape[1]}, low dose {low.shape[0]} x {low.shape[1]} "
            "pixels; reconstruct both on one grid"
        )
    extent = np.array(full.shape) - 1
    lengths = [np.linalg.norm(one.steps_mm, axis=1) for one in (full, low)]
    if np.abs((lengths[0] - lengths[1]) * extent).max() > SAME_PLACE_MM:
        spacings = [" x ".join(f"{length:g}" for length in one) for one in lengths]
        raise BioAttError(
            f"pixel spacing differs: full dose {spacings[0]}, low dose {spacings[1]} mm; reconstruct both on one grid"
        )
    if np.abs((full.steps_mm - low.steps_mm) * extent[:, None]).max() > SAME_PLACE_MM:
        raise BioAttError("orientation differs between full and low dose; reconstruct both on one grid")


def _normal(stack: Stack) -> np.ndarray:
    """Unit normal of the slices in RAS, to superior."""
    normal = np.cross(*stack.steps_mm)
    return normal / np.linalg.norm(normal) * (1.0 if normal[2] > 0 else -1.0)


def _turned(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The affine after `radiological_slices` has turned the volume."""
    from nibabel.orientations import inv_ornt_aff

    return affine @ inv_ornt_aff(radiological_change(affine), shape)


def _ranges(heights: np.ndarray, indices: np.ndarray) -> str:
    """Positions in words, neighbours as a range: ``-3.00 mm, 6.00 to 12.00 mm (3 slices)``."""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
    return ", ".join(_range(heights[run]) for run in runs)


def _range(heights: np.ndarray) -> str:
    first = f"{heights[0]:.2f}"
    return f"{first} mm" if len(heights) == 1 else f"{first} to {heights[-1]:.2f} mm ({len(heights)} slices)"
