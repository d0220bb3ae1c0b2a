"""Open DICOM files and take checked values from their headers; the floor of this room."""

from __future__ import annotations

import io
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import dictionary_has_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian

from ..errors import BioAttError
from .archive import MAX_INFLATED_BYTES, open_raw

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = {"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"}  # and Legacy Converted Enhanced CT

#: Whether `quiet_pydicom` is entered, in this thread.
_IS_QUIET: ContextVar[bool] = ContextVar("is_quiet", default=False)

_MAX_FIRST_LENGTH = 256  # of the first element of a file without the DICM prefix

#: Transfer syntaxes that lose detail, or may, with their LossyImageCompressionMethod (PS3.3 C.7.6.1.1.5.1).
#: JPEG-LS near-lossless and the general JPEG 2000 ones can be without loss; what they are cannot be told from
#: outside, and calling a lossless image lossy does less harm than the reverse.
LOSSY_METHODS = {
    **{f"1.2.840.10008.1.2.4.{n}": "ISO_10918_1" for n in (50, 51, 53, 55)},
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    **{f"1.2.840.10008.1.2.4.{n}": "ISO_15444_1" for n in (91, 93)},
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}


#: What is wrong with a file that ends too early.
CUT = "is cut short within its header"


class CutError(BioAttError):
    """A DICOM file that ends within an element of its header."""


def open_dicom(file: Path, **kwargs: Any) -> Dataset | None:
    """Read `file` with pydicom; None if it is not DICOM.

    Files without preamble and ``DICM`` prefix are read if they begin as a data set does (PS3.5 7.1) and have a
    SOPClassUID.

    Args:
        **kwargs: for `pydicom.dcmread`, e.g. ``stop_before_pixels=True``.

    Raises:
        BioAttError: the file cannot be opened, or is DICOM but damaged, or grows beyond 512 MiB when inflated.
        CutError: it ends within an element of its header.
    """
    has_prefix = True
    try:
        with quiet_pydicom(), _FileReader(file) as stream:
            head = stream.read(144)
            has_prefix = head[128:132] == b"DICM"
            if not has_prefix and not _begins_like_a_dataset(head):
                return None
            _check_byte_order(head, stream, file)
            stream.seek(0)
            dataset = pydicom.dcmread(stream, force=True, **kwargs)
            if not has_prefix and "SOPClassUID" not in dataset:
                return None
            _complete(dataset)
            return dataset
    except BioAttError:
        raise
    except OSError as error:
        reason = error.strerror or "the file ends too early"
        raise BioAttError(f"{file} cannot be read: {reason}; check the file and its permissions") from error
    except Exception as error:  # pydicom raises many kinds of errors on damaged files, some with values in their text
        if not has_prefix:
            return None
        if isinstance(error, struct.error | EOFError):  # the file ends where a length was to be read
            raise CutError(f"{file} {CUT}; copy it again, or take it out of the folder") from error
        raise BioAttError(
            f"{file} is DICOM but damaged ({type(error).__name__}); copy it again, or take it out of the folder"
        ) from error


def open_header(file: Path) -> Dataset:
    """What stands before the pixels of an image, the extended offset table left out.

    Raises:
        BioAttError: no DICOM file any more, or see `open_dicom`.
    """
    header = open_dicom(file, stop_before_pixels=True)
    if header is None:
        raise BioAttError(f"{file} is no longer a DICOM file: it changed while it was used; start again")
    for tag in [tag for tag in header.keys() if tag.group >= 0x7FE0]:
        del header[tag]
    return header


def _check_byte_order(head: bytes, stream: io.BufferedReader, file: Path) -> None:
    """Raise where the data set begins in the other byte order than the file meta group says: no element would be found.

    Args:
        head: the file's first 144 bytes, up to the length of the meta group (PS3.10 7.1).
        stream: behind them.
    """
    if head[128:138] != b"DICM\2\0\0\0UL":
        return
    (length,) = struct.unpack("<I", head[140:144])
    meta, first = stream.read(length), stream.read(2)
    is_big = ExplicitVRBigEndian.encode() in meta
    if len(meta) == length and first == (b"\x08\0" if is_big else b"\0\x08"):  # group 0008
        said, found = ("big", "little") if is_big else ("little", "big")
        raise BioAttError(
            f"{file}: TransferSyntaxUID says {said} endian, but the data set is {found} endian; export it again, or "
            "correct TransferSyntaxUID"
        )


def _complete(dataset: Dataset) -> None:
    """Take SOP class and instance from the file meta group where the data set lacks readable ones (PS3.10 7.1)."""
    meta = getattr(dataset, "file_meta", None) or Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID"):
        tag = Tag(keyword)
        element = dataset.get_item(tag) if tag in dataset else None  # not decoded: its bytes may be copied later
        is_there = element is not None and element.value and element.VR in (None, "UI", "UN")
        uid = meta.get(f"MediaStorage{keyword}")
        if not is_there and uid:
            dataset[tag] = DataElement(tag, "UI", uid)


class _FileReader(io.BufferedReader):
    """Reads a file for pydicom, within bounded memory.

    It never asks for more than the file holds: a length that lies would be allocated before it is missed. And
    pydicom reads all the rest at once only to inflate it (PS3.5 A.5): then its size is checked before.
    """

    def __init__(self, file: Path) -> None:
        raw, self._size = open_raw(file)
        super().__init__(raw)

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes, and at most what is left."""
        left = max(self._size - self.tell(), 0)
        if size is not None and size >= 0:
            return super().read(min(size, left))
        deflated = super().read(left)
        try:
            _check_inflated_size(deflated, self.name)
        except zlib.error as error:
            raise BioAttError(
                f"{self.name}: its deflated data set cannot be inflated: it is damaged, or TransferSyntaxUID is not "
                "true; copy or export it again"
            ) from error
        return deflated


def _check_inflated_size(deflated: bytes, file: object) -> None:
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while deflated and not inflate.eof:
        size += len(inflate.decompress(deflated, 1 << 20))
        deflated = inflate.unconsumed_tail
        if size > MAX_INFLATED_BYTES:
            raise BioAttError(
                f"{file} grows beyond {MAX_INFLATED_BYTES >> 20} MiB when it is inflated; convert it to Explicit VR "
                "Little Endian with a program you trust, or leave it out"
            )


def _begins_like_a_dataset(head: bytes) -> bool:
    """Whether the first element is a known one of group 0002 or 0008, in any of the three plain encodings."""
    if len(head) < 12:
        return False
    for order in "<>":
        group, element, length = struct.unpack_from(f"{order}HHI", head)
        if group not in (0x0002, 0x0008) or not dictionary_has_tag(group << 16 | element):
            continue
        is_explicit = head[4:6].isalpha() and head[4:6].isupper()
        return is_explicit or (order == "<" and length <= _MAX_FIRST_LENGTH)
    return False


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep back pydicom's own warnings and tracebacks, which may hold values; ours are one line.

    As a decorator of what reads many headers it also spares the time: entering it once is dear, within itself cheap.
    """
    if _IS_QUIET.get():  # a header has many values, and filters of warnings take as long as one of them
        yield
        return
    pydicom_logger = logging.getLogger("pydicom")
    # A level would do both, but setting one drops the caches of all loggers: on some series half the time of writing.
    before = pydicom_logger.disabled, pydicom_logger.propagate
    pydicom_logger.disabled, pydicom_logger.propagate = True, False  # itself, and the loggers below it
    token = _IS_QUIET.set(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _IS_QUIET.reset(token)
        pydicom_logger.disabled, pydicom_logger.propagate = before


def value(dataset: Dataset, keyword: str, where: object) -> Any:
    """Value of the element `keyword`, None where it is missing or empty.

    Raises:
        BioAttError: the value cannot be read as what its value representation promises.
    """
    tag = tag_for_keyword(keyword)  # an int: pydicom looks for a keyword many times as long
    if tag not in dataset:
        return None
    try:
        with quiet_pydicom():
            found = dataset[tag].value
    except Exception as error:  # a DS that is no number, a US of three bytes, an unknown character set, ...
        raise BioAttError(f"{where}: {keyword} is not valid DICOM ({type(error).__name__}); repair the file") from error
    return None if found is None or (hasattr(found, "__len__") and len(found) == 0) else found


def items(dataset: Dataset, keyword: str, where: object) -> list[Dataset]:
    """Items of the sequence `keyword`, none where it is missing or empty.

    Raises:
        BioAttError: it is no sequence.
    """
    found = value(dataset, keyword, where)
    if found is None or isinstance(found, Sequence):
        return list(found or [])
    raise BioAttError(f"{where}: {keyword} is not a sequence; repair the file")


def text(dataset: Dataset, keyword: str, where: object) -> str:
    """Value of the element `keyword` as text, several values joined by backslashes, "" where there is none."""
    found = _plain_value(dataset, keyword, where)
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
    found = _plain_value(dataset, keyword, where)
    wanted = "a number" if count == 1 else f"{count} numbers"
    if found is None:
        raise BioAttError(
            f"{where}: {keyword} is missing, expected {wanted}; export the series again with this element"
        )
    try:
        array = np.array(found, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.size != count or not np.all(np.isfinite(array)):
        raise BioAttError(f"{where}: {keyword} is {found}, expected {wanted}; repair or leave out the file")
    return array


def magnitude(dataset: Dataset, keyword: str, where: object) -> float | None:
    """The one number of the element `keyword` without its sign; None where it is missing, unreadable or 0."""
    try:
        return abs(float(numbers(dataset, keyword, 1, where)[0])) or None
    except BioAttError:
        return None


def _plain_value(dataset: Dataset, keyword: str, where: object) -> Any:
    """`value` of an element that is no sequence: the items of one could hold anybody's name."""
    found = value(dataset, keyword, where)
    if isinstance(found, Sequence):
        raise BioAttError(f"{where}: {keyword} is a sequence, expected a plain value; repair the file")
    return found


def whole_number(dataset: Dataset, keyword: str, where: object, smallest: int = 0) -> int:
    """The one whole number of the element `keyword`, at least `smallest`."""
    number = float(numbers(dataset, keyword, 1, where)[0])
    if number != math.floor(number) or number < smallest:
        raise BioAttError(f"{where}: {keyword} is {number:g}, expected a whole number from {smallest}; repair the file")
    return int(number)


def rescale(dataset: Dataset, where: object) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept: HU = stored * slope + intercept (PS3.3 C.11.1.1.2).

    A missing one counts as 1 or 0: a series that lacks one is refused, unless it was said that its values are HU
    (`lacks_rescale`). Several equal values, as some programs write them, count as one.

    Raises:
        BioAttError: one of them is no number, or the slope is zero.
    """
    slope = _rescale_value(dataset, "RescaleSlope", 1.0, where)
    intercept = _rescale_value(dataset, "RescaleIntercept", 0.0, where)
    if slope == 0.0:
        raise BioAttError(f"{where}: RescaleSlope is 0, expected HU per stored value; repair the file")
    return slope, intercept


def _rescale_value(dataset: Dataset, keyword: str, default: float, where: object) -> float:
    found = value(dataset, keyword, where)
    if found is None:
        return default
    count = len(found) if isinstance(found, MultiValue) else 1
    several = numbers(dataset, keyword, count, where)
    return float((several if np.all(several == several[0]) else numbers(dataset, keyword, 1, where))[0])


def lacks_rescale(dataset: Dataset, where: object) -> str:
    """Which of RescaleSlope and RescaleIntercept is missing, "" where none is."""
    return next((one for one in ("RescaleSlope", "RescaleIntercept") if value(dataset, one, where) is None), "")


def has_frames(dataset: Dataset) -> bool:
    """Whether an image may hold several frames: Enhanced CT, or CT Image Storage with NumberOfFrames above 1."""
    return is_enhanced(dataset) or label(dataset, "NumberOfFrames", "") not in ("", "0", "1")


def is_enhanced(dataset: Dataset) -> bool:
    """Whether the SOP class is one of the multi-frame CT ones."""
    return label(dataset, "SOPClassUID", "") in ENHANCED_CT


def is_lossy(dataset: Dataset, where: object) -> bool:
    """Whether detail was lost to compression, by LossyImageCompression or by the transfer syntax."""
    syntax = str(dataset.file_meta.get("TransferSyntaxUID"))
    return label(dataset, "LossyImageCompression", where) == "01" or syntax in LOSSY_METHODS


def one_line(error: BaseException, limit: int = 200) -> str:
    """Message of `error` on one line of at most `limit` characters."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= limit else message[: limit - 3] + "..."
