"""Denoising networks, ``forward(image, prior=None)``; importing this registers them with MONAI."""

from .attention import ATTENTION_KINDS, ChannelAttention, NoAttention, PriorAttention, SpatialAttention, make_attention
from .contract import Denoiser
from .recipe import Recipe, make_network, read_recipe, write_recipe
from .redcnn import BioAtt
from .reference import load_reference_checkpoint
from .registration import register_with_monai
from .ushape import BioAttUNet
from .weights import load_weights, read_state_dict, weights_sha256
from .winograd import use_winograd

__all__ = [
    "ATTENTION_KINDS",
    "BioAtt",
    "BioAttUNet",
    "ChannelAttention",
    "Denoiser",
    "NoAttention",
    "PriorAttention",
    "Recipe",
    "SpatialAttention",
    "load_reference_checkpoint",
    "load_weights",
    "make_attention",
    "make_network",
    "read_recipe",
    "read_state_dict",
    "register_with_monai",
    "use_winograd",
    "weights_sha256",
    "write_recipe",
]

register_with_monai(BioAtt, "monai.networks.nets.bioatt")
register_with_monai(BioAttUNet, "monai.networks.nets.bioatt_unet")
