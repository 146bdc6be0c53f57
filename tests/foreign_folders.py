"""A tiny folder of every format that is read, and its weights rewritten as people have them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dallemini import CLIP, VQGAN, Transformer
from dallemini.checkpoints.flax_msgpack import read_flax
from dallemini.checkpoints.torch_file import read_torch
from dallemini.models import DVAE, DiscreteVAE, Upscaler
from dallemini.models.pretrained import PretrainedModule
from dallemini.testing import TINY_VQGAN, tiny_transformer
from image_tokenizers import tiny_image_tokenizer
from random_checkpoints import nested, write_flax

FIXTURES = Path(__file__).parent / "fixtures"
WEIGHTS = (".safetensors", ".msgpack", ".pt", ".pth", ".ckpt", ".bin", ".pkl")
TAMING = replace(
    TINY_VQGAN, pixel_shuffle=1, ch_mult=(1, 2), value_range=(-1.0, 1.0), attn_resolutions=(8,)
)
YAML = """
model:
  target: taming.models.vqgan.GumbelVQ
  params:
    embed_dim: 4
    n_embed: 64
    kl_weight: 1.0e-08
    temperature_scheduler_config: {target: some.Scheduler}
    ddconfig:
      {double_z: false, z_channels: 8, resolution: 16, in_channels: 3, out_ch: 3, ch: 32,
       ch_mult: [1, 2], num_res_blocks: 1, attn_resolutions: [8], dropout: 0.0}
    lossconfig: {target: some.Loss}
"""
"""The configuration of `TAMING` beside a Gumbel quantiser."""


# The names of others


def flax_leaves(state: Mapping[str, Tensor], *, old_norms: bool = False) -> dict[str, Any]:
    """Undo the native names of a VQGAN: what vqgan-jax would have stored."""
    leaves = {}
    for name, tensor in state.items():
        key = re.sub(r"\b(down|up|block|attn)\.(\d)", r"\1_\2", name).replace(".", "/")
        if name == "quantize.embedding.weight":
            key = "quantize/embedding/embedding"
        elif tensor.ndim == 4:
            key, tensor = key.replace("weight", "kernel"), tensor.permute(2, 3, 1, 0)
        elif "norm" in name:
            key = key.replace("weight", "scale")
            tensor = tensor.reshape(1, 1, 1, -1) if old_norms else tensor
        leaves[key] = tensor.contiguous().numpy()
    return leaves


def gumbel(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo the native names of a VQGAN with Gumbel's quantiser."""
    names = {"quantize.embedding.weight": "quantize.embed.weight"}
    return {names.get(name, name): tensor for name, tensor in state.items()}


def wavelet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo the native names of a VQGAN with ruDALL-E's wavelet."""
    stored = {}
    for name, tensor in gumbel(state).items():
        inside = name.startswith(("decoder.", "post_quant"))
        stored[f"decoder.{name}" if inside else name] = tensor
        if name.startswith("post_quant"):  # there, but not in use
            stored[name] = torch.full(tensor.shape, 9.0)
    return stored | {"decoder.idwt.g0_col": torch.ones(1, 1, 2, 1)}


def llamagen(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo the native names of a VQGAN of three levels of LlamaGen's."""
    stored = {}
    for name, tensor in state.items():
        for level in range(3):
            name = name.replace(f"encoder.down.{level}.", f"encoder.conv_blocks.{level}.")
            name = name.replace(f"decoder.up.{level}.", f"decoder.conv_blocks.{2 - level}.")
        name = name.replace(".block.", ".res.")
        for number, part in enumerate(("block_1", "attn_1", "block_2")):
            name = name.replace(f"mid.{part}.", f"mid.{number}.")
        stored[name] = tensor
    return stored | {"quantize.codebook_used": torch.zeros(65536)}


# Folders


def _copied(*names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names:
            source = FIXTURES / name
            files = [source] if source.is_file() else list(source.iterdir())
            for path in files:
                shutil.copy(path, folder)

    return write


def _taming(folder: Path) -> None:
    torch.save({"state_dict": VQGAN.from_config(TAMING).state_dict()}, folder / "last.ckpt")
    (folder / "model.yaml").write_text(YAML.replace("GumbelVQ", "VQModel"))


def _rudalle(folder: Path) -> None:
    model = VQGAN.from_config(replace(TAMING, quantizer="gumbel", wavelet=True))
    torch.save({"state_dict": wavelet(model.state_dict())}, folder / "last.ckpt")
    (folder / "model.yaml").write_text(YAML)


def _llamagen(folder: Path) -> None:
    config = replace(TAMING, quantizer="cosine", ch_mult=(1, 2, 1), resolution=256)
    model = VQGAN.from_config(replace(config, attn_resolutions=(64,)))
    torch.save({"model": llamagen(model.state_dict()), "steps": 3}, folder / "vq_ds4_t2i.pt")


def _vqgan_jax(folder: Path) -> None:
    model = VQGAN.from_config(replace(TAMING, value_range=(0.0, 1.0)))
    leaves = {
        name: torch.from_numpy(leaf) for name, leaf in flax_leaves(model.state_dict()).items()
    }
    write_weights(folder / "flax_model.msgpack", leaves)


def _detokenizer(folder: Path) -> None:
    model = VQGAN.from_config(replace(TAMING, has_encoder=False, resolution=256))
    state = {name.removeprefix("quantize."): t for name, t in model.state_dict().items()}
    torch.save(state, folder / "detoker.pt")


def _pickled_clip(folder: Path) -> None:
    _copied("clip-hf-tiny/model")(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


FOLDERS: dict[str, tuple[type[PretrainedModule[Any]], Callable[[Path], object]]] = {
    "native": (Transformer, lambda folder: tiny_transformer().save_pretrained(folder)),
    "native int8": (
        Transformer,
        lambda folder: tiny_transformer().quantize().save_pretrained(folder),
    ),
    "native dVAE": (DVAE, lambda folder: tiny_image_tokenizer("DVAE").save_pretrained(folder)),
    "DalleBart (Flax)": (Transformer, _copied("dallebart-tiny-scan/model")),
    "vqgan-jax (Flax)": (VQGAN, _vqgan_jax),
    "taming-transformers": (VQGAN, _taming),
    "ruDALL-E": (VQGAN, _rudalle),
    "LlamaGen": (VQGAN, _llamagen),
    "CLIP (transformers)": (CLIP, _copied("clip-hf-tiny/model")),
    "CLIP (transformers), pickled": (CLIP, _pickled_clip),
    "CLIP (OpenAI)": (CLIP, _copied("clip-openai-tiny/state_dict_openai_fp16.pt")),
    "open_clip": (CLIP, _copied("clip-open_clip-tiny-quickgelu/model")),
    "min-dalle": (
        Transformer,
        _copied("min-dalle-tiny-fp16/encoder.pt", "min-dalle-tiny-fp16/decoder.pt"),
    ),
    "min-dalle detokenizer": (VQGAN, _detokenizer),
    "dVAE (OpenAI)": (
        DVAE,
        _copied("image-tokenizers/encoder.pkl", "image-tokenizers/decoder.pkl"),
    ),
    "DiscreteVAE (DALLE-pytorch)": (DiscreteVAE, _copied("image-tokenizers/vae.pt")),
    "Real-ESRGAN": (Upscaler, _copied("realesrgan/realesr-compact-x2.pth")),
    "Real-ESRGAN, blocks": (Upscaler, _copied("realesrgan/RealESRGAN_x2plus.pth")),
}
"""What is loaded from a folder, and what writes the folder, by the name of its format."""


# Weights


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights in a folder."""
    return sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of weights by the names in it, which a Flax file joins by '/'."""
    if path.suffix == ".safetensors":
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    lazy = read_flax(path) if path.suffix == ".msgpack" else read_torch(path)
    return {name: tensor.load().clone() for name, tensor in lazy.items()}


def write_weights(
    path: Path, tensors: Mapping[str, Tensor], beside: Mapping[str, Any] | None = None
) -> None:
    """Write a file anew, what is beside the tensors only where it is pickled."""
    path.unlink(missing_ok=True)  # what was mapped of it stays as it is
    if path.suffix == ".safetensors":
        save_file(dict(tensors), path)
    elif path.suffix == ".msgpack":
        leaves = {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}
        write_flax(path, nested(leaves))
    else:
        torch.save({**tensors, **(beside or {})}, path)
