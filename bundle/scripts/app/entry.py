"""How a door finds the bundle's code: under one name, `scripts`, as the configs import it. Imports nothing heavy."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

BUNDLE_ROOT = Path(__file__).resolve().parents[2]


def bundle_module(name: str) -> ModuleType:
    """A module of the bundle by its name below scripts, e.g. ``app.commands.denoise``.

    An installed bundle is imported as ``bioatt.scripts``, but its configs name `scripts`: with two names its classes
    would exist twice.

    Raises:
        ImportError: another package is called `scripts` in this process.
    """
    package = "scripts"
    if str(BUNDLE_ROOT) not in sys.path:
        sys.path.insert(0, str(BUNDLE_ROOT))
    places = {Path(place).resolve() for place in getattr(importlib.import_module(package), "__path__", [])}
    if BUNDLE_ROOT / package not in places:
        found = ", ".join(sorted(map(str, places))) or "a module without a folder"
        raise ImportError(
            f"BioAtt's code is the package `scripts`, and this process has imported another of that name ({found}); "
            "rename that one, or use BioAtt in a process of its own"
        )
    return importlib.import_module(f"{package}.{name}")
