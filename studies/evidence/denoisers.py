"""What is measured: the bundle's inference on stacks of slices, with given weights, and the rivals beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scripts.dose.image_noise import noise_sd_hu
from scripts.errors import BioAttError
from scripts.evaluation.rivals import non_local_means

#: A stack of slices (n, H, W) in HU to one of the same shape, float32.
Denoise = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """A way to denoise, and what is recorded of it.

    Args:
        name: its name in result files, tables and plots.
        denoise: the work itself.
        record: network, weights_sha256, prior and the like.
    """

    name: str
    denoise: Denoise
    record: dict[str, Any] = field(default_factory=dict)

    def __call__(self, stack_hu: np.ndarray) -> np.ndarray:
        """Denoise slices (n, H, W) in HU."""
        return self.denoise(np.asarray(stack_hu, dtype=np.float32))


def bundle_denoiser(
    name: str, weights: Path, *, network_config: str = "", prior: str = "compact", device: str = "", batch_size: int = 0
) -> Denoiser:
    """The inference workflow's network, prior and inferer, without its reading and writing.

    Args:
        name: see `Denoiser`.
        weights: weights file.
        network_config: a config of the bundle or a path, whose network_def replaces that of inference.json.
        prior: as everywhere.
        device: where the network runs; the workflow's own choice if empty.
        batch_size: slices at a time; the workflow's own choice if 0.

    Raises:
        BioAttError: weights and network do not fit, or the prior cannot be loaded.
    """
    import torch
    from scripts.hu import hu_to_network, network_to_hu
    from scripts.workflow import open_workflow

    overrides: dict[str, Any] = {"weights": str(weights), "prior": prior, "progress": False}
    overrides |= {"device": torch.device(device)} if device else {}
    overrides |= {"batch_size": batch_size} if batch_size else {}
    configs = ["inference.json", *([network_config] if network_config else [])]
    parser = open_workflow("inference", configs, overrides).parser
    network, inferer = (parser.get_parsed_content(key) for key in ("network", "inferer"))
    provenance = parser.get_parsed_content("provenance")
    where = parser.get_parsed_content("device")

    def denoise(stack_hu: np.ndarray) -> np.ndarray:
        volume = hu_to_network(torch.from_numpy(stack_hu.copy())).movedim(0, -1)[None, None]
        return network_to_hu(inferer(volume.to(where), network))[0, 0].movedim(-1, 0).cpu().numpy()

    kept = ("network", "weights_sha256", "prior", "prior_model", "version")
    record = {key: getattr(provenance, key) for key in kept}
    record["parameters"] = sum(one.numel() for one in network.parameters())
    return Denoiser(name=name, denoise=denoise, record=record)


def rival(text: str, **settings: Any) -> tuple[Denoiser, Path]:
    """A rival and its weights as the command line spells it: ``NAME=WEIGHTS.pt:NETWORK.json``, or without the config.

    Raises:
        BioAttError: it is not spelt so, or a file is missing.
    """
    name, equals, files = text.partition("=")
    weights, _, config = files.partition(":")
    if not name or not equals or not weights:
        raise BioAttError(f"--rival {text}: wanted NAME=WEIGHTS.pt:NETWORK.json, e.g. redcnn=r.pt:network_redcnn.json")
    path = Path(config)
    config = str(path.resolve()) if config and path.is_file() else config
    return bundle_denoiser(name, Path(weights), network_config=config, **settings), Path(weights)


#: Non-local means beside the tuned ones: what gained most on the patients held out themselves, in a small search.
RETUNED = {"strength": 1.1, "blend": 0.8}


def nlm_denoiser(name: str = "nlm", **tuning: float) -> Denoiser:
    """The tuned, blended non-local means; a slice without soft tissue takes the noise of the stack's others.

    Args:
        name: see `Denoiser`.
        tuning: ``strength`` and ``blend``, where they are not the default.
    """

    def denoise(stack_hu: np.ndarray) -> np.ndarray:
        noises = [noise_sd_hu(one) for one in stack_hu]
        typical = float(np.nanmedian(noises)) if np.isfinite(noises).any() else float("nan")
        pairs = zip(stack_hu, noises, strict=True)
        return np.stack([non_local_means(x, noise if np.isfinite(noise) else typical, **tuning) for x, noise in pairs])

    return Denoiser(name=name, denoise=denoise, record={"network": "non-local means, blended with its input", **tuning})


def blended(denoised_hu: np.ndarray, input_hu: np.ndarray, strength: float) -> np.ndarray:
    """What ``--strength`` makes of an output."""
    return input_hu + strength * (denoised_hu - input_hu)


def at_strength(denoiser: Denoiser, strength: float) -> Denoiser:
    """The same at another strength, named so."""
    return Denoiser(
        name=f"{denoiser.name}, strength {strength:g}",
        denoise=lambda stack: blended(denoiser(stack), stack, strength),
        record={**denoiser.record, "strength": strength},
    )
