"""Strengths: how coarse is left to the scanner, and how much fine grain is given back; one table for all doors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import BioAttError

#: Name to (anchor in mm, grain), see `Strength`. Everything that knows a strength by its name reads it here.
STRENGTHS: dict[str, tuple[float, float]] = {"low": (0.8, 0.0), "standard": (1.1, 0.0), "high": (1.4, 0.0)}
DEFAULT = "standard"
#: Name of a strength that is none of the table's.
CUSTOM = "custom"
#: Largest anchor in mm: above it, little is left that would be called a floor.
LARGEST_MM = 10.0


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How a network's output is anchored to its input, see `scripts.inference.anchored`.

    Args:
        name: of the table, or ``custom``.
        anchor_mm: SD of the Gaussian in mm, in (0, 10]; what is much coarser stays the scanner's.
        grain: share of what is finer that stays too, in [0, 1].
    """

    name: str
    anchor_mm: float
    grain: float = 0.0

    def __str__(self) -> str:
        grain = f", {self.grain:.4g} of the grain" if self.grain else ""
        return f"{self.name}, anchored at {self.anchor_mm:.4g} mm{grain}"


def choose_strength(strength: str = DEFAULT, anchor_mm: float | None = None, grain: float | None = None) -> Strength:
    """The strength that a user asks for.

    Args:
        strength: a name of the table.
        anchor_mm, grain: take the place of the table's; None leaves them.

    Raises:
        BioAttError: no such name (a number was a strength until 0.3.2), or a number out of its range.
    """
    if not isinstance(strength, str) or strength not in STRENGTHS:
        raise BioAttError(
            f"strength is {strength!r}, wanted {', '.join(list(STRENGTHS)[:-1])} or {list(STRENGTHS)[-1]}; "
            "a number is no longer a strength; give it as --anchor-mm (anchor_mm), in mm"
        )
    known_mm, known_grain = STRENGTHS[strength]
    anchor = known_mm if anchor_mm is None else _number("anchor_mm", anchor_mm, f"over 0 to {LARGEST_MM:g} mm")
    share = known_grain if grain is None else _number("grain", grain, "from 0 (none) to 1 (the input)")
    if not 0 < anchor <= LARGEST_MM:
        raise BioAttError(f"anchor_mm is {anchor_mm!r}, wanted a number over 0 to {LARGEST_MM:g} mm")
    if not 0 <= share <= 1:
        raise BioAttError(f"grain is {grain!r}, wanted a number from 0 (none) to 1 (the input)")
    name = next((name for name, row in STRENGTHS.items() if row == (anchor, share)), CUSTOM)
    return Strength(name=name, anchor_mm=anchor, grain=share)


def as_strength(strength: Strength | str) -> Strength:
    """`strength` itself, or the one of that name.

    Raises:
        BioAttError: see `choose_strength`.
    """
    return strength if isinstance(strength, Strength) else choose_strength(strength)


def _number(name: str, value: float, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BioAttError(f"{name} is {value!r}, wanted a number {wanted}")
    return float(value)


def table_in_words() -> str:
    """The table in one line, for help texts."""
    return ", ".join(f"{name} ({anchor:g} mm)" for name, (anchor, _) in STRENGTHS.items())
