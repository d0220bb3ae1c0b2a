"""What the bundle asks of a network: the base class that every denoiser has, its first layer, its name in MONAI."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Denoiser(nn.Module):
    """A network ``forward(image, prior)``, both in and out in network range; the rest of the contract has defaults.

    A new backbone subclasses it, calls ``super().__init__`` and defines ``forward(image (B, 1, H, W), prior (B, K) or
    dense (B, K, h, w) or None)``, which returns (B, 1, H, W). Recipe, report, explain and export need no more.

    Args:
        title: class and size, for reports and results; by default the class and its arguments.
        attention: what kind it has: ``prior``, ``spatial``, ``channel`` or ``none``.
        num_descriptors: K, length of the prior.
        multiple: `pad` makes both sides a multiple of it, in pixels.
        smallest_side: `pad` makes both sides at least as long, in pixels.
        margin: how far away a pixel of the image may lie and still matter, in pixels: with so much around it, the body
            alone gives the same result as the whole slice. None: any pixel matters, so slices stay whole.
        prior_share: of the prior in what weights the maps, 1 in the paper; see `fill_prior`.

    Example::

        class Blur(Denoiser):
            def __init__(self, side=3):
                super().__init__()
                self.conv = nn.Conv2d(1, 1, side, padding=side // 2)

            def forward(self, image, prior=None):
                return self.conv(image)
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Denoiser:
        """Keep the arguments, which `definition` gives."""
        made = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs)
        given.apply_defaults()
        arguments = list(given.arguments.items())[1:]  # without self
        object.__setattr__(made, "_arguments", {name: _plain(value) for name, value in arguments})
        return made

    def __init__(
        self,
        *,
        title: str = "",
        attention: str = "none",
        num_descriptors: int = 11,
        multiple: int = 1,
        smallest_side: int = 1,
        margin: int | None = None,
        prior_share: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0.0 <= prior_share <= 1.0:
            raise ValueError(f"prior_share must be from 0 to 1, got {prior_share}")
        words = ", ".join(f"{name}={value}" for name, value in self._arguments.items())
        self.title = title or f"{type(self).__name__}({words})"
        self.attention = attention
        self.num_descriptors = num_descriptors
        self.multiple = multiple
        self.smallest_side = smallest_side
        self.margin = margin
        self.prior_share = float(prior_share)

    @property
    @torch.jit.unused
    def definition(self) -> dict[str, Any]:
        """What a config says to make it again, with every argument."""
        kind = type(self)
        known = kind.__module__.startswith("monai.")  # registered, and found by its bare name
        return {"_target_": kind.__name__ if known else f"{kind.__module__}.{kind.__qualname__}", **self._arguments}

    def attention_maps(self, image: Tensor, prior: Tensor | None = None) -> dict[str, Tensor]:
        """Maps for display, by block: ``NAME`` (B, K, h, w), and ``NAME_weighted`` (B, 1, h, w), their weighted sum."""
        return {}

    @torch.jit.unused
    def attention_grids(self) -> dict[str, tuple[int, int]]:
        """For each block, how many pixels of the image one of its maps covers, and where the first begins."""
        return {}

    def pad(self, image: Tensor) -> Tensor:
        """`image` (B, C, H, W), replicated at its right and lower side to a `multiple` and to `smallest_side`."""
        height, width = image.shape[-2], image.shape[-1]
        bottom = max(height + (-height) % self.multiple, self.smallest_side) - height
        right = max(width + (-width) % self.multiple, self.smallest_side) - width
        return F.pad(image, [0, right, 0, bottom], mode="replicate") if bottom > 0 or right > 0 else image


class ImageConv2d(nn.Conv2d):
    """The first layer, which sees the image: autocast leaves it in float32.

    bfloat16 has 8 significant bits: it would round the HU of soft tissue to steps of 2 to 4 HU before the network saw
    them, which is nearly all by which bf16 differs from fp32 (docs/performance.md).
    """

    def forward(self, image: Tensor) -> Tensor:
        """Return what nn.Conv2d returns, in float32 under autocast."""
        if not torch.jit.is_scripting():
            if torch.is_autocast_enabled(image.device.type):
                with torch.autocast(image.device.type, enabled=False):
                    return self._conv_forward(image.float(), self.weight, self.bias)
        return self._conv_forward(image, self.weight, self.bias)


def fill_prior(prior: Tensor | None, image: Tensor, num_descriptors: int, share: float = 1.0) -> Tensor:
    """Return `prior` in the image's data type, or the uniform one, (B, K), where it is None.

    Args:
        prior, image: see `Denoiser`.
        share: of the prior in what is returned; the rest is uniform, so that a wrong prior can do so much and no more.

    Raises:
        ValueError: an image that is not (B, 1, H, W) or empty, a prior that is neither (B, K) nor dense (B, K, h, w).
    """
    if image.dim() != 4 or image.shape[1] != 1 or image.numel() == 0:
        raise ValueError(f"image must be (B, 1, H, W), not empty, got {list(image.shape)}")
    if prior is None:
        uniform = 1.0 / num_descriptors
        return torch.full([image.shape[0], num_descriptors], uniform, dtype=image.dtype, device=image.device)
    if (prior.dim() != 2 and prior.dim() != 4) or prior.shape[0] != image.shape[0] or prior.shape[1] != num_descriptors:
        raise ValueError(
            f"prior must be ({image.shape[0]}, {num_descriptors}) or "
            f"({image.shape[0]}, {num_descriptors}, h, w), got {list(prior.shape)}"
        )
    prior = prior.to(image.dtype)
    return prior if share == 1.0 else prior * share + (1.0 - share) / num_descriptors


def register_with_monai(network: type, module_name: str) -> None:
    """Let ``"_target_": "<class name>"`` in a config find `network`, as it finds MONAI's own networks.

    MONAI looks for classes whose ``__module__`` starts with ``monai`` in modules that are loaded; pickling and
    TorchScript need that module to exist and to know its file. Doing it again, after this package was unloaded and
    imported anew, puts the new class in the place of the old one.

    Args:
        module_name: dotted name under an imported package of MONAI, e.g. ``monai.networks.nets.bioatt``.
    """
    import monai.networks.nets  # noqa: F401 (the parent has to be loaded)

    parent_name, _, leaf = module_name.rpartition(".")
    module = ModuleType(module_name, network.__doc__)
    module.__file__ = sys.modules[network.__module__].__file__ if network.__module__ in sys.modules else None
    setattr(module, network.__name__, network)
    network.__module__ = module_name
    sys.modules[module_name] = module
    setattr(sys.modules[parent_name], leaf, module)
    setattr(sys.modules[parent_name], network.__name__, network)


def _plain(value: Any) -> Any:
    """`value` as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
