"""Acceptance limits of the evidence, and whether they are kept."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

_COMPARE = {"<": operator.lt, ">=": operator.ge}


@dataclass(frozen=True)
class Limit:
    """One number that was promised.

    Args:
        name: what is promised, in words.
        value: what was measured; NaN where nothing could be, which keeps no promise.
        comparison: ``<`` or ``>=``.
        bound: the limit.
        unit: of both.
    """

    name: str
    value: float
    comparison: str
    bound: float
    unit: str

    @property
    def kept(self) -> bool:
        """Whether the promise is kept."""
        return not math.isnan(self.value) and _COMPARE[self.comparison](self.value, self.bound)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "value": self.value,
            "comparison": self.comparison,
            "bound": self.bound,
            "unit": self.unit,
            "kept": self.kept,
        }
