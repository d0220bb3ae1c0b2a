"""One volume in HU from a DICOM series or a NIfTI file, with what is needed to name its slices."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..dicom import MAX_VOXELS, read_volume, read_volume_isolated, select_series
from ..errors import BioAttError
from ..progress import bar
from .plausible import check_hu

NIFTI_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A CT volume in HU.

    Args:
        hu: float32, (columns, rows, slices) for DICOM, storage order for NIfTI.
        affine: 4x4, index to RAS in mm, as NIfTI and MONAI have it.
        source: the path it came from.
        kind: ``dicom`` or ``nifti``.
        series_instance_uid: of a DICOM series, else empty.
        selector, one_scan: what `select_series` takes to find that series again.
        sop_instance_uids, files: one per slice of the third axis, of a DICOM series, else empty; of a frame of an
            Enhanced CT image, UID/frames/NUMBER.
    """

    hu: np.ndarray
    affine: np.ndarray
    source: Path
    kind: str
    series_instance_uid: str = ""
    selector: str = ""
    one_scan: bool = False
    sop_instance_uids: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def is_nifti(path: str | os.PathLike[str]) -> bool:
    """Whether the name says NIfTI."""
    return str(path).lower().endswith(NIFTI_SUFFIXES)


def find_inputs(path: str | os.PathLike[str]) -> list[Path]:
    """What `path` holds to be processed: itself if it is a DICOM series or a file, else its NIfTI files, sorted.

    Raises:
        BioAttError: it does not exist, is empty, or holds NIfTI and DICOM files together.
    """
    if not str(path):
        raise BioAttError("no input given; name a folder of DICOM files or a NIfTI file (--dataset_dir PATH)")
    place = Path(path)
    if not place.exists():
        raise BioAttError(f"input {place} does not exist; name a folder of DICOM files or a NIfTI file")
    if place.is_file():
        return [place]
    named = sorted(p for p in place.iterdir() if is_nifti(p) and not p.name.startswith("."))
    if broken := [p for p in named if p.is_symlink() and not p.exists()]:
        raise BioAttError(f"input {broken[0]} is a broken link; mend it, or take it out of the folder")
    niftis = [p for p in named if p.is_file()]
    if not niftis:
        return [place]
    if any(_is_dicom(p) for p in place.iterdir() if p not in niftis):
        raise BioAttError(f"input {place} holds NIfTI and DICOM files together; name one of them")
    return niftis


def _is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do (PS3.10 7.1)."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def load_volume(
    path: str | os.PathLike[str],
    *,
    series: str = "",
    assume_hu: bool = False,
    allow_gaps: bool = False,
    one_scan: bool = False,
    progress: bool = False,
    isolated: bool = False,
) -> Volume:
    """Read a DICOM series, a single DICOM file or a NIfTI file as HU.

    Args:
        path: folder or file.
        series: SeriesInstanceUID or SeriesNumber, where a folder holds several; see `select_series` for phases.
        assume_hu: take numbers as HU although they do not look like it, and DICOM's although RescaleType is US
            (unspecified) or rescale is missing.
        allow_gaps: go on where slices of a DICOM series are missing or their spacing changes.
        one_scan: take DICOM images of several studies or series as one scan where they make one even stack.
        progress: show a bar on the terminal while slices are read.
        isolated: decode DICOM in a process of its own, see `read_volume_isolated`.

    Raises:
        BioAttError: see `scripts.dicom` and `read_nifti`.
    """
    if is_nifti(path):
        if series:
            raise BioAttError(f"--series chooses among DICOM series; {path} is a NIfTI file, leave it out")
        return read_nifti(path, assume_hu=assume_hu)
    chosen = select_series(path, series or None, allow_gaps=allow_gaps, assume_hu=assume_hu, one_scan=one_scan)
    with bar(len(chosen.files), "reading", progress) as advance:
        hu = (read_volume_isolated if isolated else read_volume)(chosen, lambda done, total: advance(1))
    if not assume_hu:
        check_hu(hu.transpose(2, 1, 0), path, is_offset=chosen.is_offset)
    return Volume(
        hu=hu.transpose(2, 1, 0),
        affine=np.asarray(chosen.affine, dtype=np.float64),
        source=Path(path),
        kind="dicom",
        series_instance_uid=chosen.series_instance_uid,
        selector=chosen.selector,
        one_scan=chosen.one_scan,
        sop_instance_uids=chosen.slice_names,
        files=tuple(str(file) for file in chosen.files),
    )


def read_nifti(path: str | os.PathLike[str], *, assume_hu: bool = False) -> Volume:
    """Read a 3-D NIfTI file (or 2-D: one slice) of HU; `write_nifti` is the way back.

    Raises:
        BioAttError: unreadable, not numeric, not 3-D, or not in HU.
    """
    image = _open_nifti(path)
    shape, others = _checked_shape(image, path), (0,) * (len(image.shape) - 3)  # further axes have length 1
    _check_size(image, shape, Path(path))
    try:
        hu = np.empty(shape, np.float32, order="F")
        for i in range(hu.shape[-1]):  # slice by slice: the stored numbers would stand in memory beside these
            hu[..., i] = image.dataobj[(slice(None), slice(None), i, *others)[: len(image.shape)]]
    except Exception as error:
        raise BioAttError(f"{path} cannot be decoded ({error}); copy or export it again") from error
    if not assume_hu:
        check_hu(hu, path)
    return Volume(hu=hu, affine=_checked_affine(image, path), source=Path(path), kind="nifti")


def nifti_geometry(path: str | os.PathLike[str]) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine (4x4, index to RAS in mm) of a NIfTI file, by its header alone.

    Raises:
        BioAttError: unreadable, not numeric, not 3-D, or without geometry.
    """
    image = _open_nifti(path)
    return _checked_shape(image, path), _checked_affine(image, path)


def write_nifti(source: str | os.PathLike[str], hu: np.ndarray, target: str | os.PathLike[str]) -> int:
    """Write `hu` (X, Y, Z) to `target` as `source` is stored: its header, affine, data type, slope and intercept.

    Returns:
        How many voxels had to be clipped to the data type.
    """
    from nibabel.openers import ImageOpener

    image = _open_nifti(source)
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


def _open_nifti(path: str | os.PathLike[str]):
    import nibabel

    if not Path(path).is_file():
        raise BioAttError(f"input {path} does not exist; name a NIfTI file")
    try:
        return nibabel.load(path, mmap=False, keep_file_open=True)  # so that slices can be read one after another
    except Exception as error:
        raise BioAttError(f"{path} is no readable NIfTI file ({error}); copy or export it again") from error


def _checked_shape(image, path: str | os.PathLike[str]) -> tuple[int, int, int]:  # noqa: ANN001 (nibabel has no types)
    """The three axes, if the file holds one volume (or one slice) of numbers."""
    if image.get_data_dtype().kind not in "iuf":
        raise BioAttError(f"{path} holds {image.get_data_dtype()} values, wanted numbers in HU; export it as HU")
    shape = image.shape[:3] if len(image.shape) > 3 and set(image.shape[3:]) == {1} else image.shape
    if len(shape) not in (2, 3) or 0 in shape:
        raise BioAttError(f"{path} has shape {image.shape}, wanted one 3-D volume; split it into volumes")
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


def _checked_affine(image, path: str | os.PathLike[str]) -> np.ndarray:  # noqa: ANN001 (nibabel has no types)
    """The affine, if the file says where its voxels lie: without it no slice is known to be axial."""
    from nibabel.nifti1 import Nifti1Pair

    affine = np.asarray(image.affine, dtype=np.float64)
    voxel_mm3 = float(np.prod(np.linalg.norm(affine[:3, :3], axis=0)))  # a share of it: voxels may be micrometres
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * voxel_mm3:
        raise BioAttError(f"{path} has no usable affine (it is singular or not finite); export it with its geometry")
    if isinstance(image, Nifti1Pair) and not (image.header["qform_code"] or image.header["sform_code"]):
        raise BioAttError(f"{path} has no geometry (qform_code and sform_code are 0); export it with its orientation")
    return affine
