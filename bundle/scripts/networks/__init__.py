"""Denoising networks, ``forward(image, prior=None)``; importing this registers them with MONAI."""

from .attention import ATTENTION_KINDS, ChannelAttention, NoAttention, PriorAttention, SpatialAttention, make_attention
from .contract import Denoiser, register_with_monai
from .recipe import Recipe, make_network, read_recipe, write_recipe
from .redcnn import BioAtt
from .reference import load_reference_checkpoint
from .ushape import BioAttUNet
from .weights import load_weights, read_state_dict, weights_sha256
from .winograd import use_winograd

register_with_monai(BioAtt, "monai.networks.nets.bioatt")
register_with_monai(BioAttUNet, "monai.networks.nets.bioatt_unet")
