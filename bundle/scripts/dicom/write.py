"""Write a processed series as a derived DICOM series beside its source: same study, same geometry, new UIDs."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from ..errors import BioAttError
from ..provenance import Provenance
from ..staging import staged_folder
from .derived import Run, describe
from .headers import open_dicom, quiet_pydicom, rescale, whole_number
from .read import Progress, is_signed, padding_limits, padding_mask, read_slice, stored_range
from .series import Series
from .transcode import set_element, to_explicit_little_endian

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WriteSummary:
    """What `write_derived_series` wrote.

    Args:
        folder: where the files are.
        series_instance_uid: SeriesInstanceUID of the derived series.
        slices: number of files.
        clipped_pixels: pixels whose HU did not fit the stored bits and were set to the nearest value that does.
        rescaled_slices: slices stored with slope 1 because the source's rescale was too coarse for HU.
    """

    folder: Path
    series_instance_uid: str
    slices: int
    clipped_pixels: int
    rescaled_slices: int


def write_derived_series(
    series: Series,
    volume_hu: np.ndarray,
    output_dir: str | os.PathLike[str],
    provenance: Provenance,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> WriteSummary:
    """Write `volume_hu` as a series derived from `series`, one Explicit VR Little Endian file a slice.

    Every element of the source is kept bit for bit, but for private ones and those that are not true of the
    derived image (module `derived` lists them). The source's rescale is kept if its slope is at most 1 HU and it
    has 16 bits, else values are stored as signed 16-bit HU. They are rounded to the nearest, and clipped to what
    the bits hold. Padding pixels keep the source's value. Besides the volume, one slice at a time is in memory.

    Args:
        series: the source, from `find_series` or `select_series`.
        volume_hu: HU `(slices, rows, columns)`, in the order of `series.files`.
        output_dir: folder for the files 0001.dcm, 0002.dcm, ... and nothing else; it appears when all are written.
        provenance: what made the volume.
        overwrite: replace `output_dir` whole if it exists.
        progress: called with (slices done, slices in all).

    Returns:
        What was written.

    Raises:
        BioAttError: the volume does not fit the series or is not finite, the folder exists or holds the source,
            or a source slice can no longer be read.
    """
    _check_pydicom()
    if tuple(volume_hu.shape) != series.shape:
        raise BioAttError(
            f"series {series.series_instance_uid} is (slices, rows, columns) {series.shape}, the volume to write "
            f"{tuple(volume_hu.shape)}; give the volume in the order of read_volume"
        )
    folder = Path(output_dir)
    _check_apart(series, folder)
    run = Run.start(provenance)
    digits = max(4, len(str(len(series.files))))
    clipped = rescaled = 0
    with staged_folder(folder, overwrite) as staging:
        for i, file in enumerate(series.files):
            more_clipped, kept = _write_slice(file, volume_hu[i], staging / f"{i + 1:0{digits}d}.dcm", run)
            clipped, rescaled = clipped + more_clipped, rescaled + (not kept)
            if progress is not None:
                progress(i + 1, len(series.files))
    if clipped:
        logger.warning("%s: %d pixels were clipped to what the stored bits hold", folder, clipped)
    if rescaled:
        logger.warning("%s: %d slices stored as signed 16-bit HU, their own rescale is too coarse", folder, rescaled)
    return WriteSummary(
        folder=folder,
        series_instance_uid=run.series_instance_uid,
        slices=len(series.files),
        clipped_pixels=clipped,
        rescaled_slices=rescaled,
    )


def _check_pydicom() -> None:
    if int(pydicom.__version__.split(".")[0]) < 3:
        raise BioAttError(
            f"writing DICOM needs pydicom 3, found {pydicom.__version__}; python -m pip install 'pydicom>=3'"
        )


def _check_apart(series: Series, folder: Path) -> None:
    """Raise if replacing `folder` would delete the source."""
    target = folder.resolve()
    for file in series.files:
        if target in file.resolve().parents:
            raise BioAttError(f"output folder {folder} holds the source {file}; name another folder")


def _write_slice(file: Path, hu: np.ndarray, target: Path, run: Run) -> tuple[int, bool]:
    """Write one slice; return the number of clipped pixels and whether the source's rescale was kept."""
    if not np.all(np.isfinite(hu)):
        raise BioAttError(f"result for {file} holds values that are not finite, wanted HU; nothing was written")
    derived, source = _header(file), _header(file)  # one to be copied as it is, one to be read
    pixels, padded = None, None
    if padding_limits(source) is not None:
        pixels, source = read_slice(file)
        padded = padding_mask(source, pixels)
    to_explicit_little_endian(derived, is_signed(source, file))
    describe(derived, source, file, run)
    slope, intercept = rescale(source, file)
    kept = 0 < slope <= 1 and whole_number(source, "BitsAllocated", file) == 16
    if not kept:
        _set_hu_storage(derived, source, slope, intercept)
    out_slope, out_intercept = rescale(derived, file)
    low, high = stored_range(whole_number(derived, "BitsStored", file), is_signed(derived, file))
    exact = np.rint((np.asarray(hu, dtype=np.float64) - out_intercept) / out_slope)
    if padded is not None:
        exact[padded] = pixels[padded] if kept else np.rint(pixels[padded] * slope + intercept).clip(low, high)
    stored = exact.clip(low, high)
    set_element(derived, "PixelData", "OW", stored.astype("<i2" if low < 0 else "<u2").tobytes())
    _save(derived, target)
    return int(np.count_nonzero(stored != exact)), kept


def _header(file: Path) -> Dataset:
    """What stands before the pixels; what follows them (trailing padding, signatures) is not copied."""
    header = open_dicom(file, stop_before_pixels=True)
    if header is None:
        raise BioAttError(f"{file} is no longer a DICOM file: it changed while it was used; start again")
    for tag in [tag for tag in header.keys() if tag.group >= 0x7FE0]:  # extended offset table
        del header[tag]
    return header


def _set_hu_storage(derived: Dataset, source: Dataset, slope: float, intercept: float) -> None:
    """Say that pixels are stored as signed 16-bit HU; what was in stored values of the source is moved or removed."""
    for keyword, number in ("BitsAllocated", 16), ("BitsStored", 16), ("HighBit", 15), ("PixelRepresentation", 1):
        set_element(derived, keyword, "US", number)
    set_element(derived, "RescaleSlope", "DS", "1")
    set_element(derived, "RescaleIntercept", "DS", "0")
    limits = padding_limits(source)
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit", "RealWorldValueMappingSequence"):
        if keyword in derived:
            del derived[keyword]
    if limits is not None:
        first, last = (int(np.rint(limit * slope + intercept).clip(-(2**15), 2**15 - 1)) for limit in limits)
        set_element(derived, "PixelPaddingValue", "SS", first)
        if last != first:
            set_element(derived, "PixelPaddingRangeLimit", "SS", last)


def _save(derived: Dataset, target: Path) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    derived.file_meta = FileMetaDataset()  # none of the source's: its AE titles and implementation did not write this
    derived.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    derived.preamble = bytes(128)
    with quiet_pydicom():
        pydicom.dcmwrite(target, derived, enforce_file_format=True)
