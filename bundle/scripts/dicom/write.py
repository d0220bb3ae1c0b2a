"""Write a processed series as a derived DICOM series beside its source: same study, same geometry, new UIDs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from ..errors import BioAttError
from ..ownership import check_replaceable
from ..provenance import Derivation
from ..staging import staged_folder
from .derived import describe
from .enhanced import frame_headers
from .headers import is_enhanced, lacks_rescale, open_header, quiet_pydicom, rescale, whole_number
from .isolated import IsolatedFrames
from .padding import has_padding, is_signed, padding_limits, padding_mask, stored_range
from .pixels import read_frames
from .read import Progress
from .rules import DerivedRules, Run
from .series import Series
from .transcode import set_element, to_explicit_little_endian

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WriteSummary:
    """What `write_derived_series` wrote.

    Args:
        folder: where the files are.
        series_instance_uid: SeriesInstanceUID of the derived series.
        slices: number of files.
        clipped_pixels: pixels whose HU did not fit the stored bits and were set to the nearest value that does.
        rescaled_slices: slices stored with slope 1 because the source's rescale was too coarse for HU.
    """

    folder: Path
    series_instance_uid: str
    slices: int
    clipped_pixels: int
    rescaled_slices: int


def write_derived_series(
    series: Series,
    volume_hu: np.ndarray,
    output_dir: str | os.PathLike[str],
    provenance: Derivation,
    *,
    rules: DerivedRules | None = None,
    overwrite: bool = False,
    isolated: bool = False,
    progress: Progress | None = None,
    complete: Callable[[], None] | None = None,
) -> WriteSummary:
    """Write `volume_hu` as a series derived from `series`: one Explicit VR Little Endian file for each of its files.

    Every element of the source is kept bit for bit, but for private ones and those that are not true of the
    derived image (module `derived` lists them). The source's rescale is kept if its slope is at most 1 HU and it
    has 16 bits, else values are stored as signed 16-bit HU. They are rounded to the nearest, and clipped to what
    the bits hold. Padding pixels keep the source's value. An Enhanced CT image becomes one of the same class
    (docs/adr/0006). Besides the volume, one file at a time is in memory.

    Args:
        series: the source, from `find_series` or `select_series`.
        volume_hu: HU `(slices, rows, columns)`, in the order of `series.files`.
        output_dir: folder for the files 0001.dcm, 0002.dcm, ... and nothing else; it appears when all are written.
        provenance: what made the volume.
        rules: how the series is named and what it keeps; None for the defaults.
        overwrite: replace `output_dir` whole if it exists and holds nothing but results of BioAtt.
        isolated: decode the source's padding in a process of its own, as `read_volume_isolated` does.
        progress: called with (slices done, slices in all).
        complete: called when all is written, before the folder appears; if it raises, the folder does not.

    Returns:
        What was written.

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
    values = _all_stored(sources, volume_hu) if rules.stable_uids else None
    run = Run.start(provenance, rules, series.series_instance_uid, values)
    unified = _Unified(series.unified)
    digits = max(4, len(str(len(sources))))
    done = clipped = rescaled = 0
    with IsolatedFrames(sources) as frames, staged_folder(folder, overwrite) as staging:
        for number, (file, slices) in enumerate(sources.items(), 1):
            target = staging / f"{number:0{digits}d}.dcm"
            frames_hu = [volume_hu[slices[i]] for i in sorted(slices)]
            more_clipped, kept = _write_file(file, frames_hu, target, run, unified, frames if isolated else None)
            done, clipped = done + len(slices), clipped + more_clipped
            rescaled += 0 if kept else len(slices)
            if progress is not None:
                progress(done, len(series.files))
        if clipped:
            logger.warning("%s: %d pixels were clipped to what the stored bits hold", folder, clipped)
        if rescaled:
            logger.warning(
                "%s: %d slices stored as signed 16-bit HU, their own rescale is too coarse", folder, rescaled
            )
        if complete is not None:
            complete()
    return WriteSummary(
        folder=folder,
        series_instance_uid=run.series_instance_uid,
        slices=len(series.files),
        clipped_pixels=clipped,
        rescaled_slices=rescaled,
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


class _Unified:
    """Elements in which the source's files differ though they are one scan: all derived images get those of the first.

    Readers part a series where StudyInstanceUID or FrameOfReferenceUID differ, so the derived one could not be shown
    as the volume that it is. The first slice's are true of some of the source; new ones would be true of none.
    """

    def __init__(self, keywords: Sequence[str]) -> None:
        self._tags = [Tag(keyword) for keyword in keywords]
        self._first: Dataset | None = None

    def apply(self, derived: Dataset) -> None:
        """Put the first image's elements into `derived`; the first call says which they are."""
        if self._first is None:
            self._first = Dataset()
            self._first.update({tag: derived.get_item(tag) for tag in self._tags if tag in derived})
        for tag in self._tags:
            if tag in derived:
                del derived[tag]
            if tag in self._first:
                derived[tag] = self._first.get_item(tag)


def _write_file(
    file: Path,
    frames_hu: Sequence[np.ndarray],
    target: Path,
    run: Run,
    unified: _Unified,
    isolated: IsolatedFrames | None,
) -> tuple[int, bool]:
    """Write the image derived from `file`; return the number of clipped pixels and whether its rescale was kept."""
    if not all(np.all(np.isfinite(hu)) for hu in frames_hu):
        raise BioAttError(f"result for {file} holds values that are not finite, wanted HU; nothing was written")
    try:
        with quiet_pydicom():
            source = open_header(file)  # to be read, after its elements are copied as they are; what follows the
            derived = _copied(source)  # pixels (trailing padding, signatures) is in neither
            headers = frame_headers(source, file)
            to_explicit_little_endian(derived, is_signed(source, file), run.rules.keep_private)
            describe(derived, source, file, run)
            unified.apply(derived)
            kept = _keeps_rescale(headers, file)
            if not kept:
                _set_hu_storage(derived, headers[0], file)
            elif any(lacks_rescale(header, file) for header in headers):
                _set_rescale(derived, *rescale(headers[0], file))
            set_element(derived, "HighBit", "US", whole_number(derived, "BitsStored", file) - 1)
            bits, signed = whole_number(derived, "BitsStored", file), is_signed(derived, file)
            clipped, pixels = _stored_pixels(file, headers, frames_hu, kept, stored_range(bits, signed), isolated)
            set_element(derived, "PixelData", "OW", pixels)
            _save(derived, target)
    except (BioAttError, OSError):
        raise
    except Exception as error:  # pydicom raises many kinds of errors on damaged elements, some with values
        raise BioAttError(f"{file}: its header cannot be copied ({type(error).__name__}); repair the file") from error
    return clipped, kept


def _all_stored(sources: Mapping[Path, Mapping[int, int]], volume_hu: np.ndarray) -> Iterator[np.ndarray]:
    """What is stored of each frame, before it is clipped; padding, which is the source's, as the volume has it."""
    for file, slices in sources.items():
        with quiet_pydicom():
            headers = frame_headers(open_header(file), file)
            kept = _keeps_rescale(headers, file)
        for i, header in zip(sorted(slices), headers, strict=True):
            yield _rounded(volume_hu[slices[i]], *(rescale(header, file) if kept else (1.0, 0.0)))


def _rounded(hu: np.ndarray, slope: float, intercept: float) -> np.ndarray:
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
    headers: Sequence[Dataset],
    frames_hu: Sequence[np.ndarray],
    kept: bool,
    limits: tuple[int, int],
    isolated: IsolatedFrames | None,
) -> tuple[int, bytes]:
    """Number of clipped pixels, and PixelData: HU rounded and clipped to `limits`, padding as the source has it."""
    clipped, parts = 0, []
    for hu, pixels, header in zip(frames_hu, _source_pixels(file, headers, frames_hu, isolated), headers, strict=True):
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


def _source_pixels(
    file: Path, headers: Sequence[Dataset], frames_hu: Sequence[np.ndarray], isolated: IsolatedFrames | None
) -> Iterable[np.ndarray | None]:
    """Stored values of each frame of the source, None for each where there is no padding."""
    if not has_padding(headers):
        return [None] * len(headers)
    if isolated is None:
        return (pixels for pixels, _ in read_frames(file))
    return isolated.read(file, [hu.shape for hu in frames_hu])


def _copied(header: Dataset) -> Dataset:
    """A data set with the elements of a header just read, not decoded; reading the one does not change the other."""
    elements = {tag: header.get_item(tag) for tag in header.keys()}
    copied = Dataset({tag: one if isinstance(one, RawDataElement) else deepcopy(one) for tag, one in elements.items()})
    copied.set_original_encoding(*header.original_encoding, header.original_character_set)
    return copied


def _set_hu_storage(derived: Dataset, header: Dataset, file: Path) -> None:
    """Say that pixels are stored as signed 16-bit HU; what was in stored values of the source is moved or removed.

    Args:
        derived: the header to change.
        header: header of the source, of its first frame.
        file: the source's file.
    """
    for keyword, number in ("BitsAllocated", 16), ("BitsStored", 16), ("HighBit", 15), ("PixelRepresentation", 1):
        set_element(derived, keyword, "US", number)
    _set_rescale(derived, 1.0, 0.0)
    limits, (slope, intercept) = padding_limits(header), rescale(header, file)
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit", "RealWorldValueMappingSequence"):
        if keyword in derived:
            del derived[keyword]
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
            if keyword in groups:
                del groups[keyword]
    item = Dataset()
    item.RescaleType = "HU"
    set_element(shared, "PixelValueTransformationSequence", "SQ", [item])
    return item


def _save(derived: Dataset, target: Path) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    derived.file_meta = FileMetaDataset()  # none of the source's: its AE titles and implementation did not write this
    derived.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    derived.preamble = bytes(128)
    with quiet_pydicom():
        pydicom.dcmwrite(target, derived, enforce_file_format=True)
