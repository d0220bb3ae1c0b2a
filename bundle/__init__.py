"""BioAtt: low-dose CT denoising with an anatomical prior. ``bioatt.denoise`` is the door from Python.

    import bioatt
    bioatt.denoise("study/series3", "study/series3_denoised")

Importing it loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .scripts.app.entry import bundle_module
from .scripts.app.python import denoise
from .scripts.provenance import bundle_version

if TYPE_CHECKING:
    from .scripts.errors import BioAttError

__all__ = ["BioAttError", "denoise"]
__version__ = bundle_version()


def __getattr__(name: str) -> Any:
    """`BioAttError`, as the configs' code raises it."""
    if name == "BioAttError":
        return bundle_module("errors").BioAttError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
