"""Write a processed series as a derived DICOM series beside its source: same study, same geometry, new UIDs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRLittleEndian

from ..errors import BioAttError
from ..ownership import check_replaceable
from ..provenance import Derivation
from ..staging import staged_folder
from .child import END
from .derived import describe
from .enhanced import frame_headers
from .headers import is_enhanced, label, lacks_rescale, open_header, quiet_pydicom, rescale, whole_number
from .padding import is_signed, padding_limits, padding_mask, stored_range
from .processes import FileProcesses
from .quantity import SAME_IN_ALL_CT
from .rules import DerivedRules, Run
from .series import Series
from .transcode import new_item, set_element, to_explicit_little_endian

logger = logging.getLogger(__name__)


@quiet_pydicom()
def write_derived_series(
    series: Series,
    volume_hu: np.ndarray,
    output_dir: str | os.PathLike[str],
    provenance: Derivation,
    *,
    rules: DerivedRules | None = None,
    overwrite: bool = False,
    processes: FileProcesses | None = None,
    progress: Callable[[int], object] | None = None,
    complete: Callable[[], None] | None = None,
) -> None:
    """Write `volume_hu` as a series derived from `series`: one Explicit VR Little Endian file for each of its files.

    Every element of the source is kept bit for bit, but for private ones and those that are not true of the
    derived image (module `derived` lists them). The source's rescale is kept if its slope is at most 1 HU and it
    has 16 bits, else values are stored as signed 16-bit HU. They are rounded to the nearest, and clipped to what
    the bits hold; the log counts both. Padding pixels keep the source's value. An Enhanced CT image becomes one of the
    same class (docs/adr/0006). Besides the volume, one file at a time is in memory.

    Args:
        series: the source, from `find_series` or `select_series`.
        volume_hu: HU `(slices, rows, columns)`, in the order of `series.files`.
        output_dir: folder for the files 0001.dcm, 0002.dcm, ... and nothing else; it appears when all are written.
        rules: how the series is named and what it keeps; None for the defaults.
        overwrite: replace `output_dir` whole if it exists and holds nothing but results of BioAtt.
        processes: many files are written by these; if they are isolated, the source's padding is decoded in one of
            them in any case. The files are the same, but for the time.
        progress: called with the number of slices just done.
        complete: called when all is written, before the folder appears; if it raises, the folder does not.

    Raises:
        BioAttError: the volume does not fit the series or is not finite, the folder exists or holds the source,
            or a source slice can no longer be read.
    """
    _check_pydicom()
    if tuple(volume_hu.shape) != series.shape:
        raise BioAttError(
            f"series {series.series_instance_uid} is (slices, rows, columns) {series.shape}, the volume to write "
            f"{tuple(volume_hu.shape)}; give the volume in the order of read_volume"
        )
    folder = Path(output_dir)
    _check_apart(series, folder)
    if overwrite:
        check_replaceable(folder)
    rules, sources = rules or DerivedRules(), series.by_file()
    if rules.stable_uids:
        check_stable_uids(series)
    values = _all_stored(sources, volume_hu) if rules.stable_uids else None
    run = Run.start(provenance, rules, series.series_instance_uid, values)
    unified = _unified(series, run)
    digits = max(4, len(str(len(sources))))
    clipped = rescaled = 0
    with staged_folder(folder, overwrite) as staging:

        def requests() -> Iterator[tuple[Path, tuple[Any, ...]]]:
            for number, (file, slices) in enumerate(sources.items(), 1):
                frames_hu = {i: volume_hu[slices[i]] for i in sorted(slices)}
                yield file, (file, frames_hu, staging / f"{number:0{digits}d}.dcm", run, unified)

        for file, (more_clipped, kept) in _written(requests(), len(sources), processes or FileProcesses()):
            clipped += more_clipped
            rescaled += 0 if kept else len(sources[file])
            if progress is not None:
                progress(len(sources[file]))
        if clipped:
            logger.warning("%s: %d pixels were clipped to what the stored bits hold", folder, clipped)
        if rescaled:
            logger.warning(
                "%s: %d slices stored as signed 16-bit HU, their own rescale is too coarse", folder, rescaled
            )
        if complete is not None:
            complete()


def check_stable_uids(series: Series) -> None:
    """Raise unless each slice has a SOPInstanceUID of its own, of which that of its result can be made."""
    if "" in series.sop_instance_uids:
        raise BioAttError(
            f"series {series.series_instance_uid}: stable UIDs are made of SOPInstanceUIDs, which are missing here or "
            "shared by slices; leave out --stable-uids"
        )


def _check_pydicom() -> None:
    if int(pydicom.__version__.split(".")[0]) < 3:
        raise BioAttError(
            f"writing DICOM needs pydicom 3, found {pydicom.__version__}; python -m pip install 'pydicom>=3'"
        )


def _check_apart(series: Series, folder: Path) -> None:
    """Raise if replacing `folder` would delete the source."""
    target = folder.resolve()
    for file in series.files:
        if target in file.resolve().parents:
            raise BioAttError(f"output folder {folder} holds the source {file}; name another folder")


def _written(
    requests: Iterable[tuple[Path, tuple[Any, ...]]], files: int, processes: FileProcesses
) -> Iterator[tuple[Path, tuple[int, bool]]]:
    """Each file with what `write_file` returns for it, as they are written."""
    if processes.count(files) > 1:
        yield from ((file, json.loads(done)) for file, _, done in processes.each("written", requests, files))
        return
    with processes:
        for file, given in requests:
            yield file, write_file(*given, processes)


def _stored(file: Path, shape: tuple[int, int], processes: FileProcesses) -> Iterator[np.ndarray]:
    """Stored values of each frame of `file`, of `shape` (rows, columns)."""
    for _, index, payload in processes.each("stored", [(file, file)], 1):
        if index != END:
            yield np.frombuffer(payload, np.int64).reshape(shape)


def _unified(series: Series, run: Run) -> dict[BaseTag, DataElement | RawDataElement | None]:
    """Elements in which the source's files differ though they are one scan: those of the first, for all derived images.

    Readers part a series where StudyInstanceUID or FrameOfReferenceUID differ, so the derived one could not be shown
    as the volume that it is. The first slice's are true of some of the source; new ones would be true of none.
    """
    if not series.unified:
        return {}
    file = series.files[0]
    with _copying(file):
        source = open_header(file)
        derived = _copied(source)
        _describe(derived, source, file, run, sorted(series.by_file()[file]))
    return {tag: derived.get_item(tag) if tag in derived else None for tag in map(Tag, series.unified)}


def _describe(derived: Dataset, source: Dataset, file: Path, run: Run, frames: Sequence[int]) -> None:
    """Make of a copy of the header of `source` that of the derived image, but for how its pixels are stored."""
    to_explicit_little_endian(derived, is_signed(source, file), run.rules.keep_private)
    describe(derived, source, file, run, frames)


@contextmanager
def _copying(file: Path) -> Iterator[None]:
    """Turn what pydicom raises on damaged elements into one line without values."""
    try:
        with quiet_pydicom():
            yield
    except (BioAttError, OSError):
        raise
    except Exception as error:  # of many kinds, some with values
        raise BioAttError(f"{file}: its header cannot be copied ({type(error).__name__}); repair the file") from error


def write_file(
    file: Path,
    frames_hu: Mapping[int, np.ndarray],
    target: Path,
    run: Run,
    unified: Mapping[BaseTag, DataElement | RawDataElement | None],
    processes: FileProcesses | None = None,
) -> tuple[int, bool]:
    """Write the image derived from `file`; see `write_derived_series`.

    Args:
        frames_hu: of each of its frames, in their order, that is part of the series.
        run: what the images of the derived series share.
        unified: elements of the first of them, for all.
        processes: decode the source's padding, if they are isolated.

    Returns:
        The number of clipped pixels, and whether the source's rescale was kept.
    """
    if not all(np.all(np.isfinite(hu)) for hu in frames_hu.values()):
        raise BioAttError(f"result for {file} holds values that are not finite, expected HU; nothing was written")
    with _copying(file):
        source = open_header(file)  # to be read, after its elements are copied as they are; what follows the
        derived = _copied(source)  # pixels (trailing padding, signatures) is in neither
        every = frame_headers(source, file)
        headers = {i: every[i] for i in frames_hu}
        first = next(iter(headers.values()))
        _describe(derived, source, file, run, list(frames_hu))
        for tag, element in unified.items():
            derived.pop(tag, None)
            if element is not None:
                derived[tag] = element
        kept = _keeps_rescale(list(headers.values()), file)
        if not kept:
            _set_hu_storage(derived, first, file)
        elif any(lacks_rescale(header, file) for header in headers.values()):
            _set_rescale(derived, *rescale(first, file))
        set_element(derived, "HighBit", "US", whole_number(derived, "BitsStored", file) - 1)
        for keyword, (vr, default) in SAME_IN_ALL_CT.items():
            if not label(derived, keyword, file):
                set_element(derived, keyword, vr, default)
        bits, signed = whole_number(derived, "BitsStored", file), is_signed(derived, file)
        limits, processes = stored_range(bits, signed), processes or FileProcesses()
        clipped, pixels = _stored_pixels(file, headers, frames_hu, kept, limits, processes)
        set_element(derived, "PixelData", "OW", pixels)
        _save(derived, target)
    return clipped, kept


def _all_stored(sources: Mapping[Path, Mapping[int, int]], volume_hu: np.ndarray) -> Iterator[np.ndarray]:
    """What is stored of each frame, before it is clipped; padding, which is the source's, as the volume has it."""
    for file, slices in sources.items():
        with quiet_pydicom():
            every = frame_headers(open_header(file), file)
            headers = {i: every[i] for i in sorted(slices)}
            kept = _keeps_rescale(list(headers.values()), file)
        for i, header in headers.items():
            yield _rounded(volume_hu[slices[i]], *(rescale(header, file) if kept else (1.0, 0.0))).astype(np.float64)


def _rounded(hu: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """``(hu - intercept) / slope``, to the nearest; in float32 where that has the same numbers, as mostly.

    An even intercept leaves halves between the same two numbers, so rounding may come first.
    """
    if slope == 1.0 and intercept % 2 == 0 and abs(intercept) < 1 << 23 and hu.dtype == np.float32:
        whole = np.rint(hu)
        return np.subtract(whole, np.float32(intercept), out=whole)
    exact = np.subtract(hu, intercept, dtype=np.float64)
    if slope != 1.0:
        exact /= slope
    return np.rint(exact, out=exact)


def _keeps_rescale(headers: Sequence[Dataset], file: Path) -> bool:
    """Whether the stored values of the source can carry HU: 16 bits, and steps of at most 1 HU."""
    slopes = [rescale(header, file)[0] for header in headers]
    return whole_number(headers[0], "BitsAllocated", file) == 16 and all(0 < slope <= 1 for slope in slopes)


def _stored_pixels(
    file: Path,
    headers: Mapping[int, Dataset],
    frames_hu: Mapping[int, np.ndarray],
    kept: bool,
    limits: tuple[int, int],
    processes: FileProcesses,
) -> tuple[int, bytes]:
    """Number of clipped pixels, and PixelData: HU rounded and clipped to `limits`, padding as the source has it."""
    clipped, parts = 0, []
    shape = next(iter(frames_hu.values())).shape
    has_padding = any(padding_limits(header) is not None for header in headers.values())
    every = _stored(file, shape, processes) if has_padding else repeat(None, max(headers) + 1)
    padding = (pixels for i, pixels in enumerate(every) if i in headers)
    for (i, hu), pixels in zip(frames_hu.items(), padding, strict=True):
        header = headers[i]
        slope, intercept = rescale(header, file)
        exact = _rounded(hu, *((slope, intercept) if kept else (1.0, 0.0)))
        padded = None if pixels is None else padding_mask(header, pixels)
        if padded is not None:
            exact[padded] = pixels[padded] if kept else np.rint(pixels[padded] * slope + intercept).clip(*limits)
        stored = exact
        if exact.min() < limits[0] or exact.max() > limits[1]:
            stored = exact.clip(*limits)
            clipped += int(np.count_nonzero(stored != exact))
        parts.append(stored.astype("<i2" if limits[0] < 0 else "<u2").tobytes())
    return clipped, b"".join(parts)


def _copied(header: Dataset) -> Dataset:
    """A data set with the elements of a header just read, not decoded; reading the one does not change the other."""
    elements = {tag: header.get_item(tag) for tag in header.keys()}
    copied = Dataset({tag: one if isinstance(one, RawDataElement) else deepcopy(one) for tag, one in elements.items()})
    copied.set_original_encoding(*header.original_encoding, header.original_character_set)
    return copied


def _set_hu_storage(derived: Dataset, header: Dataset, file: Path) -> None:
    """Say that pixels are stored as signed 16-bit HU; what was in stored values of the source is moved or removed."""
    for keyword, number in ("BitsAllocated", 16), ("BitsStored", 16), ("HighBit", 15), ("PixelRepresentation", 1):
        set_element(derived, keyword, "US", number)
    _set_rescale(derived, 1.0, 0.0)
    limits, (slope, intercept) = padding_limits(header), rescale(header, file)
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit", "RealWorldValueMappingSequence"):
        derived.pop(keyword, None)
    if limits is not None:
        first, last = (int(np.rint(limit * slope + intercept).clip(-(2**15), 2**15 - 1)) for limit in limits)
        set_element(derived, "PixelPaddingValue", "SS", first)
        if last != first:
            set_element(derived, "PixelPaddingRangeLimit", "SS", last)


def _set_rescale(derived: Dataset, slope: float, intercept: float) -> None:
    """Say how stored values are turned into HU, in place of what was said."""
    place = _place_of_rescale(derived) if is_enhanced(derived) else derived
    set_element(place, "RescaleIntercept", "DS", f"{intercept:.10g}")
    set_element(place, "RescaleSlope", "DS", f"{slope:.10g}")
    set_element(place, "RescaleType", "LO", "HU")


def _place_of_rescale(derived: Dataset) -> Dataset:
    """The one item of an enhanced image that says rescale, for all frames."""
    if "SharedFunctionalGroupsSequence" not in derived:
        set_element(derived, "SharedFunctionalGroupsSequence", "SQ", [Dataset()])
    shared = derived["SharedFunctionalGroupsSequence"].value[0]
    for groups in [shared, *derived["PerFrameFunctionalGroupsSequence"].value]:
        for keyword in ("PixelValueTransformationSequence", "RealWorldValueMappingSequence"):
            groups.pop(keyword, None)
    item = new_item(RescaleType="HU")
    set_element(shared, "PixelValueTransformationSequence", "SQ", [item])
    return item


def _save(derived: Dataset, target: Path) -> None:
    derived.file_meta = FileMetaDataset()  # none of the source's: its AE titles and implementation did not write this
    derived.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    derived.preamble = bytes(128)
    with quiet_pydicom():
        pydicom.dcmwrite(target, derived, enforce_file_format=True)
