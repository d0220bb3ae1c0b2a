"""The report as HTML: one file, its pictures inside, no script and nothing fetched."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..dose.image_noise import has_noise
from ..ownership import REPORT_TITLE
from ..provenance import NOT_FOR_DIAGNOSIS, Provenance
from ..strengths import Strength
from .sections import signed

PACKAGES = ("torch", "monai", "pytorch-ignite", "open_clip_torch", "pydicom", "nibabel", "numpy", "scipy")
NOTICE = f"{NOT_FOR_DIAGNOSIS} Not for diagnosis."


def page(
    volumes: Sequence[dict[str, Any]],
    facts: Sequence[dict[str, Any]],
    provenance: Provenance,
    seconds: float,
    warnings: Sequence[str],
) -> str:
    """The whole page, by page.html.

    Args:
        volumes: one for each volume, see `volume_section`.
        facts: one for each volume, its ``slices`` and ``noise_pairs``.
        provenance: what made the results.
        seconds: the run took.
        warnings: what it said.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    loader = FileSystemLoader(here, encoding="utf-8")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.get_template("page.html").render(
        title=REPORT_TITLE,
        style=(here / "page.css").read_text(encoding="utf-8"),
        notice=NOTICE,
        made=provenance,
        cards=_cards(facts, provenance, seconds),
        volumes=volumes,
        warnings=warnings,
        facts=_made_by(provenance),
    )


def noise_words(pairs: Sequence[tuple[float, float]]) -> tuple[str, str]:
    """Median noise [before, after] of slices and the change, in words."""
    if not pairs:
        return "not measured", "no flat soft tissue in the slices"
    before, after = np.median(pairs, axis=0)
    change = f"{signed(100 * (after / before - 1), 0)}%, " if has_noise(before) else ""
    return f"{before:.1f} → {after:.1f} HU", f"{change}SD in flat soft tissue"


def strength_words(strength: Strength) -> str:
    """What a strength means, for a reader."""
    grain = f"; of finer grain {strength.grain:.0%} stays" if strength.grain else ""
    restore = "" if strength.restore else "; no detail is restored"
    return f"what is much coarser than {strength.anchor_mm:.4g} mm (SD) is the scanner's own{grain}{restore}"


def _cards(facts: Sequence[dict[str, Any]], provenance: Provenance, seconds: float) -> list[tuple[str, str, str]]:
    slices = sum(one["slices"] for one in facts)
    several = f" in {len(facts)} volumes" if len(facts) > 1 else ""
    noise, change = noise_words([pair for one in facts for pair in one["noise_pairs"]])
    return [
        ("Noise before and after", noise, change),
        ("Slices", f"{slices}", f"{seconds:.1f} s, {seconds / max(1, slices):.2f} s a slice{several}"),
        ("Strength", provenance.strength.name, strength_words(provenance.strength)),
        ("Prior", provenance.prior, provenance.prior_model),
    ]


def _made_by(provenance: Provenance) -> list[tuple[str, str]]:
    return [
        ("Network", provenance.network),
        ("Weights, sha256", provenance.weights_sha256),
        ("Prior", f"{provenance.prior}: {provenance.prior_model}"),
        ("Strength", str(provenance.strength)),
        ("Precision", provenance.precision or "not recorded"),
        ("Bundle", f"{provenance.bundle} {provenance.version}"),
        ("Python", platform.python_version()),
        ("Packages", ", ".join(f"{name} {version(name)}" for name in PACKAGES)),
    ]
