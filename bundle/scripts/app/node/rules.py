"""Which series are denoised, and how: rules from a JSON file, of which the first that fits counts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from ...dicom.derived import was_denoised
from ...dicom.enhanced import frame_headers
from ...dicom.headers import label, open_dicom
from ...dicom.scan import says_localizer
from ...errors import BioAttError

_CONFIG = Path(__file__).resolve().parents[3] / "configs" / "inference.json"
#: Keys of the config that are the node's own.
_OWN = {"dataset_dir", "output_dir", "series", "overwrite", "stable_uids", "report", "progress"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule: what a header must say, and what is done then.

    Args:
        when: DICOM keyword to a regular expression that is searched in the value (several values are joined by
            backslashes; case does not matter), or to [LOWEST, HIGHEST], either of which may be null. All must hold.
        denoise: whether such series are denoised, or left out.
        derived: whether it is also about images that are DERIVED, not ORIGINAL.
        settings: keys and values of configs/inference.json, such as strength.

    Raises:
        BioAttError: an unknown keyword or key, or a condition that is neither.
    """

    name: str = "all"
    when: Mapping[str, str | Sequence[float | None]] = field(default_factory=dict)
    denoise: bool = True
    derived: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for keyword, wanted in self.when.items():
            if tag_for_keyword(keyword) is None:
                raise BioAttError(f"rule {self.name!r}: {keyword} is no DICOM keyword; write it as DICOM does")
            if not _is_condition(wanted):
                raise BioAttError(
                    f"rule {self.name!r}: {keyword} is {wanted!r}; expected a regular expression, or [LOWEST, HIGHEST]"
                )
        check_settings(self.settings, f"rule {self.name!r}")

    def fits(self, header: Dataset, file: Path) -> bool:
        """Whether it is about images with this header."""
        if not self.derived and label(header, "ImageType", file).upper().startswith("DERIVED"):
            return False
        return all(_holds(wanted, label(header, keyword, file)) for keyword, wanted in self.when.items())


@dataclass(frozen=True)
class Choice:
    """What becomes of a series.

    Args:
        settings: how it is denoised; None if it is left out.
    """

    settings: Mapping[str, Any] | None
    why: str


def read_rules(file: Path | None) -> list[Rule]:
    """The rules of a JSON file, a list of objects with the arguments of `Rule`; without a file all original CT.

    Raises:
        BioAttError: unreadable, not such a list, or see `Rule`.
    """
    if file is None:
        return [Rule()]
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise BioAttError(f"rules {file} cannot be read ({error}); expected a JSON list, see docs/node.md") from error
    return make_rules(found, f"rules {file}")


def make_rules(found: Any, where: str) -> list[Rule]:
    """Rules of what JSON gives.

    Raises:
        BioAttError: see `read_rules`.
    """
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found) or not found:
        raise BioAttError(f"{where}: expected a list of objects as rules, see docs/node.md")
    kinds = {"name": str, "when": dict, "denoise": bool, "derived": bool, "settings": dict}
    for number, one in enumerate(found, 1):
        wrong = {key for key in one if not isinstance(one[key], kinds.get(key, type(None)))}
        if wrong:
            raise BioAttError(f"{where}, rule {number}: {', '.join(sorted(wrong))}; it has {', '.join(kinds)}")
    return [Rule(**one) for one in found]


def check_settings(settings: Mapping[str, Any], where: str) -> None:
    """Refuse what is no key of the inference config, what is the node's own, and what MONAI would run as code.

    Raises:
        BioAttError: names it.
    """
    known = json.loads(_CONFIG.read_text(encoding="utf-8")).keys() - _OWN
    for key in settings:
        if re.split("#|::", key)[0] not in known:
            raise BioAttError(
                f"{where}: {key} cannot be set; expected keys of configs/inference.json, such as strength"
            )
        if not _is_plain(settings[key]):
            raise BioAttError(f"{where}: {key} is code or a reference; expected a plain value")


def choose(files: Iterable[Path], rules: Sequence[Rule]) -> Choice:
    """What becomes of a series, by the header of its first image that is no localizer.

    What BioAtt made never fits: a result that is routed back ends here.

    Raises:
        BioAttError: an image is damaged, or files that are no DICOM may have been all its slices.
    """
    unread = []
    for file in sorted(files):
        image = open_dicom(file, stop_before_pixels=True)
        if image is None:
            unread.append(file)
            continue
        if label(image, "Modality", file).upper() not in ("", "CT"):
            return Choice(None, "no CT")
        header = frame_headers(image, file)[0]
        if says_localizer(label(header, "ImageType", file)):
            continue
        if was_denoised(header):
            return Choice(None, "BioAtt made it")
        rule = next((one for one in rules if one.fits(header, file)), None)
        if rule is None:
            derived = label(header, "ImageType", file).upper().startswith("DERIVED")
            return Choice(None, "no rule fits" + (": it is DERIVED" if derived else ""))
        return Choice(rule.settings if rule.denoise else None, f"rule {rule.name}")
    if unread:
        raise BioAttError(f"{unread[0]} is not DICOM, and no other file of the series is a slice; send it again")
    return Choice(None, "no image but localizers")


def _is_plain(value: Any) -> bool:
    """Whether MONAI takes a value as it is: no expression, no reference, no component."""
    if isinstance(value, dict):
        return all(not key.startswith("_") and _is_plain(one) for key, one in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return not (isinstance(value, str) and value.startswith(("$", "@", "%")))


def _is_condition(wanted: Any) -> bool:
    if isinstance(wanted, str):
        try:
            return bool(re.compile(wanted))
        except re.error:
            return False
    if not isinstance(wanted, list) or len(wanted) != 2:
        return False
    bounds = [one for one in wanted if one is not None]
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in bounds)
    return numbers and bounds == sorted(bounds)


def _holds(wanted: str | Sequence[float | None], value: str) -> bool:
    if isinstance(wanted, str):
        return re.search(wanted, value, re.IGNORECASE) is not None
    try:
        number = float(value)
    except ValueError:
        return False
    low, high = wanted
    return (low is None or low <= number) and (high is None or number <= high)
