"""What docs/evidence/quality.md says of where the network holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .matrix import held
from .plane import EDGE_MM
from .tables import number, table


def matrix_section(one: dict[str, Any], results: Path) -> str:
    """A row for each patient and dose."""
    kept, count = held(one)
    rows = []
    for patient, facts in one["series"].items():
        for dose, of in one["doses"].items():
            cell = of[patient]
            rows.append(
                (
                    *(patient, facts["kernel"], _short(facts["kvp"]), _short(facts["slice_thickness_mm"])),
                    *(
                        number(facts["field_of_view_mm"], ".0f"),
                        f"{float(dose):.0%}",
                        number(cell["noise_in_hu"], ".0f"),
                    ),
                    f"{cell['noise_left']:.0%}",
                    *(f"{cell['contrast'][d]:.0%} ({cell['above'][d]:+.1f})" for d in ("4", "6", "10")),
                    *(number(cell[region]["input"]) for region in ("body", "edges")),
                    "; ".join(cell["ends"]) or "holds",
                )
            )
    head = (
        *("patient", "kernel", "kV", "thickness (mm)", "field of view (mm)", "dose", "noise (HU)", "noise left"),
        *("4 mm (above a Gaussian, points)", "6 mm", "10 mm", "error over the input's, body", "edges", ""),
    )
    return f"""## Where it holds, and where it ends

Of {count} pairs of patient and dose, {kept} hold at strength {one["strength"]} in all of this: contrast of 4, 6 and
10 mm discs at or above a Gaussian of equal noise, an error against the truth of body and edges below that of the best
Gaussian, body and bone edges less than {EDGE_MM:g} mm wider than the input's. {one["slices"]} slices per patient; a
row is one patient at one
dose: n = 1, so it has no interval. The table is to show which kernel, voltage, thickness, field of view and dose the
promise covers; six patients are too few to test any of these by itself.

{table(head, rows)}"""


def _short(text: str) -> str:
    """A number of a header without trailing zeros."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text
