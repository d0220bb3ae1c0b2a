"""Denoises each CT series of a study: which, by the rules of the node; each to a folder of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dicom.scan import Scan, scan, series_number
from ..errors import BioAttError, find_bioatt_error
from ..progress import bar
from ..staging import check_output_folder
from ..volumes.save import check_apart
from ..workflow import RepeatedInference
from .node.rules import Rule, choose
from .node.storage import is_uid

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SeriesOutcome:
    """What became of a series.

    Args:
        uid: SeriesInstanceUID.
        number: SeriesNumber, None where there is none.
        images: how many files.
        state: ``denoised``, ``left out`` or ``failed``.
        why: the reason, for the two latter.
        folder: name of the result's folder.
        figures: of `InferenceSummary`.
    """

    uid: str
    number: int | None
    images: int
    state: str
    why: str = ""
    folder: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


def denoise_study(
    study: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    configs: Sequence[str],
    overrides: Mapping[str, Any],
    rules: Sequence[Rule],
) -> int:
    """Denoise each CT series of a folder or zip that the rules choose, and print what became of all series.

    ::

        output_dir/
          series0003/    a derived series, by the SeriesNumber of its source; appears whole or not at all
          series0004/

    A series that fails stops no other.

    Args:
        study: folder or zip, with anything beside the series.
        output_dir: folder of the results: new, or empty; with ``overwrite`` the folders in it are replaced one by one.
        configs, overrides: of `RepeatedInference`, but for ``dataset_dir``, ``output_dir`` and ``series``.
        rules: see `scripts.app.node.rules`.

    Returns:
        The exit code: 0, or 1 if a series failed.

    Raises:
        BioAttError: there is no CT, a damaged file, or the folder cannot be used.
    """
    check_apart(study, output_dir)
    check_output_folder(output_dir, bool(overrides.get("overwrite")))
    scanned, root = scan(Path(study)), Path(output_dir)
    outcomes = [_other(uid, scanned) for uid in scanned.others]
    names, inference = folder_names(scanned), RepeatedInference()
    shared = {**overrides, "isolated": True, "progress": False, "summary": False}
    with bar(len(names), "series", bool(overrides.get("progress", True)), "series") as advance:
        for uid, name in names.items():
            places = {"dataset_dir": str(study), "output_dir": str(root / name), "series": uid}

            def denoise(settings: Mapping[str, Any], places: Mapping[str, Any] = places) -> dict[str, Any]:
                inference.load({**shared, **settings}, configs)  # loaded once for all series of the same settings
                return inference.run(places)

            outcomes.append(_denoise(uid, name, scanned, rules, denoise))
            advance(1)
    outcomes.sort(key=lambda one: (one.number or 0, one.uid))
    print("\n".join(_told(outcomes, root)), flush=True)
    return int(any(one.state == "failed" for one in outcomes))


def folder_names(scanned: Scan) -> dict[str, str]:
    """A folder for each CT series, by its number, a second one of a number with _2; with no words of the header."""
    names: dict[str, str] = {}
    for uid, files in scanned.series.items():
        number = series_number(files[0][1])
        name = f"series{number or 0:04d}"
        taken = sum(one == name or one.startswith(f"{name}_") for one in names.values())
        names[uid] = f"{name}_{taken + 1}" if taken else name
    return names


def _other(uid: str, scanned: Scan) -> SeriesOutcome:
    other = scanned.others[uid]
    return SeriesOutcome(uid=uid, number=other.number, images=other.images, state="left out", why=other.kind)


def _denoise(
    uid: str, name: str, scanned: Scan, rules: Sequence[Rule], denoise: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> SeriesOutcome:
    """Denoise one series, or leave it out; `denoise` takes the settings of its rule and returns the figures."""
    files = [file for file, _ in scanned.series[uid]]
    which = {"uid": uid, "number": series_number(scanned.series[uid][0][1]), "images": len(files)}
    try:
        if not is_uid(uid):  # it becomes a setting, and settings can be code
            raise BioAttError("its SeriesInstanceUID is no UID; repair it, or denoise it in a folder of its own")
        choice = choose(files, rules)
        if choice.settings is None:
            return SeriesOutcome(**which, state="left out", why=choice.why)
        return SeriesOutcome(**which, state="denoised", folder=name, figures=denoise(choice.settings))
    except Exception as error:
        ours = find_bioatt_error(error)
        if ours is None:
            logger.exception("series %s: unexpected error", uid)
        return SeriesOutcome(**which, state="failed", why=str(ours or f"unexpected {type(error).__name__}"))


def _told(outcomes: Sequence[SeriesOutcome], root: Path) -> list[str]:
    """A line for each series, and how many were denoised, left out and failed."""
    row = "{:>8}  {:>6}  {:<9}  {}"
    lines = ["", row.format("number", "images", "state", "")]
    for one in outcomes:
        number = "-" if one.number is None else one.number
        lines.append(row.format(number, one.images, one.state, _result(one) if one.folder else one.why))
    counts = (f"{sum(one.state == state for one in outcomes)} {state}" for state in ("denoised", "left out", "failed"))
    return [*lines, f"{len(outcomes)} series in {root}: {', '.join(counts)}"]


def _result(one: SeriesOutcome) -> str:
    noise = one.figures["noise_sd_hu"]
    told = f", noise {noise['before']:.1f} HU before, {noise['after']:.1f} HU after" if noise else ""
    outside = "".join(f"; outside what the weights were trained on: {what}" for what in one.figures["outside_scope"])
    return f"{one.folder}{told}{outside}"
