"""From a volume to its denoised one: the inferers, the anchoring of their results, and the summary of a run."""

from .anchoring import anchored
from .inferers import AnchoredInferer, AutocastInferer, SlicePriorInferer
from .summary import InferenceSummary

__all__ = ["AnchoredInferer", "AutocastInferer", "InferenceSummary", "SlicePriorInferer", "anchored"]
