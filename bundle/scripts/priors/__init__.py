"""Priors: for each slice a distribution over anatomical descriptors, from a CLIP, a table, or none of both."""

from .clip import BIOMEDCLIP, ClipPrior, prepare
from .factory import make_prior
from .sources import (
    DESCRIPTORS,
    PriorSource,
    RandomPrior,
    SliceKey,
    TemperedPrior,
    UniformPrior,
    check_descriptors,
    whole_slice_priors,
)
from .tables import TablePrior, write_prior_table
