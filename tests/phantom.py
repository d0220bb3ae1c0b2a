"""Synthetic, seeded CT series on disk, of any geometry and encoding: a body whose HU are known, with full headers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from scripts.dicom.padding import stored_range
from scripts.dicom.phantom import body_hu

#: Directions of growing column and row index as scanners write them, by PatientPosition.
ORIENTATIONS = {
    "HFS": (1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
}


def write_ct_series(
    folder: str | Path,
    *,
    shape: tuple[int, int] = (48, 64),
    slices: int = 4,
    spacing: tuple[float, float] = (6.0, 5.0),
    slice_spacing: float = 3.0,
    patient_position: str = "HFS",
    orientation: Sequence[float] | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
    noise_sd: float = 10.0,
    slope: float = 1.0,
    intercept: float = -1024.0,
    signed: bool = False,
    bits_stored: int = 16,
    padding: int | None = None,
    reversed_order: bool = False,
    seed: int = 0,
    name: str = "{:04d}.dcm",
    degrade: Callable[[np.ndarray, int], np.ndarray] | None = None,
    modify: Callable[[Dataset, int], None] | None = None,
) -> Path:
    """Write a CT series of the body and return `folder`.

    The body lies about the origin of the patient's coordinates, so that geometry can be told from the pixels.

    Args:
        folder: made if it is not there.
        shape: (rows, columns).
        spacing: mm between (rows, columns), as in PixelSpacing.
        slice_spacing: mm along the normal.
        patient_position: HFS, HFP, FFS or FFP; sets `orientation` where that is None.
        orientation: ImageOrientationPatient.
        transfer_syntax: UID; compressed ones need an encoder of pydicom.
        noise_sd: of the noise, in HU.
        signed: PixelRepresentation 1.
        bits_stored: of 16 allocated.
        padding: stored value outside the round field of view, named in PixelPaddingValue.
        reversed_order: file names and InstanceNumber run against the normal.
        name: pattern of the file names, for the file's number from 1.
        degrade: makes the image (rows, columns) in HU of slice i from the body's, in place of `noise_sd`.
        modify: called with (dataset, slice index along the normal) before a file is written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    axes = np.array(ORIENTATIONS[patient_position] if orientation is None else orientation, dtype=float).reshape(2, 3)
    normal = np.cross(*axes)
    normal *= np.sign(normal[np.abs(normal).argmax()])
    steps = np.stack([axes[1] * spacing[0], axes[0] * spacing[1]])  # of row and column index
    corner = -(np.array(shape) - 1) / 2 @ steps
    for i in range(slices):
        position = corner + normal * slice_spacing * (i - (slices - 1) / 2)
        number = slices - i if reversed_order else i + 1
        dataset = _header(seed, i, number, slice_spacing)
        dataset.PatientPosition = patient_position
        dataset.ImageOrientationPatient = [round(float(cosine), 8) for cosine in axes.reshape(-1)]
        dataset.ImagePositionPatient = [round(float(mm), 6) for mm in position]
        dataset.SliceLocation = round(float(position @ normal), 6)
        dataset.PixelSpacing = list(spacing)
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        indices = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), -1)
        points = position + indices @ steps
        hu = body_hu(points, radius=0.42 * min(shape[0] * spacing[0], shape[1] * spacing[1]))
        if degrade is None:
            hu += np.random.default_rng([seed, i]).normal(0.0, noise_sd, shape)
        else:
            hu = degrade(hu, i)
        stored = np.rint((hu - intercept) / slope).clip(*stored_range(bits_stored, signed)).astype(np.int32)
        if padding is not None:
            away = np.linalg.norm((indices - (np.array(shape) - 1) / 2) / np.array(shape), axis=-1)
            stored[away > 0.5] = padding
            dataset.add_new("PixelPaddingValue", "SS" if signed else "US", padding)
        _set_pixels(dataset, stored, signed, bits_stored, UID(transfer_syntax))
        if modify is not None:
            modify(dataset, i)
        _save(dataset, folder / name.format(number), UID(transfer_syntax))
    return folder


def _header(seed: int, i: int, number: int, slice_spacing: float) -> Dataset:
    """Modules of the CT Image IOD (PS3.3 A.3.3) but for geometry and pixels."""
    dataset = Dataset()
    values = {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": generate_uid(entropy_srcs=[f"instance {seed} {i}"]),
        **dict.fromkeys(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"), "20200102"),
        "StudyTime": "101112",
        "SeriesTime": "101113",
        "AcquisitionTime": "101114",
        "ContentTime": "101115",
        "AccessionNumber": "A1",
        "Modality": "CT",
        "Manufacturer": "Phantom maker",
        "ReferringPhysicianName": "Reférent^Doktor",
        "StudyDescription": "Study of a phantom",
        "SeriesDescription": f"Body {seed}",
        "ManufacturerModelName": "Phantom scanner",
        "PatientName": "Phäntom^Body",
        "PatientID": "SECRET-ID-7",
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
        "BodyPartExamined": "CHEST",
        "SliceThickness": slice_spacing,
        "KVP": "120",
        "SoftwareVersions": "1.0",
        "ConvolutionKernel": "B30",
        "StudyInstanceUID": generate_uid(entropy_srcs=["study"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[f"series {seed}"]),
        "StudyID": "1",
        "SeriesNumber": 3,
        "AcquisitionNumber": 1,
        "InstanceNumber": number,
        "FrameOfReferenceUID": generate_uid(entropy_srcs=["frame of reference"]),
        "PositionReferenceIndicator": "",
        "WindowCenter": "40",
        "WindowWidth": "400",
        "RescaleType": "HU",
    }
    for keyword, content in values.items():
        setattr(dataset, keyword, content)
    return dataset


def _set_pixels(dataset: Dataset, stored: np.ndarray, signed: bool, bits_stored: int, syntax: UID) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits_stored, bits_stored - 1
    dataset.PixelRepresentation = int(signed)
    order = "<" if syntax.is_compressed or syntax.is_little_endian else ">"
    pixels = stored.astype(f"{order}{'i' if signed else 'u'}2")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if not syntax.is_compressed:
        dataset.add_new("PixelData", "OW", pixels.tobytes())
        return
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.compress(syntax, pixels, generate_instance_uid=False)


def _save(dataset: Dataset, file: Path, syntax: UID) -> None:
    dataset.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
