"""Tiny real parts with random weights, for tests: those of this library and those of its users.

They are the classes that draw real pictures, at sizes that load in milliseconds: 16 tokens make a
picture of 16x16 pixels. Pictures are noise, but everything else holds: seeds, guidance, ranking,
saving and loading. The same seed always gives the same weights.
"""

from __future__ import annotations

import torch
from torch import nn

from .models.clip import CLIP, CLIPConfig
from .models.transformer import Transformer, TransformerConfig
from .models.vqgan import VQGAN, VQGANConfig
from .pipeline.pipeline import Pipeline
from .scorer import CLIPScorer, CLIPTokenizer
from .text.tokenizer import Tokenizer

__all__ = [
    "TINY_CLIP",
    "TINY_TRANSFORMER",
    "TINY_VQGAN",
    "tiny_clip_scorer",
    "tiny_pipeline",
    "tiny_tokenizer",
    "tiny_transformer",
    "tiny_vqgan",
]

_CAPTIONS = tuple(
    f"a {colour} {thing} on a {ground} background"
    for colour in ("red", "green", "blue", "yellow")
    for thing in ("apple", "bird", "rocket", "armchair in the shape of an avocado")
    for ground in ("white", "black")
)

# About 90 kB. As in the released models, the start token is the first id without a code.
TINY_TRANSFORMER = TransformerConfig(
    text_vocab_size=360,
    image_vocab_size=64,
    image_length=16,
    max_text_length=64,
    d_model=16,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
    decoder_start_token_id=64,
)

# About 800 kB: groups of the normalisation make 32 channels the least there can be.
TINY_VQGAN = VQGANConfig(
    ch=32,
    ch_mult=(1, 1),
    num_res_blocks=1,
    attn_resolutions=(4,),
    resolution=16,
    z_channels=8,
    embed_dim=4,
    n_embed=64,
    pixel_shuffle=2,
)

# About 100 kB.
TINY_CLIP = CLIPConfig(
    embed_dim=8,
    image_size=16,
    patch_size=8,
    vision_width=16,
    vision_layers=2,
    vision_heads=2,
    vision_mlp_dim=32,
    text_width=16,
    text_layers=2,
    text_heads=2,
    text_mlp_dim=32,
    context_length=77,
    vocab_size=600,
)


def tiny_tokenizer(*, max_length: int = 64) -> Tokenizer:
    """Make a tokenizer that reads any text, with a vocabulary learned from a few captions.

    Args:
        max_length: tokens of a prompt, as in `TokenizerConfig`.

    Example:
        >>> from dallemini.testing import tiny_tokenizer
        >>> tiny_tokenizer()("a red apple").input_ids.shape
        torch.Size([1, 64])
    """
    return Tokenizer.train(
        _CAPTIONS, vocab_size=TINY_TRANSFORMER.text_vocab_size, max_length=max_length
    )


def tiny_transformer(config: TransformerConfig = TINY_TRANSFORMER, *, seed: int = 0) -> Transformer:
    """Make a transformer, in evaluation mode.

    Its weights are wider than those that training starts from, so that the prompt, the position
    and the tokens before show in what it draws.

    Args:
        config: sizes; `dataclasses.replace(TINY_TRANSFORMER, ...)` changes some.
        seed: of the random weights.

    Example:
        >>> from dallemini.testing import tiny_tokenizer, tiny_transformer
        >>> tiny_transformer().encode(tiny_tokenizer()("a red apple").trim()).hidden_states.shape
        torch.Size([1, 5, 16])
    """
    transformer = Transformer.from_config(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in transformer.named_parameters():
        if parameter.ndim == 2:
            width = 1.0 if "embed" in name else 1.5 * parameter.shape[1] ** -0.5
            nn.init.normal_(parameter, std=width, generator=generator)
    return transformer.eval()


def tiny_vqgan(config: VQGANConfig = TINY_VQGAN, *, seed: int = 0) -> VQGAN:
    """Make a VQGAN, in evaluation mode.

    Args:
        config: sizes; `dataclasses.replace(TINY_VQGAN, ...)` changes some.
        seed: of the random weights.

    Example:
        >>> import torch
        >>> from dallemini.testing import tiny_vqgan
        >>> tiny_vqgan().decode(torch.arange(16)[None]).shape
        torch.Size([1, 3, 16, 16])
    """
    return VQGAN.from_config(config, seed=seed).eval()


def tiny_clip_scorer(config: CLIPConfig = TINY_CLIP, *, seed: int = 0) -> CLIPScorer:
    """Make a scorer with a tokenizer that reads any text.

    Args:
        config: sizes; `vocab_size` must be at least 514.
        seed: of the random weights.

    Example:
        >>> import torch
        >>> from dallemini.testing import tiny_clip_scorer
        >>> tiny_clip_scorer().score(torch.rand(2, 3, 16, 16), ["a cat", "a dog"]).shape
        torch.Size([2])
    """
    tokenizer = CLIPTokenizer.train(
        _CAPTIONS, vocab_size=config.vocab_size, context_length=config.context_length
    )
    return CLIPScorer(CLIP.from_config(config, seed=seed).eval(), tokenizer)


def tiny_pipeline(*, seed: int = 0) -> Pipeline:
    """Make a whole pipeline with a scorer, about 1 MB; it draws 16x16 pixels in milliseconds.

    Args:
        seed: of the random weights.

    Example:
        >>> from dallemini.testing import tiny_pipeline
        >>> out = tiny_pipeline()("a red apple", num_images_per_prompt=2, seed=0, rank=True)
        >>> [image.size for image in out.images]
        [(16, 16), (16, 16)]
    """
    return Pipeline(
        tokenizer=tiny_tokenizer(),
        transformer=tiny_transformer(seed=seed),
        vqgan=tiny_vqgan(seed=seed),
        scorer=tiny_clip_scorer(seed=seed),
        name="tiny",
    )
