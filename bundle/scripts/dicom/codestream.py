"""Look into encapsulated pixel data without decoding it: is it whole, and what shape does it claim?"""

from __future__ import annotations

import struct

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_JPEG_FRAME_MARKERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}


def join_fragments(pixel_data: bytes) -> bytes:
    """The codestream of the only frame: the fragments after the basic offset table (PS3.5 A.4).

    Raises:
        ValueError: the items do not fill the data, or there is no fragment: the file was cut short.
    """
    fragments, at = [], 0
    while at + 8 <= len(pixel_data):
        tag, length = pixel_data[at : at + 4], struct.unpack_from("<I", pixel_data, at + 4)[0]
        if tag == _END:
            break
        if tag != _ITEM or at + 8 + length > len(pixel_data):
            raise ValueError("a fragment is not whole")
        fragments.append(pixel_data[at + 8 : at + 8 + length])
        at += 8 + length
    if not any(fragments[1:]):
        raise ValueError("it holds no fragment")
    return b"".join(fragments[1:])


def frame_shape(codestream: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 codestream claims, None where it does not say."""
    if codestream.startswith(b"\xff\x4f\xff\x51") and len(codestream) >= 24:  # SOC, SIZ (ISO 15444-1 A.5.1)
        right, bottom, left, top = struct.unpack_from(">4I", codestream, 8)
        return bottom - top, right - left
    at = 2
    while codestream.startswith(b"\xff\xd8") and at + 9 <= len(codestream) and codestream[at] == 0xFF:
        marker, length = codestream[at + 1], struct.unpack_from(">H", codestream, at + 2)[0]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_FRAME_MARKERS:  # SOFn (ISO 10918-1 B.2.2): length, precision, lines, samples a line
            rows, columns = struct.unpack_from(">HH", codestream, at + 5)
            return (rows, columns) if rows else None  # 0: the number of lines follows later
        else:
            at += 2 + length
    return None


def rle_pixels(codestream: bytes) -> int:
    """Number of pixels in the first segment of an RLE frame (PS3.5 Annex G), without decoding it.

    Raises:
        ValueError: there is no such segment.
    """
    if len(codestream) < 64:
        raise ValueError("its RLE header is not whole")
    segments, first, second = struct.unpack_from("<3I", codestream)
    pixels, at, end = 0, first, second if segments > 1 else len(codestream)
    while at + 1 < min(end, len(codestream)):
        control = codestream[at]
        if control < 128:  # that many bytes, and one, as they are
            pixels, at = pixels + control + 1, at + control + 2
        elif control > 128:  # the next byte, repeated
            pixels, at = pixels + 257 - control, at + 2
        else:
            at += 1
    return pixels


def is_whole(codestream: bytes) -> bool:
    """Whether a JPEG, JPEG-LS or JPEG 2000 codestream has its end marker; others are not looked into."""
    starts = codestream.startswith((b"\xff\xd8", b"\xff\x4f\xff\x51"))
    return not starts or codestream.rstrip(b"\x00")[-2:] == b"\xff\xd9"
