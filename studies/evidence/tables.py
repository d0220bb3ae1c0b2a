"""Tables of the pages, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.pages import table


def number(value: float | None, form: str = ".2f") -> str:
    """A number as text; - for what could not be measured."""
    return "-" if value is None else format(value, form)


def mean_with_interval(one: Mapping[str, Any], form: str) -> str:
    """A mean over patients with its 95% interval; its n where there are too few for one, - where there are none.

    Args:
        one: of `scripts.evaluation.intervals.patient_interval`.
        form: how the numbers are written.
    """
    if not one["n"]:
        return "-"
    mean, interval = format(one["mean"], form), one["interval_95"]
    return f"{mean} ({interval[0]:{form}} to {interval[1]:{form}})" if interval else f"{mean} (n = {one['n']})"


def with_interval(value: float | None, interval: Sequence[float] | None, form: str = ".2f") -> str:
    """A number with its 95% interval; - for what could not be measured.

    Args:
        value: the number.
        interval: [lower, upper], or None where there is none.
        form: how the numbers are written.
    """
    if value is None or interval is None:
        return number(value, form)
    return f"{value:{form}} ({interval[0]:{form}} to {interval[1]:{form}})"


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
    return table(("limit", "required", "measured", ""), rows)
