"""MetaImage and NRRD files, by SimpleITK, which is an optional package."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ...dicom import MAX_VOXELS
from ...errors import BioAttError

NAME = "MetaImage or NRRD"
SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")

_MOST_HEADER = 1 << 16  # bytes
#: ITK's axes run to left, posterior and superior, ours to right, anterior and superior.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Values and affine of a 3-D file; `write` is the way back.

    Raises:
        BioAttError: SimpleITK is missing; unreadable, several values a voxel, or not 3-D.
    """
    affine = geometry(path)[1]
    itk = _simple_itk()
    try:
        image = itk.ReadImage(os.fspath(path))
    except RuntimeError as error:
        raise BioAttError(f"{path} cannot be decoded ({_reason(error)}); copy or export it again") from error
    view = itk.GetArrayViewFromImage(image)  # of memory that goes with `image`: always copied
    return np.array(view.transpose(2, 1, 0), dtype=np.float32, order="F"), affine


def geometry(path: str | os.PathLike[str]) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine, 4x4, index to RAS in mm, by the header alone.

    Raises:
        BioAttError: see `read`.
    """
    entries, begin = _entries(Path(path))
    _check_data_is_here(Path(path), entries)
    header = _header(path)
    shape = tuple(header.GetSize())
    if len(shape) != 3 or 0 in shape or header.GetNumberOfComponents() != 1:
        raise BioAttError(
            f"{path} has shape {shape} with {header.GetNumberOfComponents()} values a voxel, expected one 3-D volume "
            "in HU; export it as such"
        )
    if math.prod(shape) > MAX_VOXELS:
        raise BioAttError(f"{path} has shape {shape}, 2**31 voxels or more; split it")
    _check_size(Path(path), entries, begin, math.prod(shape) * _dtype(header).itemsize)
    _check_entries(Path(path), entries)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(header.GetDirection(), (3, 3)) * header.GetSpacing()
    affine[:3, 3] = header.GetOrigin()
    return shape, LPS_TO_RAS @ affine


def write(source: str | os.PathLike[str], hu: np.ndarray, target: str | os.PathLike[str]) -> int:
    """Write `hu` (X, Y, Z) to `target` with the geometry, entries and data type of `source`, compressed."""
    itk, header = _simple_itk(), _header(source)
    dtype = _dtype(header)
    clipped = 0
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        hu = np.rint(np.nan_to_num(hu))
        clipped = int(np.count_nonzero((hu < limits.min) | (hu > limits.max)))
        hu = hu.clip(limits.min, limits.max)
    image = itk.GetImageFromArray(np.ascontiguousarray(hu.transpose(2, 1, 0), dtype=dtype))
    image.SetSpacing(header.GetSpacing())
    image.SetOrigin(header.GetOrigin())
    image.SetDirection(header.GetDirection())
    for key in header.GetMetaDataKeys():
        image.SetMetaData(key, header.GetMetaData(key))
    try:
        itk.WriteImage(image, os.fspath(target), useCompression=True)
    except RuntimeError as error:
        raise BioAttError(f"{target} cannot be written ({_reason(error)}); name another folder") from error
    return clipped


def _header(path: str | os.PathLike[str]) -> Any:
    """What SimpleITK reads without the values."""
    reader = _simple_itk().ImageFileReader()
    reader.SetFileName(os.fspath(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise BioAttError(f"{path} cannot be read as {NAME} ({_reason(error)}); copy or export it again") from error
    return reader


def _dtype(header: Any) -> np.dtype:
    """The type of the values."""
    itk = _simple_itk()
    return np.dtype(itk.GetArrayViewFromImage(itk.Image([1, 1, 1], header.GetPixelID())).dtype)


def _entries(path: Path) -> tuple[dict[str, str], int]:
    """What the header says, by names in small letters, and where values would begin behind it."""
    if not path.is_file():
        raise BioAttError(f"input {path} does not exist; name a MetaImage or NRRD file")
    with open(path, "rb") as file:
        head = file.read(_MOST_HEADER)
    end = re.search(rb"ElementDataFile[^\n]*\n?|\r?\n\r?\n", head)
    header = head[: end.end() if end else None].decode("latin-1")
    entries = {key.strip().lower(): value.strip() for key, value in re.findall(r"^([\w ]+)[:=](.*)$", header, re.M)}
    return entries, len(header)


def _check_entries(path: Path, entries: dict[str, str]) -> None:
    """Refuse a header that says nothing of lengths, or not in mm: ITK would take both for mm."""
    directions = entries.get("space directions", "")
    if directions and directions.count("(") != 3:
        raise BioAttError(f"{path} has {directions.count('(')} directions in space, expected 3; export one 3-D volume")
    if not entries.keys() & {"space directions", "spacings", "elementspacing", "elementsize"}:
        raise BioAttError(f"{path} does not say how far its voxels are apart; export it with its geometry")
    said = " ".join(entries.get(key, "") for key in ("space units", "units"))
    units = set(re.findall(r"[^\s\"]+", said.lower())) - {"???"}
    if not units <= {"mm", "millimeter", "millimeters", "millimetre", "millimetres"}:
        raise BioAttError(f"{path}: units are {', '.join(sorted(units))}, expected mm; export it in mm")


def _data_of(path: Path, entries: dict[str, str]) -> Path | None:
    """The file that holds the values, None where they are in several."""
    name = entries.get("elementdatafile") or entries.get("data file") or entries.get("datafile") or "LOCAL"
    if name.split()[0] == "LIST" or "%" in name:
        return None
    return path if name.upper() == "LOCAL" else path.parent / name


def _check_data_is_here(path: Path, entries: dict[str, str]) -> None:
    """Refuse a header without its values."""
    data = _data_of(path, entries)
    if data is not None and not data.is_file():
        name = os.path.relpath(data, path.parent)
        raise BioAttError(f"{path}: its values are in {name}, which is not here; copy it to the same folder")


def _check_size(path: Path, entries: dict[str, str], begin: int, size: int) -> None:
    """Refuse a file that does not hold all its values, `size` bytes from `begin` on if they are not compressed."""
    data = _data_of(path, entries)
    is_raw = entries.get("encoding", "raw") == "raw" and entries.get("compresseddata", "false").lower() == "false"
    if data is None or not is_raw or "byte skip" in entries:
        return
    there = data.stat().st_size - (begin if data == path else 0)
    if there < size:
        raise BioAttError(
            f"{data} is cut short: its header promises {size} bytes of values, it has {there}; copy it again"
        )


def _reason(error: RuntimeError) -> str:
    """The last line of SimpleITK's many."""
    return str(error).strip().splitlines()[-1].strip()


def _simple_itk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise BioAttError(f"{NAME} files need SimpleITK; python -m pip install SimpleITK") from error
    return SimpleITK
