"""How good a denoised image is, measured: summary of a run, quality against the full dose, edges and tissues."""

from .quality import ImageQuality, TrainingCurve, image_quality
from .summary import InferenceSummary

__all__ = ["ImageQuality", "InferenceSummary", "TrainingCurve", "image_quality"]
