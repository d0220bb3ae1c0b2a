"""How good a denoised image is, measured: quality against the full dose, texture, edges, and summary of a run."""

from .handlers import ImageQuality, TrainingCurve
from .intervals import paired_interval, patient_interval
from .quality import image_quality, tissue_bias
from .summary import InferenceSummary

__all__ = [
    "ImageQuality",
    "InferenceSummary",
    "TrainingCurve",
    "image_quality",
    "paired_interval",
    "patient_interval",
    "tissue_bias",
]
