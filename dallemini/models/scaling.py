"""How strongly residuals carry on, and how large weights are in the beginning.

Sources: "DeepNet" (Wang et al. 2022, section 3.2), "Foundation Transformers" (Wang et al. 2022,
section 3.2) for sub-LN; `modeling.py` of github.com/borisdayma/dalle-mini, version 0.1.5.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..architecture import Side
from .transformer_config import TransformerConfig


def residual_scale(config: TransformerConfig, side: Side) -> float:
    """Return what residuals of a side are multiplied by (alpha of DeepNet); 1 without it."""
    if not config.use_deepnet_scaling:
        return 1.0
    encoder, decoder = config.encoder_layers, config.decoder_layers
    if side == "encoder":
        return float(0.81 * (encoder**4 * decoder) ** (1 / 16))
    return float((3 * decoder) ** 0.25)


def initial_gain(config: TransformerConfig, side: Side, *, to_text: bool = False) -> float:
    """Return what the random weights of values, outputs and feed-forward blocks are multiplied by.

    Args:
        config: of the transformer.
        side: of the layer.
        to_text: whether they belong to the attention to the text, which sub-LN leaves alone.
    """
    encoder, decoder = config.encoder_layers, config.decoder_layers
    if config.use_deepnet_scaling:
        if side == "encoder":
            return float(0.87 * (encoder**4 * decoder) ** (-1 / 16))
        return float((12 * decoder) ** -0.25)
    if not config.use_subln_init or to_text:
        return 1.0
    if side == "encoder":
        return math.sqrt(math.log(3 * decoder) * math.log(2 * encoder) / 3)
    return math.sqrt(math.log(3 * decoder))


@torch.no_grad()
def scale_initial(name: str, parameter: Tensor, config: TransformerConfig) -> None:
    """Multiply fresh random weights by the gain that their place has.

    Args:
        name: of the parameter in the transformer.
        parameter: f[O, I] of a dense layer, or anything else, which stays; changed in place.
        config: of the transformer.
    """
    side: Side = "encoder" if name.startswith("encoder.") else "decoder"
    gain = initial_gain(config, side, to_text=".cross_attn." in name)
    if gain == 1.0 or ".layers." not in name:
        return
    if name.endswith(("qkv_proj.weight", "kv_proj.weight")):
        parameter[-config.d_model :].mul_(gain)  # values come last
    elif name.endswith(("out_proj.weight", "in_proj.weight")):
        parameter.mul_(gain)
