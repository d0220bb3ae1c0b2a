"""Runs the inference workflow on what Python holds: paths, nibabel images and arrays, there and back."""

from __future__ import annotations

import gzip
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.spatialimages import SpatialImage

from ..device import find_device, keep_freed_memory
from ..errors import BioAttError, find_bioatt_error
from ..volumes.formats import format_of, nifti
from ..volumes.volume import find_inputs, load_volume
from ..workflow import quiet_libraries, run_workflow

_IMAGE, _ARRAY = "image.nii", "array.nii"


def denoise_any(
    source: Any,
    output: str | os.PathLike[str] | None,
    *,
    spacing_mm: Sequence[float] | None,
    device: str | torch.device | None,
    options: dict[str, Any],
) -> Any:
    """Denoise what `scripts.app.python.denoise` takes; `options` are overrides of inference.json.

    Raises:
        BioAttError: bad input or usage.
    """
    is_path = isinstance(source, str | os.PathLike)
    is_array = not is_path and not isinstance(source, SpatialImage) and hasattr(source, "__array__")
    if not (is_path or is_array or isinstance(source, SpatialImage)):
        raise BioAttError(f"source is a {type(source).__name__}, expected a path, a nibabel image or an array in HU")
    if spacing_mm is not None and not is_array:
        raise BioAttError("spacing_mm belongs to an array; files and nibabel images know theirs, leave it out")
    if output is not None and not isinstance(output, str | os.PathLike):
        raise BioAttError(f"output is a {type(output).__name__}, expected the path of a folder")
    if output is None and options.get("report"):
        raise BioAttError("a report is written beside the result; name an output folder")
    if device is not None:
        options = options | {"device": find_device(device)}
    with TemporaryDirectory(prefix="bioatt-") as name:
        folder = Path(name)
        if is_array:
            place = _save_array(source, spacing_mm, folder)
        else:
            place = os.fspath(source) if is_path else _save_image(source, folder)
        if output is None and is_path and len(find_inputs(place)) > 1:
            raise BioAttError(f"{place} holds several volumes; name an output folder, or one of them")
        target = folder / "result" if output is None else output
        with _told(Path(place), "" if is_path else "the array" if is_array else "the image"):
            _run(options | {"dataset_dir": str(place), "output_dir": str(target)})
        if output is not None:
            return Path(output)
        return _array(target / _ARRAY, np.ndim(source)) if is_array else _result(target)


def _run(overrides: dict[str, Any]) -> None:
    keep_freed_memory()
    with warnings.catch_warnings():  # of libraries, quiet in the workflow alone
        quiet_libraries()
        run_workflow("inference", ["inference.json"], overrides | {"isolated": True})


@contextmanager
def _told(place: Path, what: str) -> Iterator[None]:
    """Raise our error alone, not in MONAI's; a file that the caller never saw is called `what`."""
    try:
        yield
    except Exception as error:
        ours = find_bioatt_error(error)
        if ours is None:
            raise
        said = BioAttError(str(ours).replace(str(place), what).replace(place.name, what)) if what else ours
        raise said from None


def _save_array(source: Any, spacing_mm: Sequence[float] | None, folder: Path) -> Path:
    """Write (slices, rows, columns) or (rows, columns) as NIfTI, whose third axis are the slices."""
    try:
        hu = np.asarray(source)
    except (RuntimeError, TypeError, ValueError) as error:  # a tensor with a gradient, or on a GPU
        raise BioAttError(f"the {type(source).__name__} cannot be read as an array: {error}") from error
    if hu.ndim not in (2, 3) or 0 in hu.shape or hu.dtype.kind not in "iuf":
        raise BioAttError(
            f"the array has shape {hu.shape} and type {hu.dtype}, expected numbers in HU of the axes (slices, rows, "
            "columns) or (rows, columns)"
        )
    spacing = _checked_spacing(spacing_mm, hu.ndim)
    slice_mm, row_mm, column_mm = spacing if len(spacing) == 3 else (1.0, *spacing)
    volume = hu if hu.ndim == 3 else hu[None]
    affine = np.diag([-column_mm, -row_mm, slice_mm, 1.0])  # to the left, to posterior, to superior
    nibabel.save(nibabel.Nifti1Image(np.asarray(volume.transpose(2, 1, 0), np.float32), affine), folder / _ARRAY)
    return folder / _ARRAY


def _checked_spacing(spacing_mm: Sequence[float] | None, count: int) -> tuple[float, ...]:
    names = ("slices", "rows", "columns")[-count:]
    wanted = f"expected spacing_mm=({', '.join(names)}), {count} numbers over 0 in mm"
    try:
        spacing = tuple(float(one) for one in spacing_mm)
    except (TypeError, ValueError):
        raise BioAttError(f"spacing_mm is {spacing_mm!r}, {wanted}") from None
    if len(spacing) != count or not all(math.isfinite(one) and one > 0 for one in spacing):
        raise BioAttError(f"spacing_mm is {spacing_mm!r}, {wanted}")
    return spacing


def _save_image(image: SpatialImage, folder: Path) -> Path:
    try:
        nibabel.save(image, folder / _IMAGE)
    except Exception as error:
        raise BioAttError(f"the image cannot be written as NIfTI ({error}); convert it to a Nifti1Image") from error
    return folder / _IMAGE


def _array(file: Path, dimensions: int) -> np.ndarray:
    """The way back from `_save_array`."""
    hu = np.ascontiguousarray(np.asarray(nibabel.load(file).dataobj, np.float32).transpose(2, 1, 0))
    return hu if dimensions == 3 else hu[0]


def _result(folder: Path) -> Any:
    """What was written to `folder`, in memory: Datasets of a derived series, or a nibabel image."""
    from pydicom import dcmread

    slices = sorted(folder.glob("*.dcm"))
    if slices:
        return [dcmread(file) for file in slices]
    (file,) = (one for one in folder.iterdir() if format_of(one))
    if format_of(file) is not nifti:
        volume = load_volume(file, assume_hu=True)
        return nibabel.Nifti1Image(volume.hu, volume.affine)
    stored = file.read_bytes()
    return type(nibabel.load(file)).from_bytes(gzip.decompress(stored) if file.suffix.lower() == ".gz" else stored)
