"""Weights files: read tensors only, check that they fit, name them by their sha256."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..device import find_device
from ..errors import BioAttError
from .winograd import use_winograd

Network = TypeVar("Network", bound=nn.Module)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict from a .pt/.pth or .safetensors file; code in a file is never run.

    Raises:
        BioAttError: missing, unreadable, or holding anything but named tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise BioAttError(f"weights file {file} does not exist; name a file with --weights, or train one")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            check_size(file)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BioAttError(
            f"weights file {file} holds more than tensors and is refused; save the plain state dict instead"
        ) from error
    except Exception as error:
        raise BioAttError(
            f"weights file {file} cannot be read as weights: it is damaged, or none; copy or save it again"
        ) from error
    return check_state_dict(state, str(file))


def check_size(file: Path) -> None:
    """Refuse a file of PyTorch's that would grow when it is unpacked: torch.save packs nothing, a bomb does.

    Raises:
        ValueError: its parts are larger than the file.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as parts:
            size = sum(one.file_size for one in parts.infolist())
        if size > file.stat().st_size:
            raise ValueError(f"its parts make {size} bytes, more than the file has")


def check_state_dict(state: object, name: str) -> dict[str, Tensor]:
    """Return `state` if it is a non-empty mapping of names to tensors."""
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise BioAttError(f"{name} holds no plain state dict (names to tensors); save network.state_dict()")
    return state


def load_weights(
    network: Network, path: str | os.PathLike[str], device: str | torch.device = "cpu", *, compiled: bool = False
) -> Network:
    """Load `path` strictly into `network` and return it in eval mode on `device`, in its fastest form there.

    With `compiled`, torch.compile makes code for it at its first run and for each new image size.

    Raises:
        BioAttError: see `read_state_dict`; also when the file belongs to another architecture, or there is no such
            device, or no compiler.
    """
    place = find_device(device)
    fit_weights(network, read_state_dict(path), str(path))
    # Plain 5x5 convolutions run about a third faster on a CPU in this layout (512x512, 32 channels).
    network = network.to(place, memory_format=torch.channels_last).eval()
    if compiled:
        _check_compiler()
        network.compile()  # its fused layers stand in the place of ours
        network.margin = None  # whole slices: each size of a body would be compiled anew
        return network
    return use_winograd(network) if place.type == "cpu" else network


def _check_compiler() -> None:
    """torch.compile needs a C++ compiler on every device; without one it fails in the middle of the work."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++", "cl"]
    if not any(shutil.which(name) for name in names):
        raise BioAttError(
            f"compiling a network needs a C++ compiler ({' or '.join(names)}); install it or do not compile"
        )


def fit_weights(network: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Load `state` strictly into `network`, or name the first thing that does not fit."""
    own = network.state_dict()
    for problem, keys in (("lacks", own.keys() - state.keys()), ("has the unknown", state.keys() - own.keys())):
        if keys:
            raise BioAttError(
                f"{name} {problem} key {sorted(keys)[0]} and does not fit {type(network).__name__}; "
                "choose the network_def it was trained with"
            )
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise BioAttError(
                f"{name}: {key} has shape {list(state[key].shape)}, the network wants {list(value.shape)}; "
                "choose the network_def it was trained with"
            )
    network.load_state_dict(state)


def weights_sha256(path: str | os.PathLike[str]) -> str:
    """Hex digest of the file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
