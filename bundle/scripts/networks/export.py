"""The network as an ONNX file, for other runtimes, checked against PyTorch."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import BioAttError
from ..hu import NETWORK_OFFSET_HU, NETWORK_WIDTH_HU
from ..staging import staged_file

#: Largest difference from PyTorch, in network range; 0.05 HU.
TOLERANCE = 1e-4
#: How HU become `image` and `denoised`, as the file tells it.
NETWORK_RANGE = f"(HU + {NETWORK_OFFSET_HU:g}) / {NETWORK_WIDTH_HU:g}"
_AXES = {"image": {0: "batch", 2: "height", 3: "width"}, "prior": {0: "batch"}}

Runner = Callable[[Tensor, Tensor], Tensor]


def export_network(
    network: nn.Module, path: str | os.PathLike[str], *, record: Mapping[str, str] | None = None
) -> float:
    """Write `network` as a file that needs none of this bundle's code, and compare it with PyTorch.

    Inputs are ``image`` (B, 1, H, W) in network range, (HU + 500) / 500, and ``prior`` (B, K); the output is
    ``denoised`` (B, 1, H, W). B, H and W are free, also where the network pads. A dense prior is left to PyTorch.

    Args:
        network: in eval mode, on the CPU.
        path: the file, .onnx; replaced if it exists.
        record: what made the weights, kept as metadata of the file, beside ``network_range``.

    Returns:
        Largest difference from PyTorch over images of several sizes, in network range.

    Raises:
        BioAttError: another suffix, a package is missing, or the file gives another result.
    """
    if Path(path).suffix != ".onnx":
        raise BioAttError(f"{path} must end in .onnx: only .onnx is supported; name the file accordingly")
    _need_onnx()
    told = {"network_range": NETWORK_RANGE} | {key: str(text) for key, text in (record or {}).items()}
    with staged_file(path) as file:
        _write(network, file, told)
        difference = _compare(network, load_exported(file))
        if not difference <= TOLERANCE:
            raise BioAttError(
                f"{path} differs from PyTorch by {difference:.2g} (network range), more than {TOLERANCE:g}; take the "
                "versions of constraints.txt"
            )
    return difference


def load_exported(path: str | os.PathLike[str], threads: int = 0) -> Runner:
    """A file of `export_network` as a function of image and prior, on the CPU; `threads` of onnxruntime."""
    _need_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])

    def run(image: Tensor, prior: Tensor) -> Tensor:
        (denoised,) = session.run(None, {"image": image.numpy(), "prior": prior.numpy()})
        return torch.from_numpy(np.asarray(denoised))

    return run


def _write(network: nn.Module, file: Path, record: dict[str, str]) -> None:
    padding = copy.deepcopy(network)  # by indices: how much `F.pad` pads would be fixed to the example's size
    padding.pad = partial(_grow, multiple=network.multiple, smallest=network.smallest_side)
    with torch.no_grad():
        program = torch.onnx.export(
            padding,
            _example(network),
            dynamo=True,
            verbose=False,
            input_names=["image", "prior"],
            output_names=["denoised"],
            dynamic_shapes=_AXES,
        )
    graph = program.model.graph
    graph.outputs[0].shape = graph.inputs[0].shape  # the exporter only finds a formula of both
    program.model.metadata_props.update(record)
    program.save(str(file), external_data=False)


def _grow(image: Tensor, multiple: int, smallest: int) -> Tensor:
    """`image` (B, C, H, W) padded by replication at the right and lower side, as the networks do it."""
    for axis in (-2, -1):
        side = image.shape[axis]
        wanted = torch.sym_max((side + multiple - 1) // multiple * multiple, smallest)
        image = image.index_select(axis, torch.arange(wanted, device=image.device).clamp(max=side - 1))
    return image


def _example(network: nn.Module, shape: tuple[int, int, int] = (2, 45, 53)) -> tuple[Tensor, Tensor]:
    """A seeded image (B, 1, H, W) and prior (B, K) for `shape` (B, H, W)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(shape[0], 1, *shape[1:], generator=generator)
    return image, torch.rand(shape[0], network.num_descriptors, generator=generator).softmax(dim=1)


def _compare(network: nn.Module, run: Runner) -> float:
    """Largest difference between `network` and `run`, over a size that fits the network and some that do not."""
    differences = []
    with torch.inference_mode():
        for shape in ((1, 64, 64), (2, 45, 53), (3, 9, 70)):
            example = _example(network, shape)
            differences.append((network(*example) - run(*example)).abs().max())
    return float(torch.stack(differences).max())


def _need_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BioAttError(f"ONNX needs {error.name}; python -m pip install onnx onnxruntime onnxscript") from error
