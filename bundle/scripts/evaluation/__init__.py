"""How good a denoised image is, measured: quality against the full dose, texture, intervals."""

from ..errors import BioAttError
from .handlers import ImageQuality, TrainingCurve
from .inserted import InsertedDiscs
from .intervals import patient_interval
from .quality import image_quality, tissue_bias


def __getattr__(name: str) -> object:
    """Say where a config of 0.3.2 finds what stood here then."""
    if name == "InferenceSummary":
        raise BioAttError("scripts.evaluation.InferenceSummary is scripts.inference.InferenceSummary now; name it so")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
