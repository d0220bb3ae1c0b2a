"""Enhanced images that are parts of a concatenation: which parts are not here."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import first_few
from .folder import Loss
from .headers import label
from .slices import Image

_KEYWORDS = ("ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber")
_MOST_PARTS = 1 << 16  # US; of a damaged number none is believed


def lost_parts(images: Sequence[Image]) -> list[Loss]:
    """What is lost of concatenations (PS3.3 C.7.6.16.2.2.4), by the numbers of the parts that are among `images`."""
    here: dict[str, dict[int, Image]] = {}
    totals: dict[str, int] = {}
    for one in images:
        uid, number, total = (label(one.header, keyword, one.file) for keyword in _KEYWORDS)
        if uid and number.isdecimal() and 0 < int(number) < _MOST_PARTS:
            here.setdefault(uid, {}).setdefault(int(number), one)
            said = int(total) if total.isdecimal() and int(total) < _MOST_PARTS else 0
            totals[uid] = max(totals.get(uid, 0), said, int(number))
    losses = []
    for uid, parts in here.items():
        missing = [str(number) for number in range(1, totals[uid] + 1) if number not in parts]
        if missing:
            number, one = next(iter(parts.items()))
            what = f"is part {number} of a concatenation of {totals[uid]}, without {first_few(missing)}"
            losses.append(Loss(one.file, what))
    return losses
