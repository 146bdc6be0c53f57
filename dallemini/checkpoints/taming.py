"""Whose checkpoint with the network of taming-transformers it is, told by its names.

The model uses taming's names, so that the tables rename little. Sources:
github.com/CompVis/taming-transformers (VQModel and GumbelVQ), github.com/ai-forever/ru-dalle (a
GumbelVQ, also with a decoder in front of a wavelet transform), and
github.com/FoundationVision/LlamaGen (a VQModel with levels of other names).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .rules import Ignore, Rule, Table


@dataclass(frozen=True, kw_only=True)
class Family:
    """How to read a kind of checkpoint.

    Attributes:
        table: what its tensors become.
        fields: of the `VQGANConfig`, beside the sizes.
    """

    table: Table
    fields: Mapping[str, Any] = field(default_factory=dict)


def _as_they_are(*names: str) -> list[Rule]:
    return [Rule(f"{name}.{{rest}}", (f"{name}.{{rest}}",)) for name in names]


_OTHERS: Table = (
    Ignore(
        r"quantize\.(embedding\.)?(cluster_size|embed_avg|ema_\w+|initted|codebook_used)",
        "running means from which the codes were made",
    ),
    Ignore(r"loss\..*", "the discriminator and the perceptual loss are for training only"),
)
_GUMBEL: Table = (
    Rule("quantize.embedding.weight", ("quantize.embed.weight",)),
    *_as_they_are("quantize.proj", "encoder", "quant_conv"),
    *_OTHERS,
)
TAMING = Family(
    table=(
        Rule("quantize.embedding.weight", ("quantize.embedding.weight",)),
        *_as_they_are("encoder", "decoder", "quant_conv", "post_quant_conv"),
        *_OTHERS,
    )
)
GUMBEL = Family(
    table=(*_as_they_are("decoder", "post_quant_conv"), *_GUMBEL), fields={"quantizer": "gumbel"}
)
WAVELET = Family(
    table=(
        Rule("decoder.{rest}", ("decoder.decoder.{rest}",)),
        Rule("post_quant_conv.{rest}", ("decoder.post_quant_conv.{rest}",)),
        *_GUMBEL,
        Ignore(r"post_quant_conv\..*", "that of the decoder is used instead"),
        Ignore(r"decoder\.idwt\..*", "the wavelet is always Haar's"),
    ),
    fields={"quantizer": "gumbel", "wavelet": True, "out_ch": 3},
)


def llamagen(levels: int) -> Family:
    """Return how to read a checkpoint of LlamaGen; its decoder counts levels from the coarsest."""
    rules: list[Rule] = []
    for side, ours, size in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        for level in range(levels):
            place = f"{ours}.{level if side == 'encoder' else levels - 1 - level}"
            for target, source in (
                ("block.{i}.{rest}", "res.{i}.{rest}"),
                ("attn.{i}.{rest}", "attn.{i}.{rest}"),
                (f"{size}.{{rest}}", f"{size}.{{rest}}"),
            ):
                source = f"{side}.conv_blocks.{level}.{source}"
                rules.append(Rule(f"{side}.{place}.{target}", (source,)))
        for number, target in enumerate(("block_1", "attn_1", "block_2")):
            rules.append(Rule(f"{side}.mid.{target}.{{rest}}", (f"{side}.mid.{number}.{{rest}}",)))
        rules += _as_they_are(*(f"{side}.{name}" for name in ("conv_in", "norm_out", "conv_out")))
    table = (
        Rule("quantize.embedding.weight", ("quantize.embedding.weight",)),
        *rules,
        *_as_they_are("quant_conv", "post_quant_conv"),
        *_OTHERS,
    )
    return Family(table=table, fields={"quantizer": "cosine"})


def find_family(names: Collection[str]) -> Family:
    """Tell by the names of its tensors whose checkpoint it is."""
    levels = {
        int(found[1])
        for name in names
        if (found := re.search(r"(?:^|[./])encoder\.conv_blocks\.(\d{1,2})\.", name))
    }
    if levels:
        return llamagen(max(levels) + 1)
    if any(re.search(r"(^|[./])decoder\.decoder\.", name) for name in names):
        return WAVELET
    if any(re.search(r"(^|[./])quantize\.embed\.weight$", name) for name in names):
        return GUMBEL
    return TAMING
