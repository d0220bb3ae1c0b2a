"""Module of 0.3.2, for configs that were written then: what stood in it is in `inference` now."""

from .inference import *  # noqa: F403
