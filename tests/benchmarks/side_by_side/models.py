"""Random weights of a released size in the files of min-dalle, which both sides read.

The folder is laid out as min-dalle keeps what it downloads: `dalle_bart_mini` or `dalle_bart_mega`
with two state dicts in float16 and a vocabulary, and `vqgan/detoker.pt`. A `config.json` beside
them tells dallemini min-dalle's start token, so that both draw the same tokens. dallemini is
imported by what writes only: this module is also read where min-dalle's memory is measured.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

PROMPT = "a small red armchair in the shape of an avocado"
"""Ten words of one token each: with start and end twelve tokens."""

START_TOKEN = 2**14 - 1
"""min-dalle 0.4.11 starts from the last code, not from the start token of the model."""

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
WORD_START = chr(ord(" ") + 256)

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes of a transformer; image length 256, text length 64, heads 64 wide."""

    name: str
    width: int
    layers: int
    ffn: int
    text: int
    image: int = 16384
    is_mega: bool = False

    @property
    def heads(self) -> int:
        return self.width // 64

    @property
    def folder(self) -> str:
        """Name of the folder in which min-dalle looks for this model."""
        return f"dalle_bart_{'mega' if self.is_mega else 'mini'}"

    def shapes(self, side: str) -> Shapes:
        """Return min-dalle's names and shapes of "encoder" or "decoder"."""
        decodes, width = side == "decoder", self.width
        rows, positions = (self.image + 1, 256) if decodes else (self.text, 64)
        shapes: Shapes = {
            "embed_tokens.weight": (rows, width),
            "embed_positions.weight": (positions, width),
            "layernorm_embedding.weight": (width,),
            "layernorm_embedding.bias": (width,),
            "final_ln.bias": (width,),
        }
        for index in range(self.layers):
            layer = self._layer(decodes=decodes)
            shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
        return shapes | ({"lm_head.weight": (rows, width)} if decodes else {})

    def _layer(self, *, decodes: bool) -> Shapes:
        width, ffn = self.width, self.ffn
        shapes: Shapes = {
            "glu.ln0.bias": (width,),
            "glu.ln1.bias": (ffn,),
            "glu.fc0.weight": (ffn, width),
            "glu.fc1.weight": (ffn, width),
            "glu.fc2.weight": (width, ffn),
        }
        for attention in ("self_attn", "encoder_attn") if decodes else ("self_attn",):
            for part in ("q", "k", "v", "out"):
                shapes[f"{attention}.{part}_proj.weight"] = (width, width)
            shapes[f"pre_{attention}_layer_norm.bias"] = (width,)
            shapes[f"{attention}_layer_norm.weight"] = (width,)
            shapes[f"{attention}_layer_norm.bias"] = (width,)
        return shapes

    @property
    def parameters(self) -> int:
        """Number of weights of the transformer."""
        return sum(
            math.prod(shape)
            for side in ("encoder", "decoder")
            for shape in self.shapes(side).values()
        )

    @property
    def weights_per_token(self) -> int:
        """Number of weights that every decoding step must read.

        Of the tables a step reads single rows, and keys and values of the text are computed once.
        """
        once = ("embed_", "encoder_attn.k_proj", "encoder_attn.v_proj")
        shapes = self.shapes("decoder").items()
        return sum(
            math.prod(shape) for name, shape in shapes if not any(part in name for part in once)
        )


SIZES = {
    size.name: size
    for size in (
        Size(name="tiny", width=128, layers=2, ffn=192, text=400),
        Size(name="mini", width=1024, layers=12, ffn=2730, text=50264),
        Size(name="mega", width=2048, layers=24, ffn=4096, text=50272, image=16415, is_mega=True),
    )
}


def write_model(folder: Path, size: Size, *, seed: int = 0) -> None:
    """Write everything that `MinDalle(models_root=folder)` wants to find."""
    write_transformer(folder / size.folder, size, seed=seed)
    write_detokenizer(folder / "vqgan", seed=seed)


def write_transformer(folder: Path, size: Size, *, seed: int = 0) -> None:
    """Write the two state dicts, the vocabulary and the start token."""
    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(folder)
    (folder / "config.json").write_text(json.dumps({"decoder_start_token_id": START_TOKEN}))
    generator = torch.Generator().manual_seed(seed)
    for side in ("encoder", "decoder"):
        state = {name: _draw(name, shape, generator) for name, shape in size.shapes(side).items()}
        torch.save(state, folder / f"{side}.pt")


def write_detokenizer(folder: Path, *, seed: int = 0) -> None:
    """Write the decoding half of the released VQGAN, float32 as min-dalle has it."""
    from dallemini import VQGAN
    from dallemini.models import VQGANConfig

    folder.mkdir(parents=True, exist_ok=True)
    vqgan = VQGAN.from_config(VQGANConfig(has_encoder=False), seed=seed)
    state = {name.removeprefix("quantize."): tensor for name, tensor in vqgan.state_dict().items()}
    torch.save(state, folder / "detoker.pt")


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return 0.1 * torch.randn(shape, generator=generator).half() + name.endswith("weight")
    return torch.randn(shape, generator=generator).mul_(shape[1] ** -0.5).half()


def write_vocabulary(folder: Path, prompt: str = PROMPT) -> None:
    """Write `vocab.json` and `merges.txt` in which every word of the prompt is one token."""
    from tokenizers.pre_tokenizers import ByteLevel

    merges: dict[tuple[str, str], None] = {}
    for word in prompt.split():
        known = WORD_START
        for letter in word:
            merges[known, letter] = None
            known += letter
    words = [*SPECIAL, *sorted(ByteLevel.alphabet()), *map("".join, merges)]
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
