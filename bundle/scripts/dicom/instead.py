"""What a path without DICOM holds instead, and what to do about it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .archive import open_raw
from .folder import Listing, tell_losses

_CONVERT = "convert it to NIfTI in HU"
_BY_SIMPLEITK = f"{_CONVERT}, e.g. SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'ct.nii.gz')"
_BY_NIBABEL = f"{_CONVERT}, e.g. nibabel.save(nibabel.Nifti1Image.from_image(nibabel.load(FILE)), 'ct.nii.gz')"


class _Kind(NamedTuple):
    """What to do about files of a kind, how their names end, and how the files begin whose names do not tell."""

    remedy: str
    endings: str = ""
    beginnings: tuple[bytes, ...] = ()


#: In the order in which their remedy is given where there are several.
_KINDS = {
    "NIfTI file": _Kind("name one of them, or write them into a list for --cohort", ".nii .nii.gz"),
    "archive": _Kind(
        "unpack it, and name the folder",
        ".zip .7z .rar .tar .tgz .gz .bz2 .xz .zst .iso",
        (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!"),
    ),
    "MetaImage file": _Kind("name the file itself", ".mha .mhd"),
    "NRRD file": _Kind("name the file itself", ".nrrd .nhdr"),
    "Analyze or paired NIfTI file": _Kind(_BY_SIMPLEITK, ".hdr .img"),
    "FreeSurfer file": _Kind(_BY_NIBABEL, ".mgz .mgh"),
    "MINC file": _Kind(_BY_SIMPLEITK, ".mnc"),
    "NumPy file": _Kind(f"{_CONVERT}, or give bioatt.denoise the array and its spacing_mm", ".npy .npz"),
    "HDF5 file": _Kind(_CONVERT, ".h5 .hdf5"),
    "MATLAB file": _Kind(_CONVERT, ".mat"),
    "VTK file": _Kind(_CONVERT, ".vtk .vti"),
    "DICOMDIR": _Kind("it lists images that are not here; copy the whole medium, and name the folder", "dicomdir"),
    "picture": _Kind(
        "a picture holds no HU; export the series as DICOM",
        ".png .jpg .jpeg .bmp .tif .tiff .gif",
        (b"\x89PNG", b"\xff\xd8\xff"),
    ),
    "web page": _Kind(
        "that is what a server said in place of the file; fetch it again",
        beginnings=(b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML"),
    ),
    "file pointer": _Kind(
        "fetch the file itself (git lfs pull, git annex get)",
        beginnings=(b"version https://git-lfs", b"/annex/objects"),
    ),
    "multipart answer": _Kind("a DICOMweb server wraps images so; take the parts out of it", beginnings=(b"--",)),
    "PDF document": _Kind("it holds no HU; export the series as DICOM", beginnings=(b"%PDF",)),
}


def _named_like(name: str) -> str:
    """What a file is by its name, a key of `_KINDS`; "" for anything else."""
    return next((kind for kind, one in _KINDS.items() if name.lower().endswith(tuple(one.endings.split()))), "")


def _begins_like(file: Path) -> str:
    """What a file is by its first bytes, a key of `_KINDS`; "" for anything else."""
    with suppress(OSError), io.BufferedReader(open_raw(file)[0]) as stream:
        head = stream.read(512).lstrip()
        if head.startswith(b"--") and b"application/dicom" not in head:
            return ""
        return next((kind for kind, one in _KINDS.items() if head.startswith(one.beginnings)), "")
    return ""


def instead_of_file(file: Path) -> str:
    """What a file is that is not DICOM, and the remedy; "" where neither its name nor its first bytes tell."""
    return _told(_named_like(file.name)) or by_first_bytes(file)


def by_first_bytes(file: Path) -> str:
    """The same, by its first bytes alone."""
    return _told(_begins_like(file))


def _told(kind: str) -> str:
    return f"is {'an' if kind[0] in 'aA' else 'a'} {kind}; {_KINDS[kind].remedy}" if kind else ""


def instead_of_dicom(folder: Path, listing: Listing) -> str:
    """What lies in a folder or zip without DICOM, and the remedy."""
    kinds: dict[str, list[Path]] = {}
    for file in listing.files:
        kinds.setdefault(_named_like(file.name) or _begins_like(file), []).append(file)
    known = {kind: kinds[kind] for kind in _KINDS if kind in kinds}
    losses = f"; {tell_losses(listing.losses)}" if listing.losses else ""
    if set(known) == {"DICOMDIR"}:
        return f"a DICOMDIR and no image; {_KINDS['DICOMDIR'].remedy}{losses}"
    if known:
        what = ", ".join(_count(files, kind, folder) for kind, files in known.items())
        remedy = next(_KINDS[kind].remedy for kind in known) if folder.is_dir() else "unpack it, and name what you want"
        return f"no DICOM in {len(listing.files)} files, but {what}; {remedy}{losses}"
    if listing.files:
        return f"no DICOM in {len(listing.files)} files{losses}; name a folder with a CT series"
    hidden = f", but {listing.hidden} hidden ones, which are passed over" if listing.hidden else ""
    return f"no files{hidden}{losses}; name a folder with a CT series"


def _count(files: Sequence[Path], kind: str, folder: Path) -> str:
    first = files[0].relative_to(folder)
    where = " in subfolders" if all(file.parent != folder for file in files) else ""
    return f"1 {kind}{where} ({first})" if len(files) == 1 else f"{len(files)} {kind}s{where} ({first} and so on)"
