"""Room of 0.3.2, for configs that were written then: what stood in it is in `volumes` and `training` now."""

from .training import *  # noqa: F403
from .volumes import *  # noqa: F403
