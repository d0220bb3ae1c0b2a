"""Layouts of data sets on disk: where each patient's full and low dose lie, told from folder and file names alone.

A layout is one function here, drawn in its docstring. It takes the root and those of its subfolders that no earlier
layout knew, and returns an `Entry` for each study it knows; `LAYOUTS` names them in order.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BioAttError
from ..volumes.formats import format_of, suffix_of

PARTS = ("train", "validate", "test")
#: Low doses of both data sets are the full dose's projections with noise added: of Mayo 2016 a quarter of the dose; of
#: TCIA's by the patient's letter (neuro, liver, chest), Moen et al., Med Phys 48 (2021) 902.
MAYO_DOSE, TCIA_DOSES = 0.25, {"N": 0.25, "L": 0.25, "C": 0.1}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where one study lies, by a layout; nothing of it is read yet.

    Args:
        patient: name of the patient's folder or file; results never show it.
        full: DICOM folder or NIfTI file of the full dose; None where a low dose stands alone.
        low: the same of the low dose; None where it is to be simulated.
        variant: which of a patient's reconstructions, e.g. ``3mm``.
        part: ``train``, ``validate`` or ``test`` where the data set has its own split.
        dose_fraction: of a low dose that was made by adding noise to the full one, where the data set says so.
    """

    patient: str
    layout: str
    full: Path | None
    low: Path | None = None
    variant: str = ""
    part: str = ""
    dose_fraction: float | None = None

    @property
    def title(self) -> str:
        """Layout and variant, in words."""
        return f"{self.layout} {self.variant}".strip()


def mayo_2016(root: Path, folders: list[Path]) -> list[Entry]:
    """Low Dose CT Grand Challenge (AAPM, Mayo Clinic, 2016): a folder a dose, in a folder a patient.

    ::

        root/L067/quarter_1mm/*.IMA     full_1mm, quarter_3mm, full_3mm the same; _sharp is the D45 kernel
        root/L067/full_1mm/*.IMA

        root/quarter_1mm/L067/quarter_1mm/*.IMA     or as its archives unpack, at any depth
        root/full_1mm/L067/full_1mm/*.IMA
    """
    doses = _by_dose(
        ((folder.parent.name, named[2].lower()), named[1].lower(), folder)
        for folder, named in _walk(folders, r"(quarter|full)_(\d+mm(?:_[a-z]+)?)")
        if any(one.is_file() for one in folder.iterdir())
    )
    return [
        Entry(
            patient=patient,
            layout="Mayo 2016",
            full=of.get("full"),
            low=of.get("quarter"),
            variant=variant,
            dose_fraction=MAYO_DOSE,
        )
        for (patient, variant), of in doses.items()
    ]


def tcia_ldct(root: Path, folders: list[Path]) -> list[Entry]:
    """LDCT-and-Projection-data of The Cancer Imaging Archive, as the NBIA Data Retriever names its folders.

    ::

        root/[manifest-*/][LDCT-and-Projection-data/]
          L123/                                       a patient
            08-23-2018-75696/                         date and number of a study
              1.000000-Low Dose Images-07574/*.dcm
              1.000000-Full dose images-67226/*.dcm
              1.000000-Low Dose Projections-.../      projections are no images and are passed over

    Doses of one study belong together; so do the only low and the only full dose of a patient.
    """
    found = _by_dose(
        ((folder.parent.parent.name, folder.parent.name), named[1].lower(), folder)
        for folder, named in _walk(folders, r"[\d.]+-(low|full) dose images-\w+")
    )
    patients: dict[str, dict[str, dict[str, Path]]] = {}
    for (patient, study), doses in found.items():
        patients.setdefault(patient, {})[study] = doses
    return [
        Entry(
            patient=patient,
            layout="TCIA LDCT",
            full=doses.get("full"),
            low=doses.get("low"),
            variant=study,
            dose_fraction=TCIA_DOSES.get(patient[:1].upper()) if re.fullmatch(r"[A-Za-z]\d+", patient) else None,
        )
        for patient, studies in patients.items()
        for study, doses in _only_pair(studies).items()
    ]


def _only_pair(studies: dict[str, dict[str, Path]]) -> dict[str, dict[str, Path]]:
    """One study where a patient's two doses were filed as two; what the studies are called says dates, so a number."""
    found = sorted(dose for doses in studies.values() for dose in doses)
    if found == ["full", "low"]:
        return {"": {dose: folder for doses in studies.values() for dose, folder in doses.items()}}
    return {f"study {n}" if len(studies) > 1 else "": doses for n, (_, doses) in enumerate(sorted(studies.items()), 1)}


def nifti_pairs(root: Path, folders: list[Path]) -> list[Entry]:
    """Files of `formats`, e.g. NIfTI, one volume a dose. Without ``low`` the low dose is simulated.

    ::

        root/PATIENT/low.nii.gz       or      root/low/PATIENT.nii.gz
        root/PATIENT/full.nii.gz              root/full/PATIENT.nii.gz
    """
    pair = {"low", "full"}
    found = []
    for file in (file for folder in folders for file in sorted(folder.iterdir())):
        if format_of(file) is not None and not file.name.startswith("."):
            name, folder_name = file.name.removesuffix(suffix_of(file)), file.parent.name
            found.append((name, folder_name, file) if folder_name in pair else (folder_name, name, file))
    doses = _by_dose(one for one in found if one[1] in pair)
    return [
        Entry(patient=patient, layout="NIfTI", full=of.get("full"), low=of.get("low")) for patient, of in doses.items()
    ]


def full_dose(root: Path, folders: list[Path]) -> list[Entry]:
    """Full-dose DICOM series alone, one folder a patient, one or several series in it; the low dose is simulated.

    ::

        root/PATIENT_A/*.dcm
        root/PATIENT_B/anything/below/*.dcm
    """
    return [Entry(patient=folder.name, layout="full dose", full=folder) for folder in folders]


LAYOUTS: tuple[Callable[[Path, list[Path]], list[Entry]], ...] = (mayo_2016, tcia_ldct, nifti_pairs, full_dose)


def datalist(file: Path) -> list[Entry]:
    """A MONAI datalist (`monai.data.load_decathlon_datalist`): paths from the file's folder, lists as the split.

    ::

        {
          "training":   [{"image": "low/a.nii.gz", "label": "full/a.nii.gz", "patient": "A"}, ...],
          "validation": [{"label": "full/b"}, ...],      no image: the low dose is simulated
          "test":       [...]
        }

    ``label`` is the full dose, ``image`` the low dose, each a NIfTI file or a DICOM folder. Without ``patient`` each
    label is a patient of its own, named like its file.

    Raises:
        BioAttError: no JSON, no list of these names, or an item that names no path.
    """
    from monai.data import load_decathlon_datalist

    entries = []
    try:
        known = json.loads(file.read_text())
        for section, part in zip(("training", "validation", "test"), PARTS, strict=True):
            items = load_decathlon_datalist(file, True, section) if known.get(section) else ()
            for item, written in zip(items, known.get(section) or (), strict=True):
                own = dict(written) if isinstance(written, Mapping) else {}
                named = {**item, "patient": own.get("patient")}  # MONAI makes a path of the name of a file or folder
                entries.append(_datalist_entry(named, f"{file}: an item of {section}", part))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BioAttError(f"{file} is no MONAI datalist ({error}); see docs/data.md") from error
    if not entries:
        raise BioAttError(f"{file} lists nothing under training, validation or test; see docs/data.md")
    return entries


def find_entries(dataset_dir: str | os.PathLike[str] | Sequence[Mapping[str, Any]]) -> list[Entry]:
    """The studies of a folder, whatever its layout or mixture of layouts, or of a datalist; sorted by patient.

    Args:
        dataset_dir: a folder, a datalist's file, several of them in a list, or the items of a datalist with absolute
            paths.

    Raises:
        BioAttError: there is no such folder or datalist, or it has no subfolders.
    """
    if not isinstance(dataset_dir, (str, os.PathLike)) and all(isinstance(one, str) for one in dataset_dir):
        found = [entry for one in dataset_dir for entry in find_entries(one)]
        return sorted(found, key=lambda entry: (entry.patient, entry.variant))
    if not isinstance(dataset_dir, (str, os.PathLike)):
        return [_datalist_entry(item, "an item of the datalist") for item in dataset_dir]
    root = Path(dataset_dir).absolute()
    if str(dataset_dir) and root.is_file():
        return datalist(root)
    if not str(dataset_dir) or not root.is_dir():
        raise BioAttError(
            f"dataset_dir {dataset_dir} is not a folder; name one with a subfolder per patient, or a MONAI datalist"
        )
    folders = [place for place in sorted(root.iterdir()) if place.is_dir() and not place.name.startswith(".")]
    if not folders:
        raise BioAttError(f"dataset_dir {root} has no subfolders; put each patient's DICOM series into its own")
    entries: list[Entry] = []
    for layout in LAYOUTS:
        found = layout(root, folders)
        known = {place.relative_to(root).parts[0] for one in found for place in (one.full, one.low) if place}
        folders = [folder for folder in folders if folder.name not in known]
        entries += found
    return sorted(entries, key=lambda entry: (entry.patient, entry.variant))


def _datalist_entry(item: Mapping[str, Any], what: str, part: str = "") -> Entry:
    """What one item of a datalist names; see `datalist`."""
    full, low = item.get("label"), item.get("image")
    if not isinstance(full, str | None) or not isinstance(low, str | None) or not (full or low):
        raise BioAttError(f"{what} has no single path as label; name the full dose")
    return Entry(
        patient=str(item.get("patient") or Path(full or low).name.split(".nii")[0]),
        layout="datalist",
        full=Path(full) if full else None,
        low=Path(low) if low else None,
        part=part,
    )


def _walk(folders: list[Path], pattern: str) -> Iterator[tuple[Path, re.Match[str]]]:
    """Those of `folders` and all below them whose name fits, in a fixed order, hidden ones passed over."""
    for folder in folders:
        for parent, below, _ in os.walk(folder):
            below[:] = sorted(name for name in below if not name.startswith("."))
            if named := re.fullmatch(pattern, Path(parent).name, re.IGNORECASE):
                yield Path(parent), named


def _by_dose(found: Iterable[tuple[Any, str, Path]]) -> dict[Any, dict[str, Path]]:
    """Where each dose of a patient, or of a study or variant of theirs, lies.

    Raises:
        BioAttError: one of them is there twice.
    """
    doses: dict[Any, dict[str, Path]] = {}
    for key, dose, place in found:
        taken = doses.setdefault(key, {}).setdefault(dose, place)
        if taken != place:
            raise BioAttError(f"{taken} and {place} are the same dose of one patient or study; keep one of them")
    return doses
