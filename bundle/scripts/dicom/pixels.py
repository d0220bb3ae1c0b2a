"""Pixels of CT images: stored values, decoded, and compared with what the header says."""

from __future__ import annotations

import math
import os
from collections.abc import Container, Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ..errors import BioAttError
from .codestream import Claim, is_whole, read_claim, rle_pixels, split_frames
from .enhanced import frame_headers
from .geometry import read_shape
from .headers import one_line, open_dicom, quiet_pydicom, rescale, text, value, whole_number
from .padding import is_signed, stored_range
from .quantity import SAME_IN_ALL_CT, check_hu_image
from .transcode import set_element

_RLE = "1.2.840.10008.1.2.5"
_ITEM = b"\xfe\xff\x00\xe0"  # begins what is compressed (PS3.5 A.4)
_CONVERT = "convert it to Explicit VR Little Endian, e.g. with {}"
_PIP = "python -m pip install {}"
_LIBJPEG = f"{_PIP.format('pylibjpeg pylibjpeg-libjpeg')} (GPL-3), or {_CONVERT.format('dcmdjpeg of DCMTK')}"
_CODINGS = {
    **{f"1.2.840.10008.1.2.4.{n}": "JPEG" for n in (50, 51, 53, 55, 57, 70)},
    **{f"1.2.840.10008.1.2.4.{n}": "JPEG-LS" for n in (80, 81)},
    **{f"1.2.840.10008.1.2.4.{n}": "JPEG 2000" for n in (90, 91, 92, 93, 201, 202, 203)},
}
_REMEDIES = {
    **{f"1.2.840.10008.1.2.4.{n}": _PIP.format("python-gdcm") for n in (57, 70)},
    **{f"1.2.840.10008.1.2.4.{n}": _PIP.format("pyjpegls") for n in (80, 81)},
    **{f"1.2.840.10008.1.2.4.{n}": _PIP.format("pylibjpeg-openjpeg") for n in (90, 91, 201, 202, 203)},
    **{f"1.2.840.10008.1.2.4.{n}": _LIBJPEG for n in (50, 51)},
    **{f"1.2.840.10008.1.2.4.{n}": _CONVERT.format("dcmdjpeg of DCMTK") for n in (53, 55)},
    **{f"1.2.840.10008.1.2.4.{n}": "convert it with a program that reads JPEG XL" for n in (110, 111, 112)},
    **{f"1.2.840.10008.1.2.4.{n}": "leave the video out" for n in range(100, 109)},
}


def read_frames(
    file: str | os.PathLike[str], notes: set[str] | None = None, wanted: Container[int] | None = None
) -> Iterator[tuple[np.ndarray, Dataset]]:
    """Stored values of each frame of a CT image, int64 or int32 `(rows, columns)`, and its header.

    Bits above BitsStored are not part of a value and are dropped (PS3.5 8.1.1). The pixels of the file are decoded
    at once, and turned into numbers frame by frame.

    Args:
        notes: where faults are put that were got over, in words.
        wanted: frames that must be in HU; None for all.

    Raises:
        BioAttError: not DICOM, not grey images in HU, pixel data missing, cut short, of another shape, sign or
            number of bits than the header says, or in a coding that no installed package decodes.
    """
    path = Path(file)
    dataset = open_dicom(path)
    if dataset is None:
        raise BioAttError(f"{path} is not a DICOM file; name a folder with a CT series, or one CT image")
    notes = set() if notes is None else notes
    headers = frame_headers(dataset, path)
    for i, header in enumerate(headers):
        if wanted is None or i in wanted:
            check_hu_image(header, path)
    for keyword, (vr, default) in SAME_IN_ALL_CT.items():
        if value(dataset, keyword, path) is None:
            notes.add(f"{keyword} is missing and taken as {default}")
            set_element(dataset, keyword, vr, default)
    photometric = text(dataset, "PhotometricInterpretation", path).upper()  # pydicom wants it so
    set_element(dataset, "PhotometricInterpretation", "CS", photometric)
    shape, signed = read_shape(dataset, path), is_signed(dataset, path)
    bits_allocated, bits_stored = _bits(dataset, path, notes)
    syntax = _true_syntax(dataset, path, len(headers) * math.prod(shape) * bits_allocated // 8, notes)
    claims = _check_pixel_data(dataset, path, syntax, (len(headers), *shape), bits_allocated, notes)
    codings = {claim.coding for claim in claims} if len(claims) == len(headers) else {"something else"}
    if str(syntax) in _CODINGS and codings != {_CODINGS[str(syntax)]}:  # no decoder sees what was not looked into
        raise BioAttError(
            f"{path}: TransferSyntaxUID says {syntax.name}, but PixelData is {', '.join(sorted(codings))}; copy the "
            "file again, or decompress it with the system that wrote it"
        )
    for claim in claims:
        _check_claim(claim, path, shape, bits_stored, bits_allocated, signed)
    must_fit = any(claim.bits > bits_stored for claim in claims)
    images = _decode(dataset, path, syntax, (len(headers), *shape))
    low, high = stored_range(bits_stored, signed)
    for image, header in zip(images, headers, strict=True):
        raw = stored = image.astype(np.int32 if bits_allocated <= 16 else np.int64)
        if image.min() < low or image.max() > high:
            stored = (raw - low) % (high - low + 1) + low
        if must_fit and not (np.array_equal(raw, stored) or np.array_equal(raw, stored % (high - low + 1))):
            raise BioAttError(
                f"{path}: the compressed image holds values beyond BitsStored {bits_stored} (PixelRepresentation "
                f"{int(signed)}); decompress it with the system that wrote it"
            )
        yield stored, header


def have_same_hu(first: Path, second: Path) -> bool:
    """Whether two images, perhaps in different encodings, hold the same HU in all frames."""
    for one, other in zip_longest(read_frames(first), read_frames(second)):
        if one is None or other is None or rescale(one[1], first) != rescale(other[1], second):
            return False
        if not np.array_equal(one[0], other[0]):
            return False
    return True


def _bits(dataset: Dataset, path: Path, notes: set[str]) -> tuple[int, int]:
    """BitsAllocated and BitsStored, checked against each other and HighBit.

    A missing HighBit can mean nothing else. One below BitsStored - 1 can be true of no image, and no reader minds it.
    One above would mean that values stand in the upper bits; readers do not agree on that.
    """
    allocated, stored = (whole_number(dataset, keyword, path) for keyword in ("BitsAllocated", "BitsStored"))
    if value(dataset, "HighBit", path) is None:
        notes.add(f"HighBit is missing and taken as BitsStored {stored} - 1")
        set_element(dataset, "HighBit", "US", stored - 1)
    high = whole_number(dataset, "HighBit", path)
    if 0 < high < stored - 1:
        notes.add(f"HighBit {high} is not BitsStored {stored} - 1 and is ignored")
        high = stored - 1
    if allocated not in (8, 16, 32) or not 1 < stored <= allocated or high != stored - 1:
        raise BioAttError(
            f"{path}: BitsAllocated {allocated}, BitsStored {stored}, HighBit {high}; expected 8, 16 or 32 bits "
            "allocated and HighBit = BitsStored - 1; repair the file"
        )
    return allocated, stored


def _check_pixel_data(
    dataset: Dataset, path: Path, syntax: UID, shape: tuple[int, int, int], bits_allocated: int, notes: set[str]
) -> list[Claim]:
    """Raise where the pixel data is missing or cut short; return what its codestreams claim to hold."""
    data = value(dataset, "PixelData", path)
    for keyword in ("FloatPixelData", "DoubleFloatPixelData"):
        if keyword in dataset:
            raise BioAttError(f"{path}: its pixels are {keyword}, expected PixelData of whole numbers; leave it out")
    if data is None:
        raise BioAttError(f"{path}: PixelData is missing; export the image again with its pixels")
    if not isinstance(data, bytes | bytearray):
        raise BioAttError(f"{path}: PixelData has VR {dataset['PixelData'].VR}, expected OW or OB; repair the file")
    if syntax.is_compressed:
        return _look_into_codestreams(data, path, shape, is_rle=syntax == _RLE)
    frames, rows, columns = shape
    wanted = frames * rows * columns * bits_allocated // 8
    if len(data) < wanted:
        raise BioAttError(f"{path}: PixelData is cut short, {len(data)} of {wanted} bytes; copy the file again")
    behind = data[wanted + wanted % 2 :]
    if behind and _is_filling(behind, shape, bits_allocated // 8):
        dataset["PixelData"].value = data[: wanted + wanted % 2]  # pydicom would take whole frames behind for images
        notes.add(f"{len(behind)} bytes after the pixels are ignored (PS3.5 8.1.1)")
    elif behind:
        raise BioAttError(
            f"{path}: PixelData has {len(data)} bytes, but Rows x Columns {rows} x {columns} and {frames} frames make "
            f"{wanted}; repair the file"
        )
    return []


def _is_filling(behind: bytes, shape: tuple[int, int, int], width: int) -> bool:
    """whether bytes after the pixels can be none of them: all are equal, or they make no whole rows or columns."""
    if behind.count(behind[:1]) == len(behind):
        return True
    return (
        len(behind) < math.prod(shape) * width
        and len(behind) % (shape[1] * width) != 0
        and len(behind) % (shape[2] * width) != 0
    )


def _look_into_codestreams(data: bytes, path: Path, shape: tuple[int, int, int], is_rle: bool) -> list[Claim]:
    """Raise where compressed data is not whole: some decoders return something all the same."""
    frames, rows, columns = shape
    claims = []
    try:
        for codestream in split_frames(data, frames):
            if not is_whole(codestream):
                raise ValueError("its end marker is missing")
            pixels = rle_pixels(codestream) if is_rle else rows * columns
            if not 0 <= pixels - rows * columns <= 2:  # encoders pad segments
                raise BioAttError(
                    f"{path}: the RLE image has {pixels} pixels, but Rows x Columns {rows} x {columns} make "
                    f"{rows * columns}; copy the file again, or repair it"
                )
            claims.append(read_claim(codestream))
    except ValueError as error:
        raise BioAttError(f"{path}: PixelData is cut short, {error}; copy the file again") from error
    return [claim for claim in claims if claim is not None]


def _check_claim(
    claim: Claim, path: Path, shape: tuple[int, int], bits_stored: int, bits_allocated: int, signed: bool
) -> None:
    """Raise where the codestream and the header disagree: which of them is right cannot be known."""
    if claim.rows not in (0, shape[0]) or claim.columns != shape[1]:
        raise BioAttError(
            f"{path}: the compressed image has {claim.rows} x {claim.columns} pixels, but Rows x Columns are "
            f"{shape[0]} x {shape[1]}; repair the file"
        )
    if claim.components != 1:
        raise BioAttError(f"{path}: the compressed image has {claim.components} components, expected 1; leave it out")
    if claim.signed not in (None, signed):
        raise BioAttError(
            f"{path}: the compressed image is {'signed' if claim.signed else 'unsigned'}, but PixelRepresentation is "
            f"{int(signed)}; decompress it with the system that wrote it"
        )
    sign_is_lost = signed and claim.bits < bits_stored and claim.signed is None  # which bit would it be?
    if claim.bits > bits_allocated or sign_is_lost:
        raise BioAttError(
            f"{path}: the compressed image has {claim.bits} bits, but BitsAllocated is {bits_allocated}, BitsStored "
            f"{bits_stored} and PixelRepresentation {int(signed)}; decompress it with the system that wrote it"
        )


def _decode(dataset: Dataset, path: Path, syntax: UID, shape: tuple[int, int, int]) -> np.ndarray:
    """Pixels `(frames, rows, columns)` as pydicom's plugins decode them."""
    dataset.file_meta.TransferSyntaxUID = syntax
    try:
        with quiet_pydicom():
            if syntax == _RLE and hasattr(dataset, "pixel_array_options"):
                dataset.pixel_array_options(decoding_plugin="pydicom")  # pylibjpeg-rle aborts on damaged data
            images = dataset.pixel_array
    except Exception as error:  # each decoder raises errors of its own
        remedy = _REMEDIES.get(str(syntax), _CONVERT.format("dcmconv of DCMTK"))
        raise BioAttError(
            f"{path}: PixelData in {syntax.name} ({syntax}) cannot be decoded ({one_line(error)}); {remedy}, "
            "or copy the file again if it is damaged"
        ) from error
    if images.shape not in (shape, shape[1:]):
        raise BioAttError(f"{path}: decoded pixels are {images.shape}, Rows x Columns {shape[1:]}; repair the file")
    return images.reshape(shape)


def _syntax(dataset: Dataset, path: Path) -> UID:
    """The transfer syntax; of a file that names none, the plain encoding in which it could be parsed."""
    uid = dataset.file_meta.get("TransferSyntaxUID")
    if not uid:
        if value(dataset, "PixelData", path) is None or not dataset["PixelData"].is_undefined_length:
            return _plain_syntax(dataset)
        raise BioAttError(
            f"{path}: TransferSyntaxUID is missing from the file meta group and the pixels are compressed; "
            "export the image again"
        )
    syntax = UID(uid)
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise BioAttError(
            f"{path}: transfer syntax {syntax} is not a DICOM one; {_CONVERT.format('gdcmconv --raw of GDCM')}"
        )
    return syntax


def _true_syntax(dataset: Dataset, path: Path, size: int, notes: set[str]) -> UID:
    """The transfer syntax of the pixels: some archives change the coding of an image and leave its old name."""
    syntax, data = _syntax(dataset, path), value(dataset, "PixelData", path)
    if not isinstance(data, bytes) or not data:
        return syntax
    if not syntax.is_compressed and dataset["PixelData"].is_undefined_length:
        raise BioAttError(
            f"{path}: TransferSyntaxUID says {syntax.name}, but PixelData is compressed; export it again from the "
            "system that wrote it"
        )
    if syntax.is_compressed and len(data) in (size, size + size % 2) and data[:4] != _ITEM:
        notes.add(f"TransferSyntaxUID says {syntax.name}, but the pixels are not compressed, and are read so")
        return _plain_syntax(dataset)
    return syntax


def _plain_syntax(dataset: Dataset) -> UID:
    implicit, little = getattr(dataset, "original_encoding", (True, True))
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
