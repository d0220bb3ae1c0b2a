"""Targets that are cleaner than a scanner's full dose: its noise taken down by a trained network, its edges kept."""

from __future__ import annotations

import copy
import hashlib
import json
import os

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude
from torch import nn

from ..hu import VALID_RANGE_HU, hu_to_network, network_to_hu
from ..networks import load_weights, weights_sha256
from ..priors import PriorSource, SliceKey

#: Part of the digest; raise it when the formula changes.
_VERSION = 1


class CleanedTargets:
    """Cleans full-dose slices with a network that was trained before.

    ::

        D = network(full),  w = 1 / (1 + (|grad G full| / edge)^4),  G: Gaussian of 1 pixel
        target = full + w (D - full) + sharpening (1 - w) (D - G D)

    A network that is trained long on noisy full doses learns to keep their noise (docs/adr/0007). With these targets it
    cannot. At strong edges w is near 0: there the target is the scanner's own image, a little sharpened, so that what
    a trained network loses at an edge is made up for.

    Args:
        network: the architecture of `weights`; a copy of it is taken, on the CPU.
        weights: of the network that cleans.
        prior_source: gives the priors of full-dose slices.
        edge_hu_per_pixel: gradient at which half of the noise is taken down.
        sharpening: of strong edges, 0 for none.

    Raises:
        BioAttError: the weights cannot be read or do not fit.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        weights: str | os.PathLike[str],
        prior_source: PriorSource,
        edge_hu_per_pixel: float = 40.0,
        sharpening: float = 0.1,
    ) -> None:
        self.network = load_weights(copy.deepcopy(network), weights)
        self.prior_source = prior_source
        self.edge_hu_per_pixel = edge_hu_per_pixel
        self.sharpening = sharpening
        recipe = [_VERSION, weights_sha256(weights), prior_source.digest, edge_hu_per_pixel, sharpening]
        #: Hex digest of all that decides a target, to key caches.
        self.digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()

    def __call__(self, full_hu: np.ndarray, key: SliceKey) -> np.ndarray:
        """Return the target (H, W) of a full-dose slice (H, W), both in HU; float32."""
        full = np.asarray(full_hu, dtype=np.float32).clip(*VALID_RANGE_HU)
        stack = torch.from_numpy(full)[None]
        with torch.inference_mode():
            denoised = self.network(hu_to_network(stack[:, None]), self.prior_source(stack, [key]))
        cleaned = network_to_hu(denoised)[0, 0].clamp(*VALID_RANGE_HU).numpy()
        flat = 1.0 / (1.0 + (gaussian_gradient_magnitude(full, 1.0) / self.edge_hu_per_pixel) ** 4)
        edges = self.sharpening * (1.0 - flat) * (cleaned - gaussian_filter(cleaned, 1.0))
        return full + flat * (cleaned - full) + edges


def make_targets(weights: str, network: nn.Module, prior_source: PriorSource) -> CleanedTargets | None:
    """`CleanedTargets` with the architecture that is trained; None without `weights`: full doses are the targets."""
    return CleanedTargets(network=network, weights=weights, prior_source=prior_source) if weights else None
