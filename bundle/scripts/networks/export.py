"""The network as a file for other runtimes: ONNX or torch.export, checked against PyTorch."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import BioAttError
from ..staging import staged_file

logger = logging.getLogger(__name__)

#: ONNX, and torch.export.
ONNX, EXPORTED = ".onnx", ".pt2"
#: Largest difference from PyTorch, in network range; 0.05 HU.
TOLERANCE = 1e-4
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
        path: the file, .onnx, or .pt2 for torch.export; replaced if it exists.
        record: what made the weights, kept inside the file: metadata of ONNX, ``record.json`` of torch.export.

    Returns:
        Largest difference from PyTorch over images of several sizes, in network range.

    Raises:
        BioAttError: another suffix, a package is missing, or the file gives another result.
    """
    suffix = Path(path).suffix
    if suffix not in (ONNX, EXPORTED):
        raise BioAttError(f"{path} must end in {ONNX} or {EXPORTED}, the formats there are; name the file so")
    if suffix == ONNX:
        _need_onnx()
    with staged_file(path) as file:
        write, load = (_write_onnx, _load_onnx) if suffix == ONNX else (_write_exported, _load_exported)
        write(network, file, {key: str(text) for key, text in (record or {}).items()})
        difference = _compare(network, load(file))
        if not difference <= TOLERANCE:
            raise BioAttError(
                f"{path} differs from PyTorch by {difference:.2g} (network range), more than {TOLERANCE:g}; "
                "take the other format, or the versions of constraints.txt"
            )
    return difference


def load_exported(path: str | os.PathLike[str], *, threads: int = 0) -> Runner:
    """A file of `export_network` as a function of image and prior, on the CPU; `threads` of onnxruntime."""
    return _load_onnx(path, threads) if Path(path).suffix == ONNX else _load_exported(path)


def _write_onnx(network: nn.Module, file: Path, record: dict[str, str]) -> None:
    with torch.no_grad():
        program = torch.onnx.export(
            _with_free_padding(network),
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


def _write_exported(network: nn.Module, file: Path, record: dict[str, str]) -> None:
    free = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in _AXES.items()}
    with torch.no_grad():
        program = torch.export.export(_with_free_padding(network), _example(network), dynamic_shapes=free)
    with open(file, "wb") as stream:  # a path would have to end in .pt2, and this one is still a partial file
        torch.export.save(program, stream, extra_files={"record.json": json.dumps(record)})


def _load_exported(path: str | os.PathLike[str]) -> Runner:
    # The guards of torch.export speak of the sizes it was traced with; the graph is right for all (and tested so).
    return torch.export.load(path).module(check_guards=False)


def _load_onnx(path: str | os.PathLike[str], threads: int = 0) -> Runner:
    _need_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])

    def run(image: Tensor, prior: Tensor) -> Tensor:
        (denoised,) = session.run(None, {"image": image.numpy(), "prior": prior.numpy()})
        return torch.from_numpy(np.asarray(denoised))

    return run


def _with_free_padding(network: nn.Module) -> nn.Module:
    """A copy that pads by indices: how much `F.pad` pads would be fixed to the example's size."""
    copied = copy.deepcopy(network)
    copied.pad = partial(_grow, multiple=copied.multiple, smallest=copied.smallest_side)
    return copied


def _grow(image: Tensor, multiple: int = 1, smallest: int = 1) -> Tensor:
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
        raise BioAttError(f"ONNX needs {error.name}; python -m pip install 'bioatt[export]'") from error
