"""Compressed pixel data is taken apart and its claims are read without decoding; damage is told, never guessed."""

from __future__ import annotations

import struct

import pytest
from scripts.dicom.codestream import Claim, is_whole, read_claim, rle_pixels, split_frames

ITEM, END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"


def encapsulated(*fragments, offsets=()):
    """Encapsulated pixel data (PS3.5 A.4): a table of offsets, then the fragments."""
    items = [struct.pack(f"<{len(offsets)}I", *offsets), *fragments]
    return b"".join(ITEM + struct.pack("<I", len(item)) + item for item in items) + END


def jpeg2000(rows, columns, *, components=1, bits=12, signed=False, left=0, top=0):
    """The head of a JPEG 2000 codestream: SOC and SIZ up to the first component's precision."""
    size = struct.pack(">4I", columns + left, rows + top, left, top)
    rest = struct.pack(">4I", columns, rows, 0, 0) + struct.pack(">HB", components, bits - 1 | 0x80 * signed)
    return b"\xff\x4f\xff\x51" + struct.pack(">HH", 41, 0) + size + rest + bytes(8)


def jpeg(marker, rows, columns, *, bits=8, components=1, before=b""):
    """The head of a JPEG codestream up to its frame header."""
    return (
        b"\xff\xd8" + before + b"\xff" + marker + struct.pack(">HBHHB", 11, bits, rows, columns, components) + bytes(9)
    )


def test_one_frame_may_lie_in_several_fragments():
    assert split_frames(encapsulated(b"ab", b"cd"), 1) == [b"abcd"]


def test_a_fragment_a_frame_needs_no_offsets():
    assert split_frames(encapsulated(b"ab", b"cd"), 2) == [b"ab", b"cd"]


def test_offsets_tell_which_fragments_belong_together():
    data = encapsulated(b"ab", b"cd", b"efgh", offsets=[0, 20])
    assert split_frames(data, 2) == [b"abcd", b"efgh"]


@pytest.mark.parametrize("offsets", [(), (0,), (20, 0), (0, 0), (0, 7)], ids=str)
def test_offsets_that_fit_no_fragments_are_refused(offsets):
    with pytest.raises(ValueError, match="3 fragments and"):
        split_frames(encapsulated(b"ab", b"cd", b"efgh", offsets=offsets), 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encapsulated(b"abcdefgh")[:-12], "not whole"),
        (b"\x00" * 16, "not whole"),
        (encapsulated(), "no fragment"),
        (encapsulated(b""), "no fragment"),
        (b"", "no fragment"),
    ],
)
def test_damaged_pixel_data_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        split_frames(data, 1)


def test_jpeg_2000_tells_size_bits_and_sign():
    assert read_claim(jpeg2000(30, 40, left=5, top=7)) == Claim("JPEG 2000", 30, 40, 1, 12, False)
    assert read_claim(jpeg2000(30, 40, bits=16, signed=True)) == Claim("JPEG 2000", 30, 40, 1, 16, True)


def test_jpeg_2000_inside_a_jp2_file_is_found():
    assert read_claim(b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(40) + jpeg2000(3, 4)) == Claim(
        "JPEG 2000", 3, 4, 1, 12, False
    )


@pytest.mark.parametrize(("marker", "kind"), [(b"\xc0", "JPEG"), (b"\xc3", "JPEG"), (b"\xf7", "JPEG-LS")])
def test_jpeg_tells_its_frame_header_behind_other_segments(marker, kind):
    before = b"\xff\xe0" + struct.pack(">H", 6) + b"JFIF" + b"\xff"  # a segment, then a fill byte
    assert read_claim(jpeg(marker, 30, 40, bits=12, before=before)) == Claim(kind, 30, 40, 1, 12, None)


@pytest.mark.parametrize(
    "codestream",
    [b"", b"\xff\xd8", jpeg2000(3, 4)[:30], b"text that is no image", jpeg(b"\xc0", 3, 4)[:8], b"\xff\xd8" * 20],
)
def test_what_is_no_codestream_or_is_cut_claims_nothing(codestream):
    assert read_claim(codestream) is None


def test_rle_counts_the_pixels_of_its_first_segment():
    # Four bytes as they are, one byte five times, no operation, and a second segment that is not counted.
    segment = b"\x03abcd" + bytes([257 - 5]) + b"x" + b"\x80"
    header = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13)
    assert rle_pixels(header + segment + b"\x03efgh") == 9
    assert rle_pixels(struct.pack("<16I", 1, 64, *[0] * 14) + segment) == 9
    with pytest.raises(ValueError, match="header is not whole"):
        rle_pixels(header[:40])


def test_an_end_marker_is_asked_of_those_that_have_one():
    assert is_whole(b"\xff\xd8 pixels \xff\xd9\x00") and is_whole(b"\xff\x4f\xff\x51 pixels \xff\xd9")
    assert not is_whole(b"\xff\xd8 pixels") and not is_whole(b"\xff\x4f\xff\x51 pixels")
    assert is_whole(b"RLE has none")
