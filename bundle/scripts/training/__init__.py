"""Training: studies on disk, pairs of doses, patches, splits, targets, and the parts of the loop."""

from .load_pair import LoadPaird
from .loop import (
    Checkpoints,
    EarlyStop,
    StopOnNaN,
    begin_with,
    clip_gradients,
    is_first_process,
    join_processes,
    leave_processes,
    local_device,
)
from .pair_dataset import PairDataset
from .pairs import training_pairs
from .patches import EpochSampler, GridPatchd, RandPairPatchesd, SeededDataset, grid_patches
from .scope import write_scope
from .splits import make_split
from .studies import find_studies
from .targets import CleanedTargets, make_targets

__all__ = [
    "Checkpoints",
    "CleanedTargets",
    "EarlyStop",
    "EpochSampler",
    "GridPatchd",
    "LoadPaird",
    "PairDataset",
    "RandPairPatchesd",
    "SeededDataset",
    "StopOnNaN",
    "begin_with",
    "clip_gradients",
    "find_studies",
    "grid_patches",
    "is_first_process",
    "join_processes",
    "leave_processes",
    "local_device",
    "make_split",
    "make_targets",
    "training_pairs",
    "write_scope",
]
