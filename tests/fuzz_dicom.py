"""DICOM for the fuzz run (tests/fuzz.py): seeds, mutations, and what an examination asks.

Seeds are pydicom's own test files and small synthetic CT. Half of the mutations change elements (value, length, VR,
presence; nested ones too), the others bytes. Every input must give the right volume, and a derived series that reads
back to it, or our one error class; without a crash, without 10 s of work, and without a file outside the output folder.
"""

from __future__ import annotations

import io
import shutil
import signal
import warnings
from pathlib import Path

import numpy as np
import pydicom
from dicom_cases import PROVENANCE, SYNTAXES, changed, code, units, write_enhanced_ct
from phantom import write_ct_series
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue
from pydicom.uid import RLELossless
from scripts.dicom import find_series, read_volume, write_derived_series
from scripts.dicom.headers import is_enhanced
from scripts.dicom.transcode import set_element
from scripts.errors import BioAttError, causes

SECONDS = 10.0
#: pydicom's files: CT as it is, and others that are made CT to get further.
CT_FILES = ("CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm")
OTHER_FILES = (
    "MR_small.dcm MR_small_RLE.dcm MR_small_bigendian.dcm MR_small_implicit.dcm MR_small_jp2klossless.dcm "
    "MR_small_jpeg_ls_lossless.dcm MR_small_padded.dcm MR_truncated.dcm JPEG2000.dcm JPGExtended.dcm JPEG-lossy.dcm "
    "image_dfl.dcm rtplan.dcm test-SR.dcm nested_priv_SQ.dcm priv_SQ.dcm UN_sequence.dcm badVR.dcm no_meta.dcm "
    "ExplVR_BigEndNoMeta.dcm SC_rgb_small_odd.dcm liver_1frame.dcm empty_charset_LEI.dcm reportsi.dcm "
    "MR_small_expb.dcm JPEGLSNearLossless_08.dcm JPEGLSNearLossless_16.dcm JPEG2000-embedded-sequence-delimiter.dcm "
    "rtdose_1frame.dcm rtdose_rle_1frame.dcm rtdose_rle.dcm SC_rgb_rle_16bit.dcm SC_rgb_jpeg_dcmtk.dcm DICOMDIR "
    "ExplVR_LitEndNoMeta.dcm meta_missing_tsyntax.dcm"
).split()


def seeds(folder):
    """(name, content) of each file to start from; synthetic CT and CT_small weigh most."""
    made = []
    small = {"shape": (32, 40), "slices": 1}
    for i, syntax in enumerate(SYNTAXES):
        for signed in (False, True):
            more = {"padding": -2000} if signed else {"bits_stored": 12, "slope": 0.5 if i % 2 else 2.0}
            source = write_ct_series(folder / f"{i}{signed}", transfer_syntax=syntax, signed=signed, **more, **small)
            made.append((f"synthetic {syntax.name}", (source / "0001.dcm").read_bytes()))
    sequences = changed(DerivationCodeSequence=code("113087", "DCM"), RealWorldValueMappingSequence=units("[hnsf'U]"))
    mapped = write_ct_series(folder / "mapped", modify=sequences, **small)
    made.append(("synthetic mapped", (mapped / "0001.dcm").read_bytes()))
    for syntax in (None, SYNTAXES[-1]):
        file, _ = write_enhanced_ct(folder / f"enhanced{syntax}", shape=(32, 40), slices=3, syntax=syntax)
        made.append(("synthetic enhanced", file.read_bytes()))
    whole = [(name, Path(get_testdata_file(name, download=False)).read_bytes()) for name in CT_FILES]
    others = []
    for name in OTHER_FILES:
        content = Path(get_testdata_file(name, download=False)).read_bytes()
        others += [(name, content), (f"{name} as CT", as_ct(content))]
    return [*made * 16, *whole[:1] * 32, *whole[1:] * 8, *others]


def as_ct(content):
    """A file of another kind with what a CT image must have, as far as it can be put in."""
    dataset = pydicom.dcmread(io.BytesIO(content), force=True)
    changed(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
        Modality="CT",
        SOPInstanceUID="1.2.3",
        SeriesInstanceUID="1.2",
        StudyInstanceUID="1.1",
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[1, 1],
        RescaleSlope=1,
        RescaleIntercept=0,
    )(dataset, 0)
    return written(dataset, content)


def written(dataset, otherwise):
    """The file that a data set makes; `otherwise` where pydicom refuses to write it."""
    buffer = io.BytesIO()
    try:
        pydicom.dcmwrite(buffer, dataset)
    except Exception:
        return otherwise
    return buffer.getvalue()


def mutate(content, rng):
    """Change a file by one to three elements, or by some bytes."""
    if rng.random() < 0.55:
        return mutate_elements(content, rng)
    return mutate_bytes(content, rng)


def mutate_elements(content, rng):
    """Change elements, of items too, in the file's own encoding."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(content), force=True)
        _change_elements(dataset, rng)
    except Exception:  # a file that was damaged before, which pydicom cannot take apart
        return mutate_bytes(content, rng)
    return written(dataset, content)


def _change_elements(dataset, rng):
    for _ in range(int(rng.integers(1, 4))):
        place = dataset
        while True:
            tags = [tag for tag in place.keys() if tag.group > 2]
            if not tags:
                break
            tag = tags[int(rng.integers(len(tags)))]
            element = place.get_item(tag)
            items = list(element.value) if isinstance(element, DataElement) and element.VR == "SQ" else []
            if not items or rng.random() < 0.3:
                change_element(place, tag, element, rng)
                break
            place = items[int(rng.integers(len(items)))]


def change_element(place, tag, element, rng):
    """Remove, empty, repeat or garble one element."""
    kind = rng.integers(8)
    if kind == 0 or not isinstance(element, RawDataElement):
        del place[tag]
        return
    value = element.value or b""
    garbled = [
        b"",
        value[: len(value) // 2],
        value + value,
        bytes(rng.integers(0, 256, max(2, len(value)), dtype=np.uint8)),
        bytes([int(rng.choice([0, 0x20, 0x30, 0x2D, 0x5C, 0x7F, 0xFF]))]) * max(2, len(value)),
        b"\\".join([value.strip()] * 3) + b" ",
        _interesting(rng),
    ][kind - 1]
    vr = element.VR
    if vr is not None and rng.random() < 0.15:
        vr = str(rng.choice(["UN", "LO", "US", "SQ", "OB", "FD", "UI", "IS"]))
    place._dict[tag] = element._replace(
        value=garbled, VR=vr, length=len(garbled)
    )  # as it is: pydicom would look into it


def _interesting(rng):
    words = [
        "-1",
        "0",
        "1e400",
        "nan",
        "inf",
        "99999999999",
        "1\\1\\1",
        "-0.0",
        "../../x",
        "MONOCHROME1",
        "1e-300",
        "32768",
    ]
    if rng.random() < 0.5:
        return str(rng.choice(words)).encode().ljust(4)
    return int(rng.choice([0, 1, 2, 7, 8, 12, 15, 16, 32, 255, 4096, 65535])).to_bytes(2, "little")


def mutate_bytes(content, rng):
    """Flip, cut, repeat or insert bytes, anywhere or in the pixels."""
    data = bytearray(content)
    start = max(data.rfind(b"\xe0\x7f\x10\x00"), 0) if rng.random() < 0.75 else 0
    if len(data) - start < 16:
        start = 0
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(min(start, len(data) - 1), len(data)))
        kind = rng.random()
        if kind < 0.8:
            data[at] = int(rng.integers(256))
        elif kind < 0.87:
            data[at : at + 4] = bytes(rng.choice([[0, 0, 0, 0], [255] * 4, [0, 0, 0, 128]]).astype(np.uint8))
        elif kind < 0.92:
            del data[at : at + int(rng.integers(1, 9))]
        elif kind < 0.97:
            data[at:at] = data[at : at + int(rng.integers(1, 17))]
        else:
            del data[max(at, 400) :]
        if len(data) < 20:
            return content
    return bytes(data)


class TooSlow(BaseException):
    """10 s of work on one input."""


def _too_slow(*_):
    raise TooSlow


def examine(content, scratch):
    """Take one input through reader and writer; see `examined`."""

    def steps(source, target):
        series = find_series(source)[0]
        yield "pixels"
        volume = read_volume(series)
        yield "writer"
        write_derived_series(series, volume, target, PROVENANCE)
        back = read_volume(find_series(target)[0])
        yield "right"
        yield _differences(source / "IM0", volume, back, series)

    stage, wrong = examined(steps, {"IM0": content}, scratch)
    if stage != "right" and (scratch / "out").exists():
        wrong = wrong or "an output folder after an error"
    return stage, wrong


def examined(steps, files, scratch):
    """Take files through the steps of an examination.

    Args:
        steps: of the input's and the result's folder; yields the stages that were reached, the last one is "right", and
            then what is wrong with the result, "" for nothing.
        files: name and content of the input's files.
        scratch: a folder for both.

    Returns:
        the stage where it ended, and what is wrong with that (empty if nothing).
    """
    source, target = scratch / "in", scratch / "out"
    for place in (source, target):
        shutil.rmtree(place, ignore_errors=True)
    source.mkdir()
    for name, content in files.items():
        (source / name).write_bytes(content)
    stage, wrong = "parsing", ""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        for told in steps(source, target):
            stage, wrong = ("right", told) if stage == "right" else (told, "")
    except BioAttError as error:
        wrong = "\n" * (str(error).count("\n")) or (
            "out of memory" if any(isinstance(one, MemoryError) for one in causes(error)) else ""
        )
    except TooSlow:
        wrong = f"more than {SECONDS:g} s"
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    found = {path.relative_to(scratch).as_posix() for path in scratch.rglob("*")}
    known = {"in", "out", "out/0001.dcm"} | {f"{place}/{name}" for place in ("in", "out") for name in files}
    if not found <= known or any((source / name).read_bytes() != content for name, content in files.items()):
        wrong = f"files elsewhere, or a changed source: {sorted(found - known)}"
    return stage, wrong


def _number(dataset, keyword, default):
    """The element's one number, the first of several (the reader takes equal ones alone), or the default."""
    number = dataset.get(keyword)
    if number is None or number == "":
        return default
    return float(number[0] if isinstance(number, MultiValue) else number)


def _differences(file, volume, back, series):
    """Compare with pydicom's own pixels, and with what was read back."""
    low, high = (-(2**15), 2**15 - 1)
    with warnings.catch_warnings(action="ignore"):
        dataset = pydicom.dcmread(io.BytesIO(file.read_bytes()), force=True)
        is_rle = dataset.file_meta.get("TransferSyntaxUID") == RLELossless
        slope = abs(_number(dataset, "RescaleSlope", 1.0))
        fits = np.abs(back - volume) <= max(0.51, 0.51 * min(slope, 1.0), np.abs(volume).max() * 1e-6)
        clipped = (volume <= low) | (volume >= high)
        if not (fits | clipped).all():
            return "the derived series reads back to other HU"
        if (
            is_enhanced(dataset)
            or dataset.BitsStored != dataset.BitsAllocated
            or "TransferSyntaxUID" not in dataset.file_meta
        ):
            return ""
        set_element(
            dataset, "SamplesPerPixel", "US", 1
        )  # the reader takes them where they are missing, pydicom does not
        set_element(dataset, "PhotometricInterpretation", "CS", "MONOCHROME2")
        dataset.pixel_array_options(decoding_plugin="pydicom" if is_rle else "")  # pylibjpeg-rle aborts on damaged data
        frame = dataset.pixel_array.reshape(-1, series.rows, series.columns)[series.frames[0]]
        expected = frame * _number(dataset, "RescaleSlope", 1.0) + _number(dataset, "RescaleIntercept", 0.0)
    if not np.allclose(volume[0], expected.astype(np.float32), rtol=1e-6):
        return "pydicom reads other HU"
    return ""
