"""Priors: for each slice a distribution over anatomical descriptors, from a CLIP, a table, or none of both."""

from .clip import BIOMEDCLIP, ClipPrior, prepare
from .descriptors import DESCRIPTORS, check_descriptors
from .factory import make_prior
from .sources import PriorSource, RandomPrior, SliceKey, TemperedPrior, UniformPrior, whole_slice_priors
from .tables import TablePrior, write_prior_table

__all__ = [
    "BIOMEDCLIP",
    "DESCRIPTORS",
    "ClipPrior",
    "PriorSource",
    "RandomPrior",
    "SliceKey",
    "TablePrior",
    "TemperedPrior",
    "UniformPrior",
    "check_descriptors",
    "make_prior",
    "prepare",
    "whole_slice_priors",
    "write_prior_table",
]
