"""Look into encapsulated pixel data without decoding it: is it whole, and what image does it claim to hold?"""

from __future__ import annotations

import struct
from typing import NamedTuple

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_JPEG_FRAME_MARKERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}


class Claim(NamedTuple):
    """What a codestream says it is; `rows` 0 where they follow later, `signed` None where its coding cannot say."""

    coding: str  # JPEG, JPEG-LS or JPEG 2000
    rows: int
    columns: int
    components: int
    bits: int
    signed: bool | None


def split_frames(pixel_data: bytes, frames: int) -> list[bytes]:
    """The codestream of each frame, from the fragments and the basic offset table (PS3.5 A.4).

    Raises:
        ValueError: the items do not fill the data, or there are not fragments for all frames: the file was cut
            short or is damaged.
    """
    starts, fragments, at = [], [], 0
    while at + 8 <= len(pixel_data):
        tag, length = pixel_data[at : at + 4], struct.unpack_from("<I", pixel_data, at + 4)[0]
        if tag == _END:
            break
        if tag != _ITEM or at + 8 + length > len(pixel_data):
            raise ValueError("a fragment is not whole")
        starts.append(at)
        fragments.append(pixel_data[at + 8 : at + 8 + length])
        at += 8 + length
    if not any(fragments[1:]):
        raise ValueError("it holds no fragment")
    table, starts, fragments = fragments[0], starts[1:], fragments[1:]
    if frames == 1:
        return [b"".join(fragments)]
    if len(fragments) == frames:
        return fragments
    offsets = [offset + starts[0] for offset in struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4])]
    if len(offsets) != frames or offsets != sorted(set(offsets)) or not set(offsets) <= set(starts):
        raise ValueError(f"{len(fragments)} fragments and {len(offsets)} offsets do not make {frames} frames")
    firsts = [starts.index(offset) for offset in offsets]
    return [b"".join(fragments[i:j]) for i, j in zip(firsts, [*firsts[1:], len(fragments)], strict=True)]


def read_claim(codestream: bytes) -> Claim | None:
    """What a JPEG, JPEG-LS or JPEG 2000 codestream claims to hold, None where it is none of them or damaged."""
    if codestream.startswith(b"\x00\x00\x00\x0cjP"):  # a JP2 file round the codestream: not allowed, but seen
        codestream = codestream[max(codestream.find(b"\xff\x4f\xff\x51"), 0) :]
    if codestream.startswith(b"\xff\x4f\xff\x51"):  # SOC, SIZ (ISO 15444-1 A.5.1)
        if len(codestream) < 43:
            return None
        right, bottom, left, top = struct.unpack_from(">4I", codestream, 8)
        components, precision = struct.unpack_from(">HB", codestream, 40)
        return Claim("JPEG 2000", bottom - top, right - left, components, (precision & 0x7F) + 1, precision > 0x7F)
    at = 2
    while codestream.startswith(b"\xff\xd8") and at + 10 <= len(codestream) and codestream[at] == 0xFF:
        marker, length = codestream[at + 1], struct.unpack_from(">H", codestream, at + 2)[0]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_FRAME_MARKERS:  # SOFn (ISO 10918-1 B.2.2): length, precision, lines, samples, components
            bits, rows, columns, components = struct.unpack_from(">BHHB", codestream, at + 4)
            return Claim("JPEG-LS" if marker == 0xF7 else "JPEG", rows, columns, components, bits, None)
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
    return not starts or codestream.rstrip(b"\x00\xff").endswith(b"\xff\xd9")  # what follows only fills up
