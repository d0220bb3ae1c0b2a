"""What a path without DICOM holds instead, and what to do about it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .archive import open_raw
from .folder import Listing, tell_losses

_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".iso")
_VOLUMES = {
    **dict.fromkeys((".mha", ".mhd"), "MetaImage"),
    **dict.fromkeys((".nrrd", ".nhdr"), "NRRD"),
    **dict.fromkeys((".hdr", ".img"), "Analyze or paired NIfTI"),
    **dict.fromkeys((".mgz", ".mgh"), "FreeSurfer"),
    ".mnc": "MINC",
    **dict.fromkeys((".npy", ".npz"), "NumPy"),
    **dict.fromkeys((".h5", ".hdf5"), "HDF5"),
    ".mat": "MATLAB",
    **dict.fromkeys((".vtk", ".vti"), "VTK"),
}
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
_CONVERT = "convert it to NIfTI in HU"
_BY_SIMPLEITK = f"{_CONVERT}, e.g. SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'ct.nii.gz')"
_BY_NIBABEL = f"{_CONVERT}, e.g. nibabel.save(nibabel.Nifti1Image.from_image(nibabel.load(FILE)), 'ct.nii.gz')"

#: How files begin whose names do not tell what they are.
_BEGINNINGS = {
    b"PK\x03\x04": "archive",
    b"\x1f\x8b": "archive",
    b"7z\xbc\xaf": "archive",
    b"Rar!": "archive",
    b"<!DOCTYPE": "web page",
    b"<!doctype": "web page",
    b"<html": "web page",
    b"<HTML": "web page",
    b"%PDF": "PDF document",
    b"\x89PNG": "picture",
    b"\xff\xd8\xff": "picture",
    b"version https://git-lfs": "file pointer",
    b"/annex/objects": "file pointer",
    b"--": "multipart answer",
}

#: Kinds in the order in which their remedy is given: words for several, and the remedy.
_REMEDIES = {
    "NIfTI file": "name one of them, or write them into a list for --cohort",
    "archive": "unpack it, and name the folder",
    **{f"{name} file": _CONVERT for name in dict.fromkeys(_VOLUMES.values())},
    **dict.fromkeys(("MetaImage file", "NRRD file"), "name the file itself"),
    **dict.fromkeys(("Analyze or paired NIfTI file", "MINC file"), _BY_SIMPLEITK),
    "FreeSurfer file": _BY_NIBABEL,
    "NumPy file": f"{_CONVERT}, or give bioatt.denoise the array and its spacing_mm",
    "DICOMDIR": "it lists images that are not here; copy the whole medium, and name the folder",
    "picture": "a picture holds no HU; export the series as DICOM",
    "web page": "that is what a server said in place of the file; fetch it again",
    "file pointer": "fetch the file itself (git lfs pull, git annex get)",
    "multipart answer": "a DICOMweb server wraps images so; take the parts out of it",
    "PDF document": "it holds no HU; export the series as DICOM",
}


def kind_of(name: str) -> str:
    """What a file is by its name, a key of the remedies; "" for anything else."""
    lower = name.lower()
    suffix = Path(lower).suffix
    if lower.endswith((".nii", ".nii.gz")):
        return "NIfTI file"
    if suffix in _ARCHIVES:
        return "archive"
    if suffix in _VOLUMES:
        return f"{_VOLUMES[suffix]} file"
    return "DICOMDIR" if lower == "dicomdir" else "picture" if suffix in _PICTURES else ""


def _begins_like(file: Path) -> str:
    """What a file is by its first bytes, a key of the remedies; "" for anything else."""
    with suppress(OSError), io.BufferedReader(open_raw(file)[0]) as stream:
        head = stream.read(512).lstrip()
        if head.startswith(b"--") and b"application/dicom" not in head:
            return ""
        return next((kind for beginning, kind in _BEGINNINGS.items() if head.startswith(beginning)), "")
    return ""


def instead_of_file(file: Path) -> str:
    """What a file is that is not DICOM, and the remedy; "" where neither its name nor its first bytes tell."""
    return _told(kind_of(file.name)) or by_first_bytes(file)


def by_first_bytes(file: Path) -> str:
    """The same, by its first bytes alone."""
    return _told(_begins_like(file))


def _told(kind: str) -> str:
    return f"is {'an' if kind[0] in 'aA' else 'a'} {kind}; {_REMEDIES[kind]}" if kind else ""


def instead_of_dicom(folder: Path, listing: Listing) -> str:
    """What lies in a folder or zip without DICOM, and the remedy."""
    kinds: dict[str, list[Path]] = {}
    for file in listing.files:
        kinds.setdefault(kind_of(file.name) or _begins_like(file), []).append(file)
    known = {kind: kinds[kind] for kind in _REMEDIES if kind in kinds}
    losses = f"; {tell_losses(listing.losses)}" if listing.losses else ""
    if set(known) == {"DICOMDIR"}:
        return f"a DICOMDIR and no image; {_REMEDIES['DICOMDIR']}{losses}"
    if known:
        what = ", ".join(_count(files, kind, folder) for kind, files in known.items())
        remedy = next(_REMEDIES[kind] for kind in known) if folder.is_dir() else "unpack it, and name what you want"
        return f"no DICOM in {len(listing.files)} files, but {what}; {remedy}{losses}"
    if listing.files:
        return f"no DICOM in {len(listing.files)} files{losses}; name a folder with a CT series"
    hidden = f", but {listing.hidden} hidden ones, which are passed over" if listing.hidden else ""
    return f"no files{hidden}{losses}; name a folder with a CT series"


def _count(files: Sequence[Path], kind: str, folder: Path) -> str:
    first = files[0].relative_to(folder)
    where = " in subfolders" if all(file.parent != folder for file in files) else ""
    return f"1 {kind}{where} ({first})" if len(files) == 1 else f"{len(files)} {kind}s{where} ({first} and so on)"
