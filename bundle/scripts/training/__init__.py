"""Training: studies on disk, pairs of doses, patches, splits, targets, and the parts of the loop."""

from ..errors import BioAttError
from .batches import Augmentation, PatchBatches
from .loop import (
    Attached,
    Checkpoints,
    EarlyStop,
    LastValidation,
    ProbedSquaredError,
    StopOnNaN,
    WeightAverage,
    clip_gradients,
    end_process_group,
    initialise_from,
    is_first_process,
    local_device,
    on_targets,
    published_share,
    published_weights,
    start_process_group,
    step_loss,
)
from .pair_dataset import LoadPaird, PairDataset
from .pairs import training_pairs
from .scope import training_recipe, training_scope
from .splits import make_split
from .studies import find_studies

_RENAMED = {
    "begin_with": "initialise_from",
    "join_processes": "start_process_group",
    "leave_processes": "end_process_group",
}


def __getattr__(name: str) -> object:
    """Say by which name a config of an older version finds what stood here then."""
    if name in _RENAMED:
        raise BioAttError(f"scripts.training.{name} is scripts.training.{_RENAMED[name]} now; name it so")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
