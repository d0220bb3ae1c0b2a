"""The pages of `PAGES` in docs/evidence, and their plots, from the result files alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scripts.errors import BioAttError
from scripts.provenance import NOT_FOR_DIAGNOSIS

from . import baselines_page, operating_point_page, plane_page, texture_page
from .alpha import alpha_section
from .baselines_page import baselines_section
from .detection_page import conclusion as _detection
from .detection_page import detection_section
from .downstream_page import downstream_section
from .matrix_page import matrix_section
from .operating_point_page import operating_point_section
from .pictures_page import pictures_section
from .plane_page import plane_section
from .quality_page import doses_section, quality_section, series_section, volumes_section
from .texture_page import detectability_section, phantom_section

Results = dict[str, Any]


def write_pages(results: Path) -> list[Path]:
    """Write the pages beside the folder `results`, and the plots into it; return the pages.

    The page of the baselines, whose networks take hours to train, is left out where there is no baselines.json, and may
    be of other weights than the rest: it says of which.

    Raises:
        BioAttError: a result file is missing, or those there were measured on different weights.
    """
    pages = {
        page: names for page, names in PAGES.items() if page != BASELINES or (results / "baselines.json").is_file()
    }
    parts = {name: read_part(results, name) for names in pages.values() for name in names}
    check_same_weights({name: one for name, one in parts.items() if name not in PAGES[BASELINES]})
    written = []
    for page, names in pages.items():
        title, path = _TITLES[page], results.parent / page
        sections = [_SECTIONS[name](parts[name], results) for name in names]
        text = [f"# {title}", CONCLUSIONS[page](parts), _made_by(parts[names[0]]), *sections]
        path.write_text("\n\n".join(text) + "\n", encoding="utf-8")
        written.append(path)
    return written


def read_part(results: Path, name: str) -> Results:
    """One result file.

    Raises:
        BioAttError: there is none.
    """
    path = results / f"{name}.json"
    if not path.is_file():
        raise BioAttError(f"no {path}; measure it with `make evidence`, or --parts {name}")
    return json.loads(path.read_text(encoding="utf-8"))


def check_same_weights(parts: dict[str, Results]) -> None:
    """Refuse results of different weights in one page.

    Raises:
        BioAttError: names the parts.
    """
    digests = {name: one["network"]["weights_sha256"] for name, one in parts.items()}
    if len(set(digests.values())) > 1:
        told = ", ".join(f"{name} {digest[:16]}" for name, digest in digests.items())
        raise BioAttError(
            f"the results are of different weights ({told}); measure all parts again with `make evidence`"
        )


def _made_by(one: Results) -> str:
    network, versions = one["network"], ", ".join(f"{name} {v}" for name, v in one["versions"].items())
    return (
        f"Made by `{one['command']}`, never typed. Weights sha256 `{network['weights_sha256']}`, {network['network']}; "
        f"prior: {network['prior_model']}. Seed {one['seed']}. Versions: {versions}. The numbers stand in "
        f"[results](results/), definitions in [evaluation](../evaluation.md). {NOT_FOR_DIAGNOSIS}"
    )


BASELINES = "baselines.md"
_TITLES = {
    "quality.md": "Quality of the shipped weights",
    "texture.md": "Texture, resolution and detectability of the shipped weights",
    "operating_point.md": "The prior as operating point: an anchor for the lungs",
    BASELINES: "The shipped network beside RED-CNN, anchored alike",
}
#: Which result files each page shows, in order.
PAGES = {
    "quality.md": ("plane", "alpha", "pictures", "matrix", "quality", "doses", "downstream", "volumes", "series"),
    "texture.md": ("phantom", "detection", "detectability"),
    "operating_point.md": ("operating_point",),
    BASELINES: ("baselines",),
}
#: The first paragraph of each page: what was found, in plain words.
CONCLUSIONS: dict[str, Callable[[Mapping[str, Results]], str]] = {
    "quality.md": lambda parts: plane_page.page_conclusion(parts["plane"], parts["matrix"]),
    "texture.md": lambda parts: f"{texture_page.conclusion(parts['phantom'])} {_detection(parts['detection'])}",
    "operating_point.md": lambda parts: operating_point_page.conclusion(parts["operating_point"]),
    BASELINES: lambda parts: baselines_page.conclusion(parts["baselines"]),
}
_SECTIONS: dict[str, Callable[[Results, Path], str]] = {
    "plane": plane_section,
    "alpha": alpha_section,
    "matrix": matrix_section,
    "pictures": pictures_section,
    "quality": quality_section,
    "downstream": downstream_section,
    "doses": doses_section,
    "volumes": volumes_section,
    "series": series_section,
    "phantom": phantom_section,
    "detection": detection_section,
    "detectability": detectability_section,
    "operating_point": operating_point_section,
    "baselines": baselines_section,
}
