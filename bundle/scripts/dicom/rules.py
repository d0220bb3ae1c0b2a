"""What a user can choose about a derived series: description, number, UIDs, and whether private elements stay."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np

from ..errors import BioAttError
from ..provenance import Derivation

_MAX_DESCRIPTION = 64  # characters of an LO (PS3.5 6.2)
_MAX_NUMBER = 2**31 - 1  # of an IS


@dataclass(frozen=True, kw_only=True)
class DerivedRules:
    """How derived series are named, and what they keep.

    Args:
        series_description: SeriesDescription; ``{source}`` stands for the source's, cut short where the whole would
            exceed 64 characters, and ``{derivation}`` for what was done, e.g. ``BioAtt denoised``.
        series_number_step: added to the source's SeriesNumber.
        stable_uids: derive UIDs from the source's, from what made the result, from these rules and from the values
            stored, so that the same result has the same UIDs, and different ones never share one. Else they are new
            each time.
        keep_private: keep private elements (docs/adr/0006 says why they go).

    Raises:
        BioAttError: an unknown placeholder, characters that DICOM does not allow, or a negative step.
    """

    series_description: str = "{source} {derivation}"
    series_number_step: int = 1000
    stable_uids: bool = False
    keep_private: bool = False

    def __post_init__(self) -> None:
        template = self.series_description
        fixed = re.sub(r"\{(source|derivation)\}", "", template)
        if not template.strip() or re.search(r"[{}]", fixed) or plain(fixed, len(fixed)) != fixed.strip():
            raise BioAttError(
                f"series_description is {template!r}; expected printable ASCII text without backslash, with {{source}} "
                "and {derivation} in place of the source's description and of what was done"
            )
        if len(fixed) > _MAX_DESCRIPTION - 16:
            raise BioAttError(f"series_description {template!r} is too long; expected at most 48 characters of its own")
        step = self.series_number_step
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= _MAX_NUMBER:
            raise BioAttError(f"series_number_step is {step!r}, expected a whole number from 0")

    def description(self, source: str, derivation: str) -> str:
        """SeriesDescription of the derived series, at most 64 characters."""
        if "\ufffd" in source or not source.isprintable():  # could not be read: its bytes are not repeated
            source = ""
        fixed = re.sub(r"\{source\}", "", self.series_description)
        room = _MAX_DESCRIPTION - len(re.sub(r"\{derivation\}", "", fixed))
        derivation = plain(derivation, room)
        room = _MAX_DESCRIPTION - len(fixed.replace("{derivation}", derivation))
        template = self.series_description.replace("{derivation}", derivation)
        return template.replace("{source}", source[: max(room, 0)].rstrip()).strip()[:_MAX_DESCRIPTION]

    def number(self, source: int | None) -> int:
        """SeriesNumber of the derived series."""
        return max(min((source or 0) + self.series_number_step, _MAX_NUMBER), -_MAX_NUMBER)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all images of one derived series share.

    Args:
        rules: how they are named.
        key: digest of what made them and of their values where UIDs are stable, else None.
        now: when they are made, aware.
    """

    provenance: Derivation
    rules: DerivedRules
    key: str | None
    series_instance_uid: str
    now: datetime

    @classmethod
    def start(
        cls, provenance: Derivation, rules: DerivedRules, source_uid: str, values: Iterable[np.ndarray] | None
    ) -> Run:
        """A new series, made now from the series `source_uid`; of `values`, what is stored, come stable UIDs."""
        key = None if values is None else _digest(provenance, rules, values)
        return cls(
            provenance=provenance,
            rules=rules,
            key=key,
            series_instance_uid=_uid(key, "series", source_uid),
            now=datetime.now().astimezone(),
        )

    def instance_uid(self, source_uid: str) -> str:
        """SOPInstanceUID of the image derived from the instance `source_uid`."""
        return _uid(self.key, "instance", source_uid)

    def concatenation_uid(self, source_uid: str) -> str:
        """What stands for a UID that the files of a concatenation share; the same for all files of the run."""
        return _uid(self.series_instance_uid, "concatenation", source_uid)


def plain(words: str, limit: int) -> str:
    """`words` in at most `limit` printable ASCII characters without backslash: valid in every character set."""
    ascii_words = words.encode("ascii", "replace").decode("ascii")
    return re.sub(r"[^ -\[\]-~]+", " ", ascii_words).strip()[:limit]


def _digest(provenance: Derivation, rules: DerivedRules, values: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps([provenance.as_dict(), asdict(rules)], sort_keys=True).encode())
    for stored in values:
        digest.update(np.ascontiguousarray(stored, dtype=np.float32).tobytes())
    return digest.hexdigest()


def _uid(key: str | None, what: str, source_uid: str) -> str:
    """A UID from a UUID below 2.25 (PS3.5 B.2): random, or with a key a function of it and the source's."""
    made = uuid.uuid4() if key is None else uuid.uuid5(uuid.NAMESPACE_OID, f"BioAtt {what} {source_uid} {key}")
    return f"2.25.{made.int}"
