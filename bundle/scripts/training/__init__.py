"""Training: studies on disk, pairs of doses, patches, splits, targets, and the parts of the loop."""

from .batches import Augmentation, PatchBatches
from .load_pair import LoadPaird
from .loop import (
    Attached,
    Checkpoints,
    EarlyStop,
    ProbedSquaredError,
    StopOnNaN,
    TargetLoss,
    WeightAverage,
    begin_with,
    clip_gradients,
    is_first_process,
    join_processes,
    leave_processes,
    local_device,
    on_targets,
    published_weights,
    step_loss,
)
from .pair_dataset import PairDataset
from .pairs import training_pairs
from .patches import EpochSampler, GridPatchd, SeededDataset, grid_patches
from .scope import training_recipe, training_scope
from .splits import make_split
from .studies import find_studies

__all__ = [
    "Attached",
    "Augmentation",
    "Checkpoints",
    "EarlyStop",
    "EpochSampler",
    "GridPatchd",
    "LoadPaird",
    "PairDataset",
    "PatchBatches",
    "ProbedSquaredError",
    "SeededDataset",
    "StopOnNaN",
    "TargetLoss",
    "WeightAverage",
    "begin_with",
    "clip_gradients",
    "find_studies",
    "grid_patches",
    "is_first_process",
    "join_processes",
    "leave_processes",
    "local_device",
    "make_split",
    "on_targets",
    "published_weights",
    "step_loss",
    "training_pairs",
    "training_recipe",
    "training_scope",
]
