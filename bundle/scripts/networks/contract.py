"""What the bundle asks of a network: the base class that every denoiser has."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
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

    Example::

        class Blur(Denoiser):
            def __init__(self, side=3):
                super().__init__()
                self.conv = nn.Conv2d(1, 1, side, padding=side // 2)

            def forward(self, image, prior=None):
                return self.conv(image)
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Denoiser:
        """Keep the arguments, which `definition` tells."""
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
    ) -> None:
        super().__init__()
        words = ", ".join(f"{name}={value}" for name, value in self._arguments.items())
        self.title = title or f"{type(self).__name__}({words})"
        self.attention = attention
        self.num_descriptors = num_descriptors
        self.multiple = multiple
        self.smallest_side = smallest_side
        self.margin = margin

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


def _plain(value: Any) -> Any:
    """`value` as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
