"""The recipe of weights: what has to be known besides their numbers. It stands beside them, model.json by model.pt."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import BioAttError
from ..hu import WINDOWS_HU
from ..staging import write_json
from .contract import Denoiser
from .weights import weights_sha256

logger = logging.getLogger(__name__)


#: An argument of the bundle's own network that was chosen for its weights, and not for others (docs/adr/0019).
_OF_THE_WEIGHTS = "prior_share"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What weights were trained as and with, and the prior that inference takes.

    Without arguments: of weights that nothing is known of.

    Args:
        network_def: class and arguments of the network, as in a config.
        descriptors: the words of the prior, in the order of the network's maps; empty for those of the bundle.
        prior: the prior string, e.g. ``compact``, that inference takes where it names none.
        prior_digest: of everything that decides a prior; empty where it is not known.
        prior_preparation: ``window`` or ``minmax``.
        prior_window_hu: (lower, upper) of ``window``.
        prior_form: ``vector`` or ``dense``.
        prior_temperature: 1 leaves priors as they are.
        scope: ranges of what the network was shown (`volumes.scope.Scope`), None where they are not known.
        version: of the bundle that trained them.
        sha256: hex digest of the weights file.
    """

    network_def: Mapping[str, Any] | None = None
    descriptors: tuple[str, ...] = ()
    prior: str = "compact"
    prior_digest: str = ""
    prior_preparation: str = "window"
    prior_window_hu: tuple[float, float] = WINDOWS_HU["abdomen"]
    prior_form: str = "vector"
    prior_temperature: float = 1.0
    scope: Mapping[str, Any] | None = None
    version: str = ""
    sha256: str = ""


def _mapping(value: Any) -> dict[str, Any] | None:
    return None if value is None else dict(value.items())


def _window(value: Any) -> tuple[float, float]:
    lower, upper = map(float, value)
    return lower, upper


#: How fields that are no text are taken from JSON.
_CONVERT: dict[str, Callable[[Any], Any]] = {
    "network_def": _mapping,
    "descriptors": lambda value: tuple(map(str, value)),
    "prior_window_hu": _window,
    "prior_temperature": float,
    "scope": _mapping,
}


def recipe_path(weights: str | os.PathLike[str]) -> Path:
    """Where the recipe of a weights file stands.

    Raises:
        BioAttError: no file has such a name.
    """
    if not Path(weights).name:
        raise BioAttError(f"weights {str(weights)!r} is not a file; name a file with --weights, or train one")
    return Path(weights).with_suffix(".json")


def read_recipe(weights: str | os.PathLike[str]) -> Recipe:
    """The recipe beside a weights file.

    Where there is none, the log says so, and the weights are taken for the network of the bundle's own.

    Raises:
        BioAttError: it is damaged, or that of other weights.
    """
    path = recipe_path(weights)
    if path.is_file():
        recipe = _parse(path)
        if recipe.sha256 and Path(weights).is_file() and recipe.sha256 != (found := weights_sha256(weights)):
            raise BioAttError(
                f"{path} is the recipe of weights with sha256 {recipe.sha256[:16]}, {Path(weights).name} has "
                f"{found[:16]}; copy both from one place"
            )
        return recipe
    if Path(weights).is_file():
        logger.warning(
            "%s has no recipe %s beside it: the prior it was trained with is unknown", Path(weights).name, path.name
        )
    own = _parse(Path(__file__).parents[2] / "models" / "model.json").network_def or {}
    return Recipe(network_def={name: value for name, value in own.items() if name != _OF_THE_WEIGHTS})


def _parse(path: Path) -> Recipe:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Recipe(**{name: _CONVERT.get(name, str)(value) for name, value in fields.items()})
    except (OSError, AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BioAttError(
            f"{path} is not a recipe of weights ({error}); copy it again from where they are from"
        ) from error


def write_recipe(weights: str | os.PathLike[str], recipe: Recipe) -> Path:
    """Write `recipe` beside the weights it is of, with their digest; return its path.

    Raises:
        BioAttError: there are no such weights.
    """
    path = recipe_path(weights)
    if not Path(weights).is_file():
        raise BioAttError(f"no weights {weights} to write a recipe for; name the output folder that holds them")
    write_json(path, asdict(replace(recipe, sha256=weights_sha256(weights))))
    return path


def make_network(recipe: Recipe, otherwise: Denoiser | None = None) -> Denoiser:
    """The network of a recipe, untrained; `otherwise`, if given, where the weights came without one.

    A recipe is data: its network is a class of `scripts.networks`, and no other module is imported for it.

    Raises:
        BioAttError: it names no network, or none that can be made.
    """
    if otherwise is not None and not recipe.sha256:
        return otherwise
    arguments = dict(recipe.network_def or {})
    name = str(arguments.pop("_target_", ""))
    kind = _own_network(name)
    if kind is None:
        raise BioAttError(
            f"the recipe's network {name!r} is not one of scripts.networks; copy the recipe again, or name a network "
            "of your own as network_def in a config"
        )
    try:
        return kind(**arguments)
    except Exception as error:  # whatever a class makes of arguments that are none
        raise BioAttError(f"{name} of the recipe cannot be made ({error}); copy the recipe again") from error


def _own_network(name: str) -> type[Denoiser] | None:
    """The class that a recipe names, by its bare name, its module here, or where it is registered with MONAI."""
    place, _, kind = name.rpartition(".")
    package = sys.modules[__package__]
    stem = place.removeprefix(f"{__package__}.")
    if stem in {one.name for one in pkgutil.iter_modules(package.__path__)} and stem != place:
        found = getattr(importlib.import_module(place), kind, None)
    else:
        registered = re.fullmatch(r"monai\.networks\.nets(\.\w+)?", place) is not None
        found = getattr(package, kind, None) if place in ("", __package__) or registered else None
    return found if isinstance(found, type) and issubclass(found, Denoiser) else None
