"""Copy a header to Explicit VR Little Endian without reading its values, so that they stay bit for bit.

pydicom decodes and encodes every value again when it changes the encoding. That loses digits and odd character
sets, fails on invalid values, and leaves words of big endian sources (OW and the like) in the wrong order. Here
only the frame round a value changes: its VR is looked up, and its bytes are put in order.
"""

from __future__ import annotations

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import VR

#: Bytes to turn round in one number, by VR; values of all other VRs are bytes.
_WORD_BYTES = {
    **dict.fromkeys(("US", "SS", "OW", "AT"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OF", "OL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
_KNOWN_VRS = frozenset(VR)


def to_explicit_little_endian(dataset: Dataset, signed: bool, keep_private: bool = False) -> None:
    """Put every element of `dataset`, just read from a file, into Explicit VR Little Endian, in place.

    Group length elements are removed, and private ones unless asked for, in the items of sequences too.

    Args:
        dataset: elements must not have been looked at, else they no longer hold the bytes of the file.
        signed: whether elements that are "US or SS" are SS (PixelRepresentation).
        keep_private: keep private elements; those without a VR become UN (PS3.5 6.2.2).
    """
    for tag in list(dataset.keys()):
        if (tag.is_private and not keep_private) or tag.element == 0:
            del dataset[tag]
            continue
        element = dataset.get_item(tag)
        raw = isinstance(element, RawDataElement)
        unknown = element.VR in (None, "", "UN")  # a sequence may be written as UN (PS3.5 6.2.2)
        if raw and (_dictionary_vr(tag, signed) if unknown else element.VR) == "SQ":
            element, raw = dataset[tag], False
        if raw:
            dataset[tag] = _explicit(element, signed)
        elif element.VR == "SQ":
            for item in element.value:
                to_explicit_little_endian(item, signed, keep_private)
    character_set = dataset.original_character_set
    dataset.set_original_encoding(False, True, character_set)


def set_element(dataset: Dataset, keyword_or_tag: str | int, vr: str, value: object) -> None:
    """Put an element into `dataset`, in place of one that is there, whose bytes are not read."""
    element = DataElement(keyword_or_tag, vr, value)
    if element.tag in dataset:
        del dataset[element.tag]
    dataset[element.tag] = element


def new_item(**elements: object) -> Dataset:
    """A data set of these elements, by keyword, e.g. as an item of a sequence."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _explicit(element: RawDataElement, signed: bool) -> RawDataElement:
    vr = element.VR or _dictionary_vr(element.tag, signed)
    vr = vr if vr in _KNOWN_VRS else "UN"  # as a reader takes what it does not know (PS3.5 6.2.2)
    content = element.value or b""
    if not element.is_little_endian:
        width = _WORD_BYTES.get(vr, 1)
        content = np.frombuffer(content, np.uint8).reshape(-1, width)[:, ::-1].tobytes() if width > 1 else content
    if len(content) % 2:  # which no element may have (PS3.5 7.1.1)
        content += b"\0" if vr in ("UI", "OB", "UN") else b" "
    return element._replace(VR=vr, value=content, is_implicit_VR=False, is_little_endian=True)


def _dictionary_vr(tag: int, signed: bool) -> str:
    """VR of a public tag; where the standard leaves a choice, the one for these pixels; UN if it is unknown."""
    try:
        vr = dictionary_VR(tag)
    except KeyError:
        return "UN"
    if vr == "US or SS":
        return "SS" if signed else "US"
    return "OW" if " or " in vr else vr
