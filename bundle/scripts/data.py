"""Room of 0.3.2, for configs that were written then: what stood in it is in `volumes` and `training` now."""

from . import training, volumes
from .errors import BioAttError

_RECIPE = "the recipe of the weights holds the scope: see recipe in inference.json and train.json"
_BATCHES = "train.json makes batches with scripts.training.PatchBatches"
_GONE = {
    **dict.fromkeys(("scope_path", "write_scope"), _RECIPE),
    **dict.fromkeys(("make_targets", "CleanedTargets", "RandPairPatchesd"), _BATCHES),
}


def __getattr__(name: str) -> object:
    """What stood here; what is no more is refused, with what took its place."""
    if name in _GONE:
        raise BioAttError(f"scripts.data.{name} of 0.3.2 is gone: {_GONE[name]}")
    for room in (training, volumes):
        if hasattr(room, name):
            return getattr(room, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
