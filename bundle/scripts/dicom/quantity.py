"""What the stored values of a CT image stand for: Hounsfield units, or a map of something else, which is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydicom.dataset import Dataset

from ..errors import BioAttError
from .headers import items, rescale, text, value, whole_number

#: Values of ImageType (of FrameType in an enhanced image) of maps that are not HU, or no longer HU of what was
#: scanned, whatever RescaleType says: multi-energy families (PS3.3 C.8.2.1.1.1; a virtual monoenergetic image is HU),
#: results of calculations (C.8.16.1.4), and what vendors call their perfusion maps.
_NOT_HU = set(
    "MAT_SPECIFIC MAT_REMOVED MAT_FRACTIONAL MAT_VALUE_BASED MAT_MODIFIED EFF_ATOMIC_NUM ELECTRON_DENSITY "
    "DIVISION MULTIPLICATION SUBTRACTION STD_DEVIATION QUANTITY "
    "PERFUSION CBF CBV MTT TTP TTD TMAX PBV".split()
)
#: What no CT image has otherwise (PS3.3 C.8.2.1.1), with the VR: taken where it is missing. MONOCHROME1 means the same.
SAME_IN_ALL_CT = {"SamplesPerPixel": ("US", 1), "PhotometricInterpretation": ("CS", "MONOCHROME2")}
#: Codes (DCM) of DerivationCodeSequence whose result is not HU (PS3.16 CID 7203).
_NOT_HU_DERIVATIONS = {"113046": "pixel by pixel division", "129104": "perfusion image analysis"}
#: Code values of Hounsfield units in MeasurementUnitsCodeSequence: UCUM's, and what is written for it.
_UNSPECIFIED = {"US", "UNSPECIFIED"}
_SPELT_HU = {"HU", "HOUNSFIELD", "HOUNSFIELDUNIT", "HOUNSFIELDUNITS", "HOUNSFIELDUNITHU", "HOUNSFIELDUNITSHU", "HNSFU"}
_HU_UNITS = {"[hnsf'U]", "[HNSF'U]", "HU", "[HU]"}


def check_hu_image(dataset: Dataset, where: object) -> None:
    """Raise unless the header describes one grey image whose stored values can be turned into HU.

    MONOCHROME1 is let pass: it turns the display round, not the stored values (PS3.3 C.7.6.3.1.2). So is a
    RescaleType of US (unspecified): the series says whether it may be taken for HU. A map whose header says nothing
    but HU cannot be told from an image in HU.

    Args:
        dataset: a single-frame image, or one of `enhanced.frame_headers`.

    Raises:
        BioAttError: colour, a quantity other than HU, a Modality LUT, or a rescale that is none.
    """
    if value(dataset, "SamplesPerPixel", where) is not None:
        samples = whole_number(dataset, "SamplesPerPixel", where)
        if samples != 1:
            raise BioAttError(
                f"{where}: SamplesPerPixel is {samples}, expected 1 (grey CT, not colour); leave the file out"
            )
    photometric = text(dataset, "PhotometricInterpretation", where)
    if photometric.upper() not in ("MONOCHROME1", "MONOCHROME2", ""):
        raise BioAttError(
            f"{where}: PhotometricInterpretation is {photometric}, expected MONOCHROME2; leave the file out"
        )
    for keyword, what in _other_quantities(dataset, where):
        raise BioAttError(f"{where}: {keyword} says {what}, a map that is not in HU; choose a series of CT images")
    unit = rescale_type(dataset, where)
    if unit not in ("", "HU", "US"):
        raise BioAttError(f"{where}: RescaleType is {unit}, expected HU; choose a series in Hounsfield units")
    if items(dataset, "ModalityLUTSequence", where):
        raise BioAttError(
            f"{where}: stored values are turned into HU by a Modality LUT (ModalityLUTSequence), expected RescaleSlope "
            "and RescaleIntercept; export the series with them"
        )
    rescale(dataset, where)


def rescale_type(dataset: Dataset, where: object) -> str:
    """RescaleType in capitals; one value where several are equal or empty, HU and US where they are spelt out.

    Of HU, only the letters count: H.U., HOUNSFIELD UNITS (HU), [hnsf'U].
    """
    units = {unit.strip() for unit in text(dataset, "RescaleType", where).upper().split("\\")} - {""}
    units = {
        "HU" if re.sub("[^A-Z_]", "", unit) in _SPELT_HU else "US" if unit in _UNSPECIFIED else unit for unit in units
    }
    return "\\".join(sorted(units))


def _other_quantities(dataset: Dataset, where: object) -> Iterator[tuple[str, str]]:
    """Elements, besides RescaleType, that say that the image is not in HU, and what they say."""
    image_type = text(dataset, "ImageType", where).upper().split("\\")
    for word in sorted(_NOT_HU.intersection(image_type)):
        if word != "PERFUSION" or image_type[0] != "ORIGINAL":  # an original one was taken for perfusion (C.8.16.1.3)
            yield "ImageType", word
    for code in items(dataset, "DerivationCodeSequence", where):
        if text(code, "CodingSchemeDesignator", where) == "DCM":
            meaning = _NOT_HU_DERIVATIONS.get(text(code, "CodeValue", where))
            yield from [("DerivationCodeSequence", meaning)] if meaning else []
    units = [
        text(unit, "CodeValue", where)
        for mapping in items(dataset, "RealWorldValueMappingSequence", where)
        for unit in items(mapping, "MeasurementUnitsCodeSequence", where)
    ]
    if units and not _HU_UNITS.intersection(units):
        yield "RealWorldValueMappingSequence", units[0] or "no unit"
