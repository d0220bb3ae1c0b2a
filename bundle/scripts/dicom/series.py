"""A CT image series, checked to be what the rest of the bundle takes it for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Series:
    """One CT image series on disk, its slices sorted by position.

    Slices are ordered along their normal, whose largest component is positive in LPS: an axial series runs from
    inferior to superior, whatever the file order, the patient's position or the direction of rows and columns.

    Args:
        files: the file of each slice; frames of an Enhanced CT image share one.
        sop_instance_uids: SOPInstanceUID of each slice; "" where it is missing, or other slices have it too.
        affine: 4x4, index (column, row, slice) to RAS mm, the convention of nibabel and MONAI.
        spacing: mm between columns, rows and slices, in the order of `affine`.
        is_axial: whether the slices lie across the body axis.
        frames: frame of each slice in its file, from 0.
        is_multiframe: whether the images may hold several frames each, Enhanced CT or not.
        is_offset: whether a RescaleIntercept other than 0 says that stored values were shifted.
        gaps: where the spacing of slices is not the usual one, in words.
        description: SeriesDescription, "" where there is none.
        kernel: ConvolutionKernel, "" where there is none.
        slice_thickness_mm: SliceThickness, None where it is not known.
        selector: what `select_series` takes for this series.
        one_scan: whether its images have SeriesInstanceUIDs of their own, and were joined.
        unified: elements in which the slices differ though they are one scan; what is derived has the first slice's.
    """

    series_instance_uid: str
    files: tuple[Path, ...]
    sop_instance_uids: tuple[str, ...]
    rows: int
    columns: int
    affine: np.ndarray
    spacing: tuple[float, float, float]
    is_axial: bool
    frames: tuple[int, ...]
    is_multiframe: bool = False
    is_offset: bool = False
    gaps: tuple[str, ...] = ()
    description: str = ""
    kernel: str = ""
    slice_thickness_mm: float | None = None
    selector: str = ""
    one_scan: bool = False
    unified: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns), the shape of `read_volume`."""
        return len(self.files), self.rows, self.columns

    @property
    def selection(self) -> dict[str, Any]:
        """The arguments of `select_series` that find this series again."""
        return {"series": self.selector, "one_scan": self.one_scan}

    @property
    def slice_names(self) -> tuple[str, ...]:
        """Each slice's SOPInstanceUID; of a frame of several, UID/frames/NUMBER as in PS3.18 10.4.1."""
        if not self.is_multiframe:
            return self.sop_instance_uids
        named = zip(self.sop_instance_uids, self.frames, strict=True)
        return tuple(f"{uid}/frames/{i + 1}" if uid else "" for uid, i in named)

    def by_file(self) -> dict[Path, dict[int, int]]:
        """For each file, which slice each of its frames is."""
        slices: dict[Path, dict[int, int]] = {}
        for i, (file, frame) in enumerate(zip(self.files, self.frames, strict=True)):
            slices.setdefault(file, {})[frame] = i
        return slices
