"""The relatives of taming's checkpoints: told apart by their names, and read to the same model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dallemini import ImageTokenizer
from dallemini.errors import CheckpointError, UnsupportedModelError
from dallemini.models import VQGAN
from dallemini.testing import TINY_VQGAN
from image_tokenizers import pictures

CONFIG = replace(
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


def assert_same(found: ImageTokenizer, model: VQGAN) -> None:
    images = pictures(1, 16, 24)
    codes = model.encode(images)
    assert torch.equal(found.encode(images), codes)
    shape = 16 // model.downsample_factor, 24 // model.downsample_factor
    assert torch.equal(found.decode(codes, shape=shape), model.decode(codes, shape=shape))


def gumbel(state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    names = {"quantize.embedding.weight": "quantize.embed.weight"}
    return {prefix + names.get(name, name): tensor for name, tensor in state.items()}


def test_gumbel_vq_of_taming(tmp_path: Path) -> None:
    model = VQGAN.from_config(replace(CONFIG, quantizer="gumbel")).eval()
    state = gumbel(model.state_dict()) | {"loss.discriminator.main.0.weight": torch.ones(1)}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    (tmp_path / "model.yaml").write_text(YAML)
    found = ImageTokenizer.from_pretrained(tmp_path, cache_dir=tmp_path / "cache")
    assert found.config == model.config
    assert_same(found, model)


def test_rudalle_with_its_wavelet(tmp_path: Path) -> None:
    model = VQGAN.from_config(replace(CONFIG, quantizer="gumbel", wavelet=True)).eval()
    state = {
        f"model.decoder.{name}" if name.startswith(("decoder.", "post_quant")) else name: tensor
        for name, tensor in gumbel(model.state_dict()).items()
    }
    state = {name if name.startswith("model.") else f"model.{name}": t for name, t in state.items()}
    for part in ("weight", "bias"):  # there, but not in use
        shape = state[f"model.decoder.post_quant_conv.{part}"].shape
        state[f"model.post_quant_conv.{part}"] = torch.full(shape, 9.0)
    state["model.decoder.idwt.g0_col"] = torch.ones(1, 1, 2, 1)
    torch.save({"state_dict": state}, tmp_path / "dwt.ckpt")
    torch.save({"state_dict": gumbel(model.state_dict())}, tmp_path / "plain.ckpt")
    (tmp_path / "config.yml").write_text(YAML)
    with pytest.raises(CheckpointError, match=r"several checkpoints: .* Name one of them"):
        ImageTokenizer.from_pretrained(tmp_path)
    found = ImageTokenizer.from_pretrained(tmp_path / "dwt.ckpt", cache_dir=tmp_path / "cache")
    assert found.config == model.config
    assert_same(found, model)


@pytest.mark.parametrize("by_folder", [True, False])
def test_llamagen_counts_the_levels_of_its_decoder_from_the_coarsest(
    tmp_path: Path, by_folder: bool
) -> None:
    config = replace(CONFIG, quantizer="cosine", ch_mult=(1, 2, 1), resolution=256)
    model = VQGAN.from_config(replace(config, attn_resolutions=(64,))).eval()
    state = {}
    for name, tensor in model.state_dict().items():
        for level in range(3):
            name = name.replace(f"encoder.down.{level}.", f"encoder.conv_blocks.{level}.")
            name = name.replace(f"decoder.up.{level}.", f"decoder.conv_blocks.{2 - level}.")
        name = name.replace(".block.", ".res.")
        for number, part in enumerate(("block_1", "attn_1", "block_2")):
            name = name.replace(f"mid.{part}.", f"mid.{number}.")
        state[name] = tensor
    state["quantize.codebook_used"] = torch.zeros(65536)
    torch.save({"model": state, "steps": 3}, tmp_path / "vq_ds4_t2i.pt")
    source = tmp_path if by_folder else tmp_path / "vq_ds4_t2i.pt"
    found = ImageTokenizer.from_pretrained(source, cache_dir=tmp_path / "cache")
    assert found.config == model.config
    assert_same(found, model)


def test_other_models_of_taming_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "last.ckpt")
    (tmp_path / "model.yaml").write_text(YAML.replace("GumbelVQ", "VQSegmentationModel"))
    with pytest.raises(UnsupportedModelError, match=r"VQSegmentationModel, but only .*GumbelVQ"):
        ImageTokenizer.from_pretrained(tmp_path)
