"""Open DICOM files and take checked values from their headers; the floor of this room."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from ..errors import BioAttError

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = {"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"}


def open_dicom(file: Path, **kwargs: Any) -> Dataset | None:
    """Read `file` with pydicom; None if it is not DICOM (no ``DICM`` prefix).

    Args:
        file: the file.
        **kwargs: for `pydicom.dcmread`, e.g. ``stop_before_pixels=True``.

    Raises:
        BioAttError: the file cannot be opened, or is DICOM but damaged.
    """
    try:
        with quiet_pydicom():
            return pydicom.dcmread(file, **kwargs)
    except InvalidDicomError:
        return None
    except OSError as error:
        reason = error.strerror or "the file ends too early"
        raise BioAttError(f"{file} cannot be read: {reason}; check the file and its permissions") from error
    except Exception as error:  # pydicom raises many kinds of errors on damaged files
        raise BioAttError(
            f"{file} is DICOM but damaged: {one_line(error)}; copy it again, or take it out of the folder"
        ) from error


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep back pydicom's own warnings and tracebacks, which may hold values; ours are one line."""
    pydicom_logger = logging.getLogger("pydicom")
    level = pydicom_logger.level
    pydicom_logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        pydicom_logger.setLevel(level)


def value(dataset: Dataset, keyword: str, where: object) -> Any:
    """Value of the element `keyword`, None where it is missing or empty.

    Raises:
        BioAttError: the value cannot be read as what its value representation promises.
    """
    try:
        with quiet_pydicom():
            found = dataset.get(keyword)
    except Exception as error:  # a DS that is no number, a US of three bytes, an unknown character set, ...
        raise BioAttError(f"{where}: {keyword} is not valid DICOM ({type(error).__name__}); repair the file") from error
    return None if found is None or (hasattr(found, "__len__") and len(found) == 0) else found


def text(dataset: Dataset, keyword: str, where: object) -> str:
    """Value of the element `keyword` as text, several values joined by backslashes, "" where there is none."""
    found = value(dataset, keyword, where)
    if found is None:
        return ""
    several = not isinstance(found, str) and hasattr(found, "__iter__")
    return "\\".join(map(str, found)) if several else str(found).strip()


def label(dataset: Dataset, keyword: str, where: object) -> str:
    """`text` of an element that nothing depends on: "" where it cannot be read."""
    try:
        return text(dataset, keyword, where)
    except BioAttError:
        return ""


def numbers(dataset: Dataset, keyword: str, count: int, where: object) -> np.ndarray:
    """The `count` finite numbers of the element `keyword`, as float64 `(count,)`.

    Raises:
        BioAttError: the element is missing, empty, or holds anything else.
    """
    found = value(dataset, keyword, where)
    wanted = "a number" if count == 1 else f"{count} numbers"
    if found is None:
        raise BioAttError(f"{where}: {keyword} is missing, wanted {wanted}; export the series again with this element")
    try:
        array = np.array(found, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.size != count or not np.all(np.isfinite(array)):
        raise BioAttError(f"{where}: {keyword} is {found}, wanted {wanted}; repair or leave out the file")
    return array


def whole_number(dataset: Dataset, keyword: str, where: object, smallest: int = 0) -> int:
    """The one whole number of the element `keyword`, at least `smallest`."""
    number = float(numbers(dataset, keyword, 1, where)[0])
    if number != math.floor(number) or number < smallest:
        raise BioAttError(f"{where}: {keyword} is {number:g}, wanted a whole number from {smallest}; repair the file")
    return int(number)


def rescale(dataset: Dataset, where: object) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept: HU = stored * slope + intercept (PS3.3 C.11.1.1.2).

    Raises:
        BioAttError: one of them is missing or the slope is zero.
    """
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if value(dataset, keyword, where) is None:
            raise BioAttError(
                f"{where}: {keyword} is missing, so stored values cannot be turned into HU; "
                "use the series as the scanner exported it"
            )
    slope = float(numbers(dataset, "RescaleSlope", 1, where)[0])
    if slope == 0.0:
        raise BioAttError(f"{where}: RescaleSlope is 0, wanted HU per stored value; repair the file")
    return slope, float(numbers(dataset, "RescaleIntercept", 1, where)[0])


def check_hu_image(dataset: Dataset, where: object) -> None:
    """Raise unless the header describes one grey image whose stored values can be turned into HU.

    MONOCHROME1 is let pass: it turns the display round, not the stored values (PS3.3 C.7.6.3.1.2).

    Raises:
        BioAttError: colour, several frames, a unit other than HU, or missing rescale.
    """
    sop_class = text(dataset, "SOPClassUID", where)
    frames = value(dataset, "NumberOfFrames", where)
    if sop_class in ENHANCED_CT or (frames is not None and whole_number(dataset, "NumberOfFrames", where) != 1):
        raise BioAttError(
            f"{where}: Enhanced or multi-frame CT (NumberOfFrames {frames}) is not supported yet; "
            "convert it to single-frame CT Image Storage"
        )
    if (samples := whole_number(dataset, "SamplesPerPixel", where)) != 1:
        raise BioAttError(f"{where}: SamplesPerPixel is {samples}, wanted 1 (grey CT, not colour); leave the file out")
    photometric = text(dataset, "PhotometricInterpretation", where)
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise BioAttError(
            f"{where}: PhotometricInterpretation is {photometric or 'missing'}, wanted MONOCHROME2; leave the file out"
        )
    unit = text(dataset, "RescaleType", where)
    if unit.upper() not in ("", "HU", "US"):
        raise BioAttError(f"{where}: RescaleType is {unit}, wanted HU; choose a series in Hounsfield units")
    rescale(dataset, where)


def one_line(error: BaseException, limit: int = 200) -> str:
    """Message of `error` on one line of at most `limit` characters."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= limit else message[: limit - 3] + "..."
