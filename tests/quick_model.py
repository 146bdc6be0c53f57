"""The bundled model at a small part of its cost, for pages whose code is run for its form.

Tokenizers, words it knows, size of pictures and settings are its own; layers are few, narrow and
random, and 25 tokens make a picture instead of 100, unless more are asked for.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dallemini import VQGAN, CLIPScorer, Pipeline, Transformer
from dallemini.models.clip import CLIP


def save_quick_model(folder: Path, *, side: int = 5) -> Path:
    """Write it into a folder, and return that; a picture has 5 or 10 tokens a side."""
    real = Pipeline.from_pretrained()
    scorer, transformer, vqgan = real.scorer, real.transformer, real.vqgan
    assert isinstance(scorer, CLIPScorer)
    assert isinstance(transformer, Transformer)
    assert isinstance(vqgan, VQGAN)
    narrow = dataclasses.replace(
        transformer.config,
        image_length=side * side,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    )
    looks = dataclasses.replace(
        scorer.clip.config,
        vision_width=32,
        vision_layers=1,
        vision_heads=2,
        vision_mlp_dim=32,
        text_width=32,
        text_layers=1,
        text_heads=2,
        text_mlp_dim=32,
    )
    levels = (1,) * {5: 4, 10: 3}[side]
    thin = dataclasses.replace(
        vqgan.config,
        ch=32,
        ch_mult=levels,
        num_res_blocks=1,
        attn_resolutions=(),
        z_channels=8,
        refiner_width=8,
        refiner_blocks=1,
    )
    Pipeline(
        tokenizer=real.tokenizer,
        transformer=Transformer.from_config(narrow).eval(),
        vqgan=VQGAN.from_config(thin).eval(),
        scorer=CLIPScorer(CLIP.from_config(looks).eval(), scorer.tokenizer),
        config=real.config,
    ).save_pretrained(folder)
    return folder
