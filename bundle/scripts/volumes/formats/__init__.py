"""Formats of single files that hold a volume, by suffix. A new one is one module here, with what `Format` names.

DICOM is no such format: a series is a folder of files (`scripts.dicom`).
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path
from typing import Protocol

import numpy as np


class Format(Protocol):
    """A module of this package.

    Attributes:
        NAME: for messages.
        SUFFIXES: in lower case, longest first where one ends another.
    """

    NAME: str
    SUFFIXES: tuple[str, ...]

    def read(self, path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
        """Values (X, Y, Z), float32, as HU if that is what they are, and the affine, 4x4, index to RAS in mm."""
        ...

    def geometry(self, path: str | os.PathLike[str]) -> tuple[tuple[int, int, int], np.ndarray]:
        """Shape (X, Y, Z) and affine, by the header alone."""
        ...

    def write(self, source: str | os.PathLike[str], hu: np.ndarray, target: str | os.PathLike[str]) -> int:
        """Write `hu` (X, Y, Z) as `source` is stored; return how many voxels were clipped to its data type."""
        ...


#: All of them; read once, since they do not change.
FORMATS: tuple[Format, ...] = tuple(
    importlib.import_module(f"{__name__}.{found.name}") for found in sorted(pkgutil.iter_modules(__path__))
)


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The suffix by which a format knows the file, as it is spelt; empty if none does."""
    name = Path(path).name
    known = (suffix for one in FORMATS for suffix in one.SUFFIXES if name.lower().endswith(suffix))
    return name[-len(found) :] if (found := max(known, key=len, default="")) else ""


def format_of(path: str | os.PathLike[str]) -> Format | None:
    """The format that a file's name says; None for what may be DICOM."""
    suffix = suffix_of(path).lower()
    return next((one for one in FORMATS if suffix in one.SUFFIXES), None)
