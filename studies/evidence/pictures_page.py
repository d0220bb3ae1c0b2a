"""What docs/evidence/quality.md shows at full resolution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .pictures import SIDE_MM, TAKEN_HU, WINDOW_HU
from .tables import table


def pictures_section(one: dict[str, Any], results: Path) -> str:
    """The pictures and how they were chosen."""
    lower, upper = WINDOW_HU
    shown = "\n\n".join(
        f"![{of['rank']}: {of['patient']}, slice {of['slice']}](results/{name})" for name, of in one["pictures"].items()
    )
    return f"""## Pictures, the worst among them

Quarter dose; {one["slices"]} slices of the patients left out, ranked by the share of the error against the truth that
standard leaves: the two worst, the middle and the best one. {SIDE_MM / 10:g} x {SIDE_MM / 10:g} cm, every pixel as it
is, {lower:g} to {upper:g} HU. The Gaussian leaves as much noise in flat tissue as standard. Below: what was taken off
the low dose ({TAKEN_HU[0]:g} to {TAKEN_HU[1]:g} HU); anatomy that can be seen there is lost.

{table(("rank", "patient", "slice", "error left", "Gaussian of equal noise"), _rows(one["pictures"]))}

{shown}"""


def _rows(pictures: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    """A row for each picture, for a table."""
    return [
        (one["rank"], one["patient"], str(one["slice"]), f"{one['error_left']:.0%}", f"{one['gaussian_mm']:.2f} mm")
        for one in pictures.values()
    ]
