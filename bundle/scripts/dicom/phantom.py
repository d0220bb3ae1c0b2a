"""A synthetic, seeded CT series on disk, for the demo and the benchmark: a body whose HU are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from .headers import CT_IMAGE_STORAGE
from .transcode import new_item

HU = {"air": -1000.0, "lung": -850.0, "fat": -100.0, "soft": 40.0, "rib": 400.0, "spine": 700.0}
SLICE_MM, NOISE_SD_HU, INTERCEPT_HU = 3.0, 10.0, -1024.0


def body_hu(points: np.ndarray, radius: float) -> np.ndarray:
    """HU of the body at LPS `points` (..., 3) in mm; `radius` is its half width.

    An ellipse of fat with soft tissue inside, the spine at the back (+y), one rib on the left (+x), and lungs
    above z = 0: no mirror image of it is like it.
    """
    x, y, z = np.moveaxis(np.asarray(points, dtype=np.float64) / radius, -1, 0)
    hu = np.full(x.shape, HU["air"])
    hu[x**2 + (y / 0.7) ** 2 < 1] = HU["fat"]
    hu[(x / 0.9) ** 2 + (y / 0.6) ** 2 < 1] = HU["soft"]
    for side in (-0.45, 0.45):
        hu[(((x - side) / 0.28) ** 2 + ((y + 0.05) / 0.35) ** 2 < 1) & (z > 0)] = HU["lung"]
    hu[x**2 + (y - 0.42) ** 2 < 0.13**2] = HU["spine"]
    hu[(x - 0.8) ** 2 + y**2 < 0.07**2] = HU["rib"]
    return hu


def write_ct_series(
    folder: str | Path,
    *,
    shape: tuple[int, int] = (48, 64),
    slices: int = 4,
    spacing: tuple[float, float] = (6.0, 5.0),
    seed: int = 0,
    degrade: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> Path:
    """Write an axial CT series of the body, slices 3 mm apart, and return `folder`.

    Args:
        folder: made if it is not there.
        shape: (rows, columns).
        spacing: mm between (rows, columns), as in PixelSpacing.
        degrade: makes the image (rows, columns) in HU of slice i from the body's; white noise of 10 HU if not given.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    y, x = (mm * (np.arange(count) - (count - 1) / 2) for count, mm in zip(shape, spacing, strict=True))
    for i in range(slices):
        z = SLICE_MM * (i - (slices - 1) / 2)
        points = np.stack(np.broadcast_arrays(x, y[:, None], z), axis=-1)
        hu = body_hu(points, radius=0.42 * min(shape[0] * spacing[0], shape[1] * spacing[1]))
        noise = np.random.default_rng([seed, i]).normal(0.0, NOISE_SD_HU, shape)
        hu = hu + noise if degrade is None else degrade(hu, i)
        dataset = _header(seed, i)
        dataset.ImagePositionPatient = [round(float(mm), 6) for mm in points[0, 0]]
        dataset.PixelSpacing = list(spacing)
        stored = np.rint(hu - INTERCEPT_HU).clip(0, 2**16 - 1).astype(np.uint16)
        dataset.set_pixel_data(stored, "MONOCHROME2", 16, generate_instance_uid=False)
        dataset.save_as(folder / f"{i + 1:04d}.dcm", enforce_file_format=True)
    return folder


def _header(seed: int, i: int) -> Dataset:
    """Modules of the CT Image IOD (PS3.3 A.3.3) but for position and pixels."""
    empty = "AccessionNumber PatientBirthDate PatientSex PositionReferenceIndicator ReferringPhysicianName StudyID"
    values = {
        **dict.fromkeys(empty.split(), ""),
        **dict.fromkeys(("StudyDate", "ContentDate"), "20200102"),
        **dict.fromkeys(("StudyTime", "ContentTime"), "101112"),
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": CT_IMAGE_STORAGE,
        "SOPInstanceUID": generate_uid(entropy_srcs=[f"instance {seed} {i}"]),
        "StudyInstanceUID": generate_uid(entropy_srcs=["study"]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[f"series {seed}"]),
        "FrameOfReferenceUID": generate_uid(entropy_srcs=["frame of reference"]),
        "Modality": "CT",
        "Manufacturer": "Phantom maker",
        "ManufacturerModelName": "Phantom scanner",
        "SeriesDescription": f"Body {seed}",
        "PatientName": "Phantom^Body",
        "PatientID": "PHANTOM",
        "PatientPosition": "HFS",
        "BodyPartExamined": "CHEST",
        "KVP": "120",
        "ConvolutionKernel": "B30",
        "SeriesNumber": 3,
        "AcquisitionNumber": 1,
        "InstanceNumber": i + 1,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SliceThickness": SLICE_MM,
        "WindowCenter": "40",
        "WindowWidth": "400",
        "RescaleIntercept": INTERCEPT_HU,
        "RescaleSlope": 1,
        "RescaleType": "HU",
    }
    return new_item(**values)
