"""The authors' checkpoints and our networks: recognise a layout by its keys, convert it there and back."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor

from ..errors import BioAttError
from .redcnn import BioAtt
from .weights import check_state_dict, fit_weights, read_state_dict

#: Their name of each attention block -> ours, by the kind in the slot. Their channel attention numbers its blocks 2
#: and 3 but has them at the same two places, after conv3 and conv5.
_RENAMED = {
    "prior": {"spatial_attention3.": "attention3.", "spatial_attention5.": "attention5."},
    "spatial": {"spatial_attention3.": "attention3.", "spatial_attention5.": "attention5."},
    "channel": {"attention2.": "attention3.", "attention3.": "attention5."},
    "none": {},
}


def load_reference_checkpoint(path_or_state_dict: str | os.PathLike[str] | Mapping[str, Tensor]) -> BioAtt:
    """Return the network of a checkpoint that the authors of BioAtt published, in eval mode.

    The four layouts are recognised by their keys: prior attention (BioAtt), spatial attention, channel attention and
    plain RED-CNN. The number of channels and descriptors is read off the shapes.

    Args:
        path_or_state_dict: .pt/.pth file (tensors only) or a state dict.

    Raises:
        BioAttError: unreadable, an unknown or missing key, or shapes that do not fit together.

    Source: namhunkinn/Low-Dose-CT-Grand-Challenge, redcnn_v3(bioatt).
    """
    if isinstance(path_or_state_dict, Mapping):
        name, state = "state dict", check_state_dict(dict(path_or_state_dict), "the state dict")
    else:
        name, state = str(path_or_state_dict), read_state_dict(path_or_state_dict)
    for key in ("conv1.weight", "conv1.bias"):
        if key not in state:
            raise BioAttError(f"{name} lacks key {key} and is no RED-CNN checkpoint; give one of the authors' files")
    kind, descriptors = _recognise(state, name)
    network = BioAtt(channels=_filters(state, "conv1.weight", name), attention=kind, num_descriptors=descriptors)
    fit_weights(network, from_reference(state, kind), name)
    return network.eval()


def from_reference(state: Mapping[str, Tensor], attention: str) -> dict[str, Tensor]:
    """Rename the authors' keys to ours."""
    renamed = _RENAMED[attention]

    def ours(key: str) -> str:
        prefix = next((one for one in renamed if key.startswith(one)), "")
        return renamed.get(prefix, "") + key.removeprefix(prefix)

    return {ours(key): value for key, value in state.items()}


def _recognise(state: Mapping[str, Tensor], name: str) -> tuple[str, int]:
    """Return what stands in the slot, and how many descriptors it knows."""
    if "spatial_attention3.conv.weight" in state:
        maps = _filters(state, "spatial_attention3.conv.weight", name)
        return ("spatial", 11) if maps == 1 else ("prior", maps)
    return ("channel", 11) if "attention2.fc.0.weight" in state else ("none", 11)


def _filters(state: Mapping[str, Tensor], key: str, name: str) -> int:
    """Number of filters of a convolution."""
    shape = list(state[key].shape)
    if len(shape) != 4 or 0 in shape:
        raise BioAttError(
            f"{name}: {key} has shape {shape}, expected (filters, inputs, h, w); give an intact checkpoint"
        )
    return shape[0]
