"""Pixels of CT slices: stored values, HU, and which pixels are padding."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from ..errors import BioAttError
from .codestream import frame_shape, is_whole, join_fragments, rle_pixels
from .headers import check_hu_image, one_line, open_dicom, quiet_pydicom, rescale, value, whole_number
from .series import Series

Progress = Callable[[int, int], None]  # slices done, slices in all

_RLE = "1.2.840.10008.1.2.5"
_CONVERT = "convert it to Explicit VR Little Endian, e.g. with {} of DCMTK"
_REMEDIES = {
    "1.2.840.10008.1.2.4.57": "python -m pip install python-gdcm",
    "1.2.840.10008.1.2.4.70": "python -m pip install python-gdcm",
    "1.2.840.10008.1.2.4.80": "python -m pip install pyjpegls",
    "1.2.840.10008.1.2.4.81": "python -m pip install pyjpegls",
    **{f"1.2.840.10008.1.2.4.{n}": "python -m pip install pylibjpeg-openjpeg" for n in (90, 91, 201, 202, 203)},
    **{f"1.2.840.10008.1.2.4.{n}": _CONVERT.format("dcmdjpeg") for n in (50, 51, 53, 55)},
}


def read_volume(series: Series, progress: Progress | None = None) -> np.ndarray:
    """HU of a series, float32 `(slices, rows, columns)`, each slice with its own rescale.

    Padding is kept as stored: its value is PixelPaddingValue * slope + intercept.

    Args:
        series: from `find_series` or `select_series`.
        progress: called with (slices done, slices in all).

    Raises:
        BioAttError: see `read_slice`.
    """
    volume = np.empty(series.shape, dtype=np.float32)
    for i, file in enumerate(series.files):
        stored, dataset = read_slice(file)
        if stored.shape != (series.rows, series.columns):
            raise BioAttError(
                f"{file} has {stored.shape[0]} x {stored.shape[1]} pixels, its series {series.rows} x "
                f"{series.columns}: it changed while it was used; start again"
            )
        slope, intercept = rescale(dataset, file)
        volume[i] = stored * slope + intercept
        if progress is not None:
            progress(i + 1, len(series.files))
    return volume


def read_slice(file: str | os.PathLike[str]) -> tuple[np.ndarray, Dataset]:
    """Stored values of one CT image, int64 or int32 `(rows, columns)`, and its dataset.

    Bits above BitsStored are not part of a value and are dropped (PS3.5 8.1.1).

    Raises:
        BioAttError: not DICOM, not one grey image in HU, pixel data missing, cut short, of another shape than the
            header says, or in a form that no installed package decodes.
    """
    path = Path(file)
    dataset = open_dicom(path)
    if dataset is None:
        raise BioAttError(f"{path} is not a DICOM file; name a folder with a CT series, or one CT image")
    check_hu_image(dataset, path)
    bits_allocated, bits_stored = _bits(dataset, path)
    _check_pixel_data(dataset, path, bits_allocated)
    stored = _decode(dataset, path).astype(np.int32 if bits_allocated <= 16 else np.int64)
    low, high = stored_range(bits_stored, is_signed(dataset, path))
    return (stored - low) % (high - low + 1) + low, dataset


def padding_mask(dataset: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Where `stored` is padding by PixelPaddingValue and PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2).

    The value is read with the signedness of the pixels, whatever VR it was written with. A value that the stored
    bits cannot hold is no padding value and is ignored, as is a limit.

    Returns:
        bool, of the shape of `stored`, or None where there is no usable padding value.
    """
    limits = padding_limits(dataset)
    return None if limits is None else (stored >= limits[0]) & (stored <= limits[1])


def padding_limits(dataset: Dataset) -> tuple[int, int] | None:
    """Lowest and highest stored value that is padding, None where the header names no usable one."""
    first = _padding_value(dataset, "PixelPaddingValue")
    second = _padding_value(dataset, "PixelPaddingRangeLimit")
    if first is None:
        return None
    return (first, first) if second is None else (min(first, second), max(first, second))


def stored_range(bits_stored: int, signed: bool) -> tuple[int, int]:
    """Lowest and highest value of `bits_stored` bits."""
    return (-(1 << bits_stored - 1), (1 << bits_stored - 1) - 1) if signed else (0, (1 << bits_stored) - 1)


def is_signed(dataset: Dataset, where: object) -> bool:
    """Whether PixelRepresentation says two's complement."""
    return whole_number(dataset, "PixelRepresentation", where) == 1


def _padding_value(dataset: Dataset, keyword: str) -> int | None:
    where = "padding"
    try:
        number = whole_number(dataset, keyword, where, smallest=-(1 << 31))
    except BioAttError:  # missing, empty, or not one number
        return None
    signed = is_signed(dataset, where)
    if -(1 << 15) <= number < 1 << 16:  # the element has 16 bits: written as US for signed pixels, or the reverse
        number = number % (1 << 16)
        number -= 1 << 16 if signed and number >= 1 << 15 else 0
    low, high = stored_range(whole_number(dataset, "BitsStored", where), signed)
    return number if low <= number <= high else None


def _bits(dataset: Dataset, path: Path) -> tuple[int, int]:
    """BitsAllocated and BitsStored, checked against each other and HighBit."""
    allocated = whole_number(dataset, "BitsAllocated", path)
    stored = whole_number(dataset, "BitsStored", path)
    high = whole_number(dataset, "HighBit", path)
    if allocated not in (8, 16, 32) or not 1 < stored <= allocated or high != stored - 1:
        raise BioAttError(
            f"{path}: BitsAllocated {allocated}, BitsStored {stored}, HighBit {high}; wanted 8, 16 or 32 bits "
            "allocated and HighBit = BitsStored - 1; repair the file"
        )
    return allocated, stored


def _check_pixel_data(dataset: Dataset, path: Path, bits_allocated: int) -> None:
    """Raise where the pixel data is missing, cut short, or of another shape than Rows and Columns say."""
    shape = whole_number(dataset, "Rows", path, 1), whole_number(dataset, "Columns", path, 1)
    data = value(dataset, "PixelData", path)
    if data is None:
        raise BioAttError(f"{path}: PixelData is missing; export the image again with its pixels")
    syntax = _syntax(dataset, path)
    if syntax.is_compressed:
        _check_codestream(data, path, shape, is_rle=syntax == _RLE)
        return
    wanted = shape[0] * shape[1] * bits_allocated // 8
    if len(data) < wanted:
        raise BioAttError(f"{path}: PixelData is cut short, {len(data)} of {wanted} bytes; copy the file again")
    if len(data) > wanted + wanted % 2:
        raise BioAttError(
            f"{path}: PixelData has {len(data)} bytes, but Rows x Columns {shape[0]} x {shape[1]} make {wanted}; "
            "repair the file"
        )


def _check_codestream(data: bytes, path: Path, shape: tuple[int, int], is_rle: bool) -> None:
    """Raise where compressed data does not fit the header: some decoders return something all the same."""
    size = shape[0] * shape[1]
    try:
        codestream = join_fragments(data)
        if not is_whole(codestream):
            raise ValueError("its end marker is missing")
        pixels = rle_pixels(codestream) if is_rle else size
    except ValueError as error:
        raise BioAttError(f"{path}: PixelData is cut short, {error}; copy the file again") from error
    claimed = frame_shape(codestream)
    if claimed not in (None, shape):
        raise BioAttError(
            f"{path}: the compressed image has {claimed[0]} x {claimed[1]} pixels, but Rows x Columns are "
            f"{shape[0]} x {shape[1]}; repair the file"
        )
    if not 0 <= pixels - size <= 2:  # encoders pad segments
        raise BioAttError(
            f"{path}: the RLE image has {pixels} pixels, but Rows x Columns {shape[0]} x {shape[1]} make {size}; "
            "copy the file again, or repair it"
        )


def _decode(dataset: Dataset, path: Path) -> np.ndarray:
    try:
        with quiet_pydicom():
            if str(dataset.file_meta.TransferSyntaxUID) == _RLE and hasattr(dataset, "pixel_array_options"):
                dataset.pixel_array_options(decoding_plugin="pydicom")  # pylibjpeg-rle aborts on damaged data
            stored = dataset.pixel_array
    except Exception as error:  # each decoder raises errors of its own
        syntax = _syntax(dataset, path)
        remedy = _REMEDIES.get(str(syntax), _CONVERT.format("dcmconv"))
        raise BioAttError(
            f"{path}: PixelData in {syntax.name} ({syntax}) cannot be decoded ({one_line(error)}); {remedy}, "
            "or copy the file again if it is damaged"
        ) from error
    shape = tuple(int(n) for n in (dataset.Rows, dataset.Columns))
    if stored.shape != shape:
        raise BioAttError(f"{path}: decoded pixels are {stored.shape}, Rows x Columns {shape}; repair the file")
    return stored


def _syntax(dataset: Dataset, path: Path) -> UID:
    uid = dataset.file_meta.get("TransferSyntaxUID")
    if not uid:
        raise BioAttError(f"{path}: TransferSyntaxUID is missing from the file meta group; export the image again")
    syntax = UID(uid)
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise BioAttError(f"{path}: transfer syntax {syntax} is not a DICOM one; {_CONVERT.format('dcmconv')}")
    return syntax
