"""From a volume to its denoised one: the inferers, and the summary of a run."""

from .inferers import AutocastInferer, SlicePriorInferer
from .summary import InferenceSummary

__all__ = ["AutocastInferer", "InferenceSummary", "SlicePriorInferer"]
