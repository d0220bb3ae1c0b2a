"""NIfTI files, .nii and .nii.gz, by nibabel."""

from __future__ import annotations

import gzip
import itertools
import logging
import math
import os
from pathlib import Path

import numpy as np

from ...dicom import MAX_VOXELS
from ...dicom.instead import by_first_bytes
from ...errors import BioAttError

NAME = "NIfTI"
SUFFIXES = (".nii.gz", ".nii")

logger = logging.getLogger(__name__)

_UNITS_MM = {1: ("meter", 1000.0), 3: ("micron", 0.001)}
_VOXEL_MM = (0.001, 20.0)  # sides of voxels of CT, from specimens to thick slices
_SIDES_APART = 0.05  # of a voxel: sides by sform and by pixdim
_GZIP = b"\x1f\x8b"
_MOST_BEHIND = 1 << 26  # bytes behind the voxels that are looked through for the check sum


def read(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Values and affine of a 3-D NIfTI file (or 2-D: one slice); `write` is the way back.

    Raises:
        BioAttError: unreadable, not numeric, not 3-D, or without geometry.
    """
    image = _open(path)
    shape, others = _checked_shape(image, path), (0,) * (len(image.shape) - 3)  # further axes have length 1
    _check_size(image, shape, Path(path))
    affine = _checked_affine(image, path, tell=True)
    try:
        hu = np.empty(shape, np.float32, order="F")
        for i in range(hu.shape[-1]):  # slice by slice: the stored numbers would stand in memory beside these
            hu[..., i] = image.dataobj[(slice(None), slice(None), i, *others)[: len(image.shape)]]
        _check_sum(image)
    except Exception as error:
        raise BioAttError(f"{path} cannot be decoded ({error}); copy or export it again") from error
    return hu, affine


def geometry(path: str | os.PathLike[str]) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine (4x4, index to RAS in mm) of a NIfTI file, by its header alone.

    Raises:
        BioAttError: unreadable, not numeric, not 3-D, or without geometry.
    """
    image = _open(path)
    return _checked_shape(image, path), _checked_affine(image, path)


def write(source: str | os.PathLike[str], hu: np.ndarray, target: str | os.PathLike[str]) -> int:
    """Write `hu` (X, Y, Z) to `target` as `source` is stored: its header, affine, data type, slope and intercept."""
    from nibabel.openers import ImageOpener

    image = _open(source)
    dtype, header = image.get_data_dtype(), image.header.copy()
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    header.set_slope_inter(slope, intercept)
    clipped = 0
    with ImageOpener(str(target), "wb") as file:
        header.write_to(file)  # with its extensions
        file.write(bytes(header.get_data_offset() - file.tell()))
        for i in range(hu.shape[-1]):  # slice by slice: memory holds no second volume
            exact = (np.asarray(hu[..., i], dtype=np.float64) - intercept) / slope
            if dtype.kind in "iu":
                exact, limits = np.rint(np.nan_to_num(exact)), np.iinfo(dtype)
                clipped += int(np.count_nonzero((exact < limits.min) | (exact > limits.max)))
                exact = exact.clip(limits.min, limits.max)
            file.write(exact.astype(dtype).tobytes(order="F"))
    return clipped


def _open(path: str | os.PathLike[str]):
    import nibabel

    if not Path(path).is_file():
        raise BioAttError(f"input {path} does not exist; name a NIfTI file")
    try:
        image = nibabel.load(path, mmap=False, keep_file_open=True)  # so that slices can be read one after another
    except Exception as error:
        remedy = _other_name(path) or f"({error}); copy or export it again"
        raise BioAttError(f"{path} cannot be read as NIfTI {remedy}") from error
    header = int(image.header["sizeof_hdr"]) if "sizeof_hdr" in image.header else 0
    if 0 <= image.dataobj.offset < header:
        raise BioAttError(
            f"{path}: vox_offset is {image.dataobj.offset}, within its header of {header} bytes, so nobody knows where "
            "its voxels begin; export it again"
        )
    return image


def _check_sum(image) -> None:  # noqa: ANN001 (nibabel has no types)
    """Read on to the end of a packed file: its check sum stands behind what it holds."""
    with image.dataobj._get_fileobj() as stream:  # open, and behind the last voxel
        try:
            for _ in range(_MOST_BEHIND >> 20):
                if not stream.read(1 << 20):
                    return
        except gzip.BadGzipFile as error:
            if "Not a gzipped file" not in str(error):  # bytes behind the end, which gzip ignores too
                raise


def _other_name(path: str | os.PathLike[str]) -> str:
    """The remedy for a NIfTI file that is packed, or not, against its name; "" for any other."""
    file = Path(path)
    with open(file, "rb") as stream:
        head = stream.read(132)
    if head[128:] == b"DICM":
        return "under this name: it is DICOM; name it .dcm, or name its folder"
    if file.suffix.lower() == ".gz":
        is_plain = any(int.from_bytes(head[:4], order) in (348, 540) for order in ("little", "big"))  # sizeof_hdr
        if is_plain:
            return f"under this name: it is not packed by gzip; rename it to {file.stem}"
    elif head[:2] == _GZIP:
        return f"under this name: it is packed by gzip; rename it to {file.name}.gz"
    return f"under this name: it {what}" if (what := by_first_bytes(file)) else ""


def _checked_shape(image, path: str | os.PathLike[str]) -> tuple[int, int, int]:  # noqa: ANN001 (nibabel has no types)
    """The three axes, if the file holds one volume (or one slice) of numbers."""
    if image.get_data_dtype().kind not in "iuf":
        raise BioAttError(f"{path} holds {image.get_data_dtype()} values, expected numbers in HU; export it as HU")
    shape = image.shape[:3] if len(image.shape) > 3 and set(image.shape[3:]) == {1} else image.shape
    if len(shape) not in (2, 3) or 0 in shape:
        raise BioAttError(f"{path} has shape {image.shape}, expected one 3-D volume; split it into volumes")
    return (*shape, *((1,) * (3 - len(shape))))


def _check_size(image, shape: tuple[int, int, int], path: Path) -> None:  # noqa: ANN001 (nibabel has no types)
    """Refuse a header that claims more than the file can hold, before memory is taken for it.

    Deflate packs 1032 bytes into one at best (zlib's technical details).
    """
    voxels, size = math.prod(shape), path.stat().st_size
    wanted = image.dataobj.offset + voxels * image.get_data_dtype().itemsize
    if voxels > MAX_VOXELS:
        raise BioAttError(f"{path} has shape {image.shape}, 2**31 voxels or more; split it")
    if wanted > size * (1 if path.suffix.lower() == ".nii" else 1032):
        raise BioAttError(f"{path} is cut short: its header promises {wanted} bytes, it has {size}; copy it again")


def _checked_affine(image, path: str | os.PathLike[str], tell: bool = False) -> np.ndarray:  # noqa: ANN001 (no types)
    """The affine, if the file says where its voxels lie: without it no slice is known to be axial."""
    from nibabel.nifti1 import Nifti1Pair

    affine = np.array(image.affine, dtype=np.float64)
    voxel_mm3 = float(np.prod(np.linalg.norm(affine[:3, :3], axis=0)))  # a share of it: voxels may be micrometres
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * voxel_mm3:
        raise BioAttError(f"{path} has no usable affine (it is singular or not finite); export it with its geometry")
    if isinstance(image, Nifti1Pair) and not (image.header["qform_code"] or image.header["sform_code"]):
        raise BioAttError(f"{path} has no geometry (qform_code and sform_code are 0); export it with its orientation")
    affine[:3] *= _mm_per_unit(image, path, tell)
    if tell and isinstance(image, Nifti1Pair):
        _warn_of_two_places(image, path)
    return affine


def _mm_per_unit(image, path: str | os.PathLike[str], tell: bool) -> float:  # noqa: ANN001 (nibabel has no types)
    """Millimetres of the unit of length that the header names (xyzt_units); 1 where voxels would be none of a CT."""
    code = int(image.header["xyzt_units"]) & 7 if "xyzt_units" in image.header else 0
    unit, mm = _UNITS_MM.get(code, ("mm", 1.0))
    sides = np.linalg.norm(image.affine[:3, :3], axis=0)
    if mm != 1.0:
        believed = bool(np.all((sides * mm > _VOXEL_MM[0]) & (sides * mm < _VOXEL_MM[1])))
        mm = mm if believed else 1.0
        if tell:
            voxel = " x ".join(f"{side * mm:.3g}" for side in sides)
            what = "is converted to" if believed else "makes no voxels of CT; lengths are taken as"
            logger.warning("%s: the unit of length (xyzt_units), %s, %s mm: voxels of %s mm", path, unit, what, voxel)
    return mm


def _warn_of_two_places(image, path: str | os.PathLike[str]) -> None:  # noqa: ANN001 (nibabel has no types)
    """Tell where sform and qform place the voxels differently; readers do not agree on which one counts."""
    from nibabel.spatialimages import HeaderDataError

    try:
        sform, qform = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    except (ValueError, HeaderDataError):  # a quaternion that is none, which counts only without sform
        return
    if sform is None:
        return
    if qform is None:
        sides, said = np.linalg.norm(sform[:3, :3], axis=0), np.abs(image.header["pixdim"][1:4])
        if len(image.shape) > 2 and np.abs(said - sides).max() > _SIDES_APART * sides.max():
            words = (" x ".join(f"{side:.3g}" for side in one) for one in (sides, said))
            logger.warning("%s: sform makes voxels of %s, pixdim %s; sform is taken", path, *words)
        return
    corners = np.array(list(itertools.product(*((0, side - 1) for side in (*image.shape, 1)[:3]), (1,)))).T
    apart = float(np.abs((sform - qform) @ corners).max())
    if apart > float(np.linalg.norm(sform[:3, :3], axis=0).min()):
        logger.warning("%s: sform and qform differ (by %.3g at a corner); sform is taken", path, apart)
