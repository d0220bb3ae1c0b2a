"""Denoising networks, ``forward(image, prior=None)``; importing this registers `BioAtt` with MONAI."""

from .attention import ATTENTION_KINDS, ChannelAttention, NoAttention, PriorAttention, SpatialAttention, make_attention
from .redcnn import BioAtt
from .reference import load_reference_checkpoint
from .registration import register_with_monai
from .weights import load_weights, read_state_dict, weights_sha256

__all__ = [
    "ATTENTION_KINDS",
    "BioAtt",
    "ChannelAttention",
    "NoAttention",
    "PriorAttention",
    "SpatialAttention",
    "load_reference_checkpoint",
    "load_weights",
    "make_attention",
    "read_state_dict",
    "register_with_monai",
    "weights_sha256",
]

register_with_monai(BioAtt, "monai.networks.nets.bioatt")
