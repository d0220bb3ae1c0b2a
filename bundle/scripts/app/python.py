"""The door from Python: `bioatt.denoise`. Imports nothing heavy before it is called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

from ..strengths import DEFAULT
from .entry import bundle_module

if TYPE_CHECKING:
    import numpy as np
    import torch
    from nibabel.spatialimages import SpatialImage
    from pydicom import Dataset


class Options(TypedDict, total=False):
    """What each form of `denoise` takes by name, for type checkers."""

    strength: str
    anchor_mm: float | None
    grain: float | None
    restore: float | None
    prior: str | None
    device: str | torch.device | None
    weights: str | os.PathLike[str] | None
    series: str | int
    assume_hu: bool
    allow_gaps: bool
    one_scan: bool
    batch_size: int | None
    stable_uids: bool
    report: bool
    overwrite: bool
    progress: bool


@overload
def denoise(
    source: np.ndarray, output: None = None, *, spacing_mm: Sequence[float], **options: Unpack[Options]
) -> np.ndarray: ...
@overload
def denoise(
    source: np.ndarray, output: str | os.PathLike[str], *, spacing_mm: Sequence[float], **options: Unpack[Options]
) -> Path: ...
@overload
def denoise(source: SpatialImage, output: None = None, **options: Unpack[Options]) -> SpatialImage: ...
@overload
def denoise(
    source: str | os.PathLike[str], output: None = None, **options: Unpack[Options]
) -> list[Dataset] | SpatialImage: ...
@overload
def denoise(
    source: str | os.PathLike[str] | SpatialImage, output: str | os.PathLike[str], **options: Unpack[Options]
) -> Path: ...


def denoise(
    source: str | os.PathLike[str] | SpatialImage | np.ndarray,
    output: str | os.PathLike[str] | None = None,
    *,
    spacing_mm: Sequence[float] | None = None,
    strength: str = DEFAULT,
    anchor_mm: float | None = None,
    grain: float | None = None,
    restore: float | None = None,
    prior: str | None = None,
    device: str | torch.device | None = None,
    weights: str | os.PathLike[str] | None = None,
    series: str | int = "",
    assume_hu: bool = False,
    allow_gaps: bool = False,
    one_scan: bool = False,
    batch_size: int | None = None,
    stable_uids: bool = False,
    report: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Any:
    """Denoise CT by the workflow of `bioatt denoise`, on disk or in memory.

    ==================================  ===========================================================
    `source`                            what comes back without `output`
    ==================================  ===========================================================
    path of a DICOM series or file      the derived series: list of pydicom Datasets, first to last
    path of another file, e.g. NIfTI    a nibabel image
    nibabel image                       a nibabel image, of the same data type, affine and header
    array in HU                         an array, float32, of the same shape
    ==================================  ===========================================================

    An array has the axes (slices, rows, columns), or (rows, columns) of one slice: slices from inferior to superior,
    rows from anterior to posterior, columns from the patient's right to left. It says nothing of itself: `spacing_mm`
    does. The source is never changed.

    Args:
        source: see the table; a path may be anything that the command takes, a zip of DICOM too.
        output: a folder to write to; new, or empty. What does not come from a file is written as NIfTI.
        spacing_mm: of an array: mm between slices, rows and columns; of one slice, between rows and columns.
        strength: ``low``, ``standard`` or ``high``.
        anchor_mm, grain, restore: the strength as numbers: mm, over 0 to 10, and two shares, 0 to 1.
        prior: prior string, e.g. ``biomedclip``; None for the one that the recipe of the weights names.
        device: e.g. ``cuda:1``; None for a GPU if there is one.
        weights: weights file with its recipe beside it; None for those of the bundle.
        series: SeriesInstanceUID or SeriesNumber, where a folder holds several.
        assume_hu, allow_gaps, one_scan, batch_size, stable_uids, report, overwrite: as the command's options.
        progress: show progress bars and the summary, as the command does.

    Returns:
        The path `output`, or without it the result in memory.

    Raises:
        BioAttError: bad input or usage. It is `bioatt.BioAttError`; an option ``--assume-hu`` that its message names
            is the argument `assume_hu` here.

    Example:
        >>> quiet = bioatt.denoise(hu, spacing_mm=(2.0, 0.7, 0.7), strength="low")
    """
    given = {name: value for name, value in locals().items() if value is not None}
    options = {name: given[name] for name in given.keys() & Options.__annotations__.keys() - {"device"}}
    options["summary"] = progress
    run = bundle_module("app.in_memory").denoise_any
    return run(source, output, spacing_mm=spacing_mm, device=device, options=options)
