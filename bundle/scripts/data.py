"""Room of 0.3.2, for configs that were written then: what stood in it is in `volumes` and `training` now."""

from .errors import BioAttError
from .training import *  # noqa: F403
from .volumes import *  # noqa: F403

_RECIPE = "the recipe of the weights tells the scope: see recipe in inference.json and train.json"
_BATCHES = "train.json makes batches with scripts.training.PatchBatches"
_GONE = {
    **dict.fromkeys(("scope_path", "write_scope"), _RECIPE),
    **dict.fromkeys(("make_targets", "CleanedTargets", "RandPairPatchesd"), _BATCHES),
}


def __getattr__(name: str) -> object:
    """Refuse what is no more, with what took its place."""
    if name in _GONE:
        raise BioAttError(f"scripts.data.{name} of 0.3.2 is no more: {_GONE[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
