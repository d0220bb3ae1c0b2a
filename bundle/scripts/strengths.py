"""Strengths: how coarse is left to the scanner, and what is given back; one table for all doors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .errors import BioAttError

#: Name to (anchor in mm, grain), see `Strength`. Everything that knows a strength by its name reads it here.
STRENGTHS: dict[str, tuple[float, float]] = {"low": (1.0, 0.0), "standard": (1.3, 0.0), "high": (1.8, 0.0)}
DEFAULT = "standard"
#: Name of a strength that is none of the table's.
CUSTOM = "custom"
#: Share of the restored detail, in every strength of the table.
RESTORE = 1.0
#: Largest anchor in mm: above it, little is left that would be called a floor.
LARGEST_MM = 10.0


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How a network's output is anchored to its input and restored, see `anchored` and `restored` of scripts.inference.

    Args:
        name: of the table, or ``custom``.
        anchor_mm: SD of the Gaussian in mm, in (0, 10]; what is much coarser stays the scanner's.
        grain: share of what is finer that stays too, in [0, 1].
        restore: share of the restored detail, in [0, 1].
    """

    name: str
    anchor_mm: float
    grain: float = 0.0
    restore: float = RESTORE

    def __str__(self) -> str:
        grain = f", {self.grain:.4g} of the grain" if self.grain else ""
        share = "" if self.restore == RESTORE else f"{self.restore:.4g} of the "
        restore = f", {share}detail restored" if self.restore else ""
        return f"{self.name}, anchored at {self.anchor_mm:.4g} mm{grain}{restore}"


def choose_strength(
    strength: str = DEFAULT, anchor_mm: float | None = None, grain: float | None = None, restore: float | None = None
) -> Strength:
    """The strength that a user asks for.

    Args:
        anchor_mm, grain, restore: take the place of the table's; None leaves them.

    Raises:
        BioAttError: no such name (a number was a strength until 0.3.2), or a number out of its range.
    """
    if not isinstance(strength, str) or strength not in STRENGTHS:
        raise BioAttError(
            f"strength is {strength!r}, expected {', '.join(list(STRENGTHS)[:-1])} or {list(STRENGTHS)[-1]}; "
            "a number is no longer a strength; give it as --anchor-mm (anchor_mm), in mm"
        )
    known_mm, known_grain = STRENGTHS[strength]
    anchor, share, back = known_mm, known_grain, RESTORE
    if anchor_mm is not None:
        anchor = _number("anchor_mm", anchor_mm, f"over 0 to {LARGEST_MM:g} mm", lambda mm: 0 < mm <= LARGEST_MM)
    if grain is not None:
        share = _number("grain", grain, "from 0 (none) to 1 (the input)", _is_share)
    if restore is not None:
        back = _number("restore", restore, "from 0 (none) to 1 (all)", _is_share)
    known = {row: name for name, row in STRENGTHS.items()} if back == RESTORE else {}
    return Strength(name=known.get((anchor, share), CUSTOM), anchor_mm=anchor, grain=share, restore=back)


def as_strength(strength: Strength | str) -> Strength:
    """`strength` itself, or the one of that name.

    Raises:
        BioAttError: see `choose_strength`.
    """
    return strength if isinstance(strength, Strength) else choose_strength(strength)


def _is_share(value: float) -> bool:
    return 0 <= value <= 1


def _number(name: str, value: float, wanted: str, holds: Callable[[float], bool]) -> float:
    """`value` if it is a number for which the condition `holds`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
        raise BioAttError(f"{name} is {value!r}, expected a number {wanted}")
    return float(value)


def table_in_words() -> str:
    """The table in one line, for help texts."""
    return ", ".join(f"{name} ({anchor:g} mm)" for name, (anchor, _) in STRENGTHS.items())
