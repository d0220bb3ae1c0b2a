"""Config keys and values as words of a command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..errors import BioAttError


def read_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as config overrides; a value is JSON where it can be, else text.

    Raises:
        BioAttError: a word of another form.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise BioAttError(f"--set {pair}: wanted KEY=VALUE, e.g. prior=uniform")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings
