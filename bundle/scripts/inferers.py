"""Module of 0.3.2, for configs that were written then: what stood in it is in `inference` now."""

from . import inference


def __getattr__(name: str) -> object:
    """What stood here."""
    return getattr(inference, name)
