"""From a volume to its denoised one: the inferers, anchoring and restoring of their results, summary of a run."""

from .anchoring import anchored
from .inferers import AnchoredInferer, AutocastInferer, SlicePriorInferer, finish
from .restoring import restored
from .summary import InferenceSummary
