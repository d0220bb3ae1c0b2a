"""Tables of the pages, in Markdown."""

from __future__ import annotations

import math
from typing import Any

from scripts.markdown import table


def number(value: float | None, form: str = ".2f") -> str:
    """A number as text; - for what could not be measured."""
    return "-" if value is None else format(value, form)


def ratio(value: float | None, reference: float | None) -> float:
    """One figure over another; NaN where one of them could not be measured."""
    return value / reference if value is not None and reference else math.nan


def limits_table(limits: list[dict[str, Any]]) -> str:
    """Each limit with what was measured, and whether it is kept."""
    rows = [
        (
            one["name"],
            f"{one['comparison']} {one['bound']:g}",
            f"{number(one['value'], '.3f')} {one['unit']}",
            "kept" if one["kept"] else "**not kept**",
        )
        for one in limits
    ]
    return table(("limit", "wanted", "measured", ""), rows)
