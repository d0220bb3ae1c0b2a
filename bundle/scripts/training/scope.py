"""What a training shows its network, in ranges, and the recipe of the weights that come of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..dose.image_noise import noise_frequency, noise_sd_hu
from ..hu import WINDOWS_HU
from ..networks import Denoiser, Recipe
from ..priors import PriorSource, make_prior
from ..provenance import bundle_version
from ..volumes.regions import UNKNOWN
from ..volumes.scope import KERNELS, NOISE_SLICES, RANGES, Facts, Scope, header_facts
from .studies import Study


def training_recipe(
    network: Denoiser,
    prior_source: PriorSource,
    *,
    preparation: str = "window",
    window_hu: Sequence[float] = WINDOWS_HU["abdomen"],
    form: str = "vector",
    temperature: float = 1.0,
    inference_prior: str = "",
    scope: Scope | None = None,
) -> Recipe:
    """The recipe of the weights that a training makes.

    Args:
        network: that is trained, not wrapped for several processes.
        prior_source: of the training.
        preparation, window_hu, form, temperature: of `make_prior`.
        inference_prior: the prior that the recipe names, which inference then takes by default; empty: the training's.
            Of another one than the training's no digest is written.

    Raises:
        BioAttError: there is no such `inference_prior`.
    """
    named = make_prior(inference_prior, descriptors=prior_source.descriptors) if inference_prior else prior_source
    return Recipe(
        network_def=network.definition,
        descriptors=tuple(prior_source.descriptors),
        prior=named.name,
        prior_digest=prior_source.digest if named.name == prior_source.name else "",
        prior_preparation=preparation,
        prior_window_hu=(float(window_hu[0]), float(window_hu[1])),
        prior_form=form,
        prior_temperature=float(temperature),
        scope=None if scope is None else asdict(scope),
        version=bundle_version(),
    )


def training_scope(pairs: Sequence[Mapping[str, Any]], noise_gain: Sequence[float] = (1.0, 1.0)) -> Scope:
    """What `pairs`, by `training_pairs`, will show a network.

    Args:
        noise_gain: range by which training scales the noise that the low dose has more than the full one.
    """
    patients = sorted({one["patient"] for one in pairs})
    facts = list(dict.fromkeys(one["pair"].facts for one in pairs))
    noises = [noise for name in patients for noise in _noises([p for p in pairs if p["patient"] == name], noise_gain)]
    by_kernel = {name: [noise for noise, kernels in noises if name in kernels] for name in KERNELS}
    regions = {one["region"] for one in pairs} | {one.region for one in facts}
    return Scope(
        **{name: _range([getattr(one, name) for one in facts]) for name in RANGES if name != "noise_sd_hu"},
        noise_sd_hu=_range([noise for noise, _ in noises]),
        regions=tuple(sorted(regions - {UNKNOWN})),
        patients=len(patients),
        noise_sd_hu_by_kernel={name: _limits(own) for name, own in by_kernel.items() if own},
    )


def facts_of_study(study: Study) -> Facts:
    """Facts of a study's full dose; its noise is not measured."""
    stack = study.full
    header = header_facts(stack.keys[0].file) if stack.series_instance_uid else {}
    spacing_mm = float(np.linalg.norm(stack.steps_mm[0]))
    return Facts(
        slice_thickness_mm=stack.thickness_mm, pixel_spacing_mm=spacing_mm, kvp=header.get("KVP"), region=study.region
    )


def _noises(pairs: list[Mapping[str, Any]], gains: Sequence[float]) -> list[tuple[float, list[str]]]:
    """Noise of the low doses of some slices of a patient, at each gain of the noise, with classes of the kernel."""
    noises = []
    for one in pairs[:: max(1, len(pairs) // NOISE_SLICES)]:
        full, lows, _ = one["pair"].load()
        full = full.astype(np.float32)
        frequency = noise_frequency([full])
        kernels = [] if math.isnan(frequency) else Facts(noise_frequency=frequency).kernels
        noises += [(noise_sd_hu(full + gain * (low - full)), kernels) for low in lows for gain in gains]
    return [(noise, kernels) for noise, kernels in noises if not math.isnan(noise)]


def _range(values: Sequence[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    return _limits(known) if known else None


def _limits(values: Sequence[float]) -> tuple[float, float]:
    return round(min(values), 4), round(max(values), 4)
