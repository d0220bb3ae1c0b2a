"""One string names a prior everywhere; here it becomes the object that gives priors."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import BioAttError
from ..hu import WINDOWS_HU
from .clip import BIOMEDCLIP, ClipPrior
from .sources import DESCRIPTORS, PriorSource, RandomPrior, TemperedPrior, UniformPrior, check_descriptors
from .tables import TablePrior

if TYPE_CHECKING:
    from ..networks.recipe import Recipe

logger = logging.getLogger(__name__)

COMPACT_LABEL = "compact prior model 2.0 (a stand-in, not BiomedCLIP)"
PRIORS = "compact | biomedclip | hf-hub:NAME | local-dir:PATH | table:FILE | uniform | random:SEED"


def make_prior(
    prior: str = "compact",
    *,
    descriptors: Sequence[str] = DESCRIPTORS,
    preparation: str = "window",
    window_hu: tuple[float, float] = WINDOWS_HU["abdomen"],
    form: str = "vector",
    temperature: float = 1.0,
    device: str | torch.device = "cpu",
    recipe: Recipe | None = None,
) -> PriorSource:
    """Make the source of priors that a string names.

    Args:
        prior: ``compact`` (the bundle's own stand-in), ``biomedclip`` (the paper's, from the hub or its cache),
            ``hf-hub:ORG/NAME``, ``local-dir:PATH``, ``table:FILE``, ``uniform`` or ``random:SEED``.
        descriptors: the words the prior is a distribution over.
        preparation: how HU become the 8 bits a CLIP takes: ``window`` or ``minmax`` (the paper's).
        window_hu: (lower, upper) of ``window``.
        form: ``vector``, one prior for a slice, or ``dense``, one at each place of it (only a CLIP sees places).
        temperature: see `TemperedPrior`; 1 leaves priors as they are.
        device: where a CLIP runs.
        recipe: of the weights that get the priors; None asks nothing. Another prior than theirs is logged.

    Raises:
        BioAttError: the string is none of these, or what it names cannot be loaded; raised here and not
            first when a slice comes. Also when the weights were trained with other words, or with another form,
            temperature, preparation or window, which the controls (uniform, random) do not have.

    Example:
        >>> make_prior("uniform").model
        'uniform prior (no model)'
    """
    if not isinstance(prior, str):
        raise BioAttError(f"unknown prior {prior!r}; use one of {PRIORS}")
    asked: dict[str, Any] = {"preparation": preparation, "window_hu": window_hu, "form": form}
    if recipe is not None and recipe.sha256:
        _check_recipe(recipe, prior, descriptors, **asked, temperature=temperature)
    if prior in ("compact", "biomedclip") or re.match(r"(hf-hub|local-dir):.", prior):
        name, label = _find_clip(prior, descriptors)
        source: PriorSource = ClipPrior(name, descriptors=descriptors, **asked, device=device, label=label)
        folder = prior.removeprefix("local-dir:")
        source.name = prior if folder == prior else f"local-dir:{Path(folder).name}"  # no path leaves this machine
    else:
        source = _without_clip(prior, descriptors)
        if form != "vector" and not (recipe is not None and _is_control(prior)):
            raise BioAttError(f"the prior {source.name} has no form {form!r}: only a CLIP sees places; use vector")
    source = source if temperature == 1 else TemperedPrior(source, temperature)
    if recipe is not None and recipe.prior_digest not in ("", source.digest):
        logger.warning(
            "the weights were trained with the prior %s, digest %s; this is %s, digest %s",
            *(recipe.prior, recipe.prior_digest[:16], source.name, source.digest[:16]),
        )
    return source


def _check_recipe(recipe: Recipe, prior: str, descriptors: Sequence[str], **asked: object) -> None:
    """Refuse what the weights were not trained with, with both values."""
    if recipe.descriptors and tuple(descriptors) != recipe.descriptors:
        raise BioAttError(
            f"the weights were trained with the descriptors {', '.join(recipe.descriptors)}, not with "
            f"{', '.join(descriptors)}; leave prior_descriptors out"
        )
    if _is_control(prior):
        return
    for name, value in asked.items():
        trained = getattr(recipe, f"prior_{name}")
        value = tuple(value) if isinstance(value, (list, tuple)) else value
        if value != trained:
            raise BioAttError(
                f"the weights were trained with prior_{name} {trained}, not {value}; leave it out, or take weights "
                "trained so"
            )


def _is_control(prior: str) -> bool:
    return prior == "uniform" or prior.startswith("random:")


def _without_clip(prior: str, descriptors: Sequence[str]) -> PriorSource:
    """The source of a prior that needs no CLIP."""
    kind, _, rest = prior.partition(":")
    if prior == "uniform":
        return UniformPrior(descriptors=descriptors)
    if kind == "random" and rest.isdecimal():
        return RandomPrior(int(rest), descriptors=descriptors)
    if kind == "table" and rest:
        return TablePrior(rest, descriptors=descriptors)
    raise BioAttError(f"unknown prior {prior!r}; use one of {PRIORS}")


def _find_clip(prior: str, descriptors: Sequence[str]) -> tuple[str, str]:
    """The name open_clip reads, and the model in words: a folder by its name, not by its whole path."""
    if prior == "biomedclip" or prior == BIOMEDCLIP:
        return BIOMEDCLIP, "BiomedCLIP"
    if prior.startswith("local-dir:"):
        return prior, f"open_clip model in folder {Path(prior.removeprefix('local-dir:')).resolve().name}"
    if prior.startswith("hf-hub:"):
        return prior, f"open_clip model {prior}"
    unknown = [word for word in check_descriptors(descriptors) if word not in DESCRIPTORS]
    if unknown:
        raise BioAttError(
            f"the compact prior model does not know {', '.join(unknown)}; it was trained on {', '.join(DESCRIPTORS)} "
            "only; use these, or biomedclip"
        )
    return f"local-dir:{Path(__file__).parents[2] / 'models' / 'prior'}", COMPACT_LABEL
