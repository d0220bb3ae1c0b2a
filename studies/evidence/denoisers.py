"""What is measured: the bundle's inference on stacks of slices, with given weights, and the baselines beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scripts.dose.image_noise import noise_sd_hu
from scripts.hu import VALID_RANGE_HU, network_to_hu
from scripts.inference.inferers import find_priors, network_input
from scripts.priors import SliceKey
from scripts.strengths import DEFAULT

from studies.measures.baselines import gaussian, non_local_means

#: A stack of slices (n, H, W) in HU and their pixel spacing in mm, to a stack of the same shape, float32.
Denoise = Callable[[np.ndarray, float], np.ndarray]


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

    def __call__(self, stack_hu: np.ndarray, spacing_mm: float) -> np.ndarray:
        """Denoise slices (n, H, W) in HU, of pixels of `spacing_mm`."""
        return self.denoise(np.asarray(stack_hu, dtype=np.float32), spacing_mm)


def bundle_denoiser(name: str, weights: Path, **settings: Any) -> Denoiser:
    """`open_network` as a denoiser of that name; it says what `settings` there are."""
    opened = open_network(weights, **settings)
    return Denoiser(name=name, denoise=opened.denoise, record=opened.record)


class OpenedNetwork:
    """Network, prior and inferer of the inference workflow.

    Args:
        parser: of the opened workflow.

    Attributes:
        record: network, weights_sha256, prior and the like.
    """

    def __init__(self, parser: Any) -> None:
        keys = ("network", "inferer", "prior_source", "provenance", "device")
        self.network, self.inferer, self.prior_source, provenance, self.device = map(parser.get_parsed_content, keys)
        kept = ("network", "weights_sha256", "prior", "prior_model", "version")
        self.record = {key: getattr(provenance, key) for key in kept}
        self.record["strength"] = self.inferer.strength and asdict(self.inferer.strength)
        self.record["parameters"] = sum(one.numel() for one in self.network.parameters())

    def denoise(self, stack_hu: np.ndarray, spacing_mm: float) -> np.ndarray:
        """What the workflow makes of slices (n, H, W) in HU, of pixels of `spacing_mm`."""
        import torch
        from monai.data import MetaTensor

        values = torch.from_numpy(stack_hu.copy()).movedim(0, -1)[None, None].to(self.device)
        volume = MetaTensor(values, affine=torch.diag(torch.tensor([spacing_mm, spacing_mm, 1.0, 1.0])))
        result = self.inferer(volume, self.network).as_tensor()
        return result[0, 0].movedim(-1, 0).cpu().numpy()

    def prior(self, slice_hu: np.ndarray, key: SliceKey) -> Any:
        """Prior of a slice (H, W) in HU, as the network takes it."""
        import torch

        stack = torch.from_numpy(np.array(slice_hu[None], np.float32))
        return find_priors(self.prior_source, stack, [key])

    def output(self, slice_hu: np.ndarray, prior: Any) -> np.ndarray:
        """What the network alone makes of a slice (H, W) in HU with a given prior, before any strength."""
        import torch

        stack = torch.from_numpy(np.array(slice_hu[None], np.float32)).to(self.device)
        image, inside = network_input(stack)
        with torch.inference_mode():
            output = network_to_hu(self.network(image, prior.to(image)))[0, 0].cpu().numpy()
        return np.where(inside[0].cpu().numpy(), output.clip(*VALID_RANGE_HU), slice_hu)


def open_network(
    weights: Path,
    *,
    network_config: str = "",
    prior: str = "uniform",
    strength: str | None = DEFAULT,
    device: str = "",
    batch_size: int = 0,
) -> OpenedNetwork:
    """The inference workflow's network, prior and inferer, without its reading and writing.

    Args:
        weights: weights file.
        network_config: a config of the bundle or a path, whose network_def replaces that of inference.json.
        prior: as everywhere.
        strength: as everywhere; None for the bare output of the network.
        device: where the network runs; the workflow's own choice if empty.
        batch_size: slices at a time; the workflow's own choice if 0.

    Raises:
        BioAttError: weights and network do not fit, or the prior cannot be loaded.
    """
    import torch
    from scripts.workflow import open_workflow

    overrides: dict[str, Any] = {"weights": str(weights), "prior": prior, "progress": False}
    overrides |= {"inferer#strength": None} if strength is None else {"strength": strength}
    overrides |= {"device": torch.device(device)} if device else {}
    overrides |= {"batch_size": batch_size} if batch_size else {}
    configs = ["inference.json", *([network_config] if network_config else [])]
    return OpenedNetwork(open_workflow("inference", configs, overrides).parser)


def gaussian_denoiser(name: str, sigma_mm: float) -> Denoiser:
    """A Gaussian of `sigma_mm` in the plane."""

    def denoise(stack_hu: np.ndarray, spacing_mm: float) -> np.ndarray:
        return np.stack([gaussian(one, sigma_mm, spacing_mm) for one in stack_hu])

    return Denoiser(name=name, denoise=denoise, record={"network": f"Gaussian of {sigma_mm:.2f} mm"})


#: Non-local means beside the tuned ones: what gained most on the patients held out themselves, in a small search.
RETUNED = {"strength": 1.1, "blend": 0.8}


def nlm_denoiser(name: str = "nlm", **tuning: float) -> Denoiser:
    """The tuned, blended non-local means; a slice without soft tissue takes the noise of the stack's others.

    Args:
        name: see `Denoiser`.
        tuning: ``strength`` and ``blend``, where they are not the default.
    """

    def denoise(stack_hu: np.ndarray, spacing_mm: float) -> np.ndarray:
        noises = [noise_sd_hu(one) for one in stack_hu]
        typical = float(np.nanmedian(noises)) if np.isfinite(noises).any() else float("nan")
        pairs = zip(stack_hu, noises, strict=True)
        return np.stack([non_local_means(x, noise if np.isfinite(noise) else typical, **tuning) for x, noise in pairs])

    return Denoiser(name=name, denoise=denoise, record={"network": "non-local means, blended with its input", **tuning})
