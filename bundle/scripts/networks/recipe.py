"""The recipe of weights: what has to be told besides their numbers. It stands beside them, model.json by model.pt."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pydoc import locate
from typing import Any

from ..errors import BioAttError
from ..hu import WINDOWS_HU
from ..staging import staged_file
from .contract import Denoiser
from .weights import weights_sha256

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What weights were trained as and with. Without arguments: of weights that nothing is known of.

    Args:
        network_def: class and arguments of the network, as in a config.
        descriptors: the words of the prior, in the order of the network's maps; empty for those of the bundle.
        prior: the prior string, e.g. ``compact``.
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


def recipe_path(weights: str | os.PathLike[str]) -> Path:
    """Where the recipe of a weights file stands."""
    return Path(weights).with_suffix(".json")


def read_recipe(weights: str | os.PathLike[str]) -> Recipe:
    """The recipe beside a weights file; an empty one where there is none, which the log says.

    Raises:
        BioAttError: it is damaged, or that of other weights.
    """
    path = recipe_path(weights)
    if not path.is_file():
        logger.warning("%s has no recipe %s beside it: nobody knows which prior fits it", Path(weights).name, path.name)
        return Recipe()
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        for name, kind in {"descriptors": str, "prior_window_hu": float}.items():
            if name in fields:
                fields[name] = tuple(map(kind, fields[name]))
        recipe = Recipe(**fields)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BioAttError(
            f"{path} is no recipe of weights ({error}); copy it again from where they are from"
        ) from error
    if recipe.sha256 and Path(weights).is_file() and recipe.sha256 != (found := weights_sha256(weights)):
        raise BioAttError(
            f"{path} is the recipe of weights with sha256 {recipe.sha256[:16]}, {Path(weights).name} has {found[:16]}; "
            "copy both from one place"
        )
    return recipe


def write_recipe(weights: str | os.PathLike[str], recipe: Recipe) -> Path:
    """Write `recipe` beside the weights it is of, with their digest; return its path."""
    path = recipe_path(weights)
    fields = asdict(replace(recipe, sha256=weights_sha256(weights)))
    with staged_file(path) as partial:
        partial.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    return path


def make_network(recipe: Recipe, otherwise: Denoiser | None = None) -> Denoiser:
    """The network of a recipe, untrained; `otherwise` where the recipe names none.

    A recipe is data: its network is a class of `scripts.networks` or a `Denoiser` of another module, and nothing else
    is called.

    Raises:
        BioAttError: it names no network, or none that can be made.
    """
    if recipe.network_def is None:
        if otherwise is None:
            raise BioAttError(
                "the weights have no recipe beside them, so their network is not known; copy it from where they are "
                "from, or name the network (network_def, or --network)"
            )
        return otherwise
    from . import __name__ as here

    arguments = dict(recipe.network_def)
    name = str(arguments.pop("_target_", ""))
    kind = locate(name if "." in name else f"{here}.{name}")
    if not (isinstance(kind, type) and issubclass(kind, Denoiser)):
        raise BioAttError(f"the recipe's network {name!r} is not one; wanted a scripts.networks.Denoiser")
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise BioAttError(f"{name} of the recipe cannot be made ({error}); copy the recipe again") from error
