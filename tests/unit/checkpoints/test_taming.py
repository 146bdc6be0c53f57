"""The relatives of taming's checkpoints: told apart by their names, and read to the same model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dallemini import ImageTokenizer
from dallemini.errors import CheckpointError, UnsupportedModelError
from dallemini.models import VQGAN
from foreign_folders import TAMING, YAML, gumbel, llamagen, wavelet
from image_tokenizers import pictures


def assert_same(found: ImageTokenizer, model: VQGAN) -> None:
    images = pictures(1, 16, 24)
    codes = model.encode(images)
    assert torch.equal(found.encode(images), codes)
    shape = 16 // model.downsample_factor, 24 // model.downsample_factor
    assert torch.equal(found.decode(codes, shape=shape), model.decode(codes, shape=shape))


def test_gumbel_vq_of_taming(tmp_path: Path) -> None:
    model = VQGAN.from_config(replace(TAMING, quantizer="gumbel")).eval()
    state = gumbel(model.state_dict()) | {"loss.discriminator.main.0.weight": torch.ones(1)}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    (tmp_path / "model.yaml").write_text(YAML)
    found = ImageTokenizer.from_pretrained(tmp_path, cache_dir=tmp_path / "cache")
    assert found.config == model.config
    assert_same(found, model)


def test_rudalle_with_its_wavelet(tmp_path: Path) -> None:
    model = VQGAN.from_config(replace(TAMING, quantizer="gumbel", wavelet=True)).eval()
    state = {f"model.{name}": tensor for name, tensor in wavelet(model.state_dict()).items()}
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
    config = replace(TAMING, quantizer="cosine", ch_mult=(1, 2, 1), resolution=256)
    model = VQGAN.from_config(replace(config, attn_resolutions=(64,))).eval()
    state = llamagen(model.state_dict())
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
