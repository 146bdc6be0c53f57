"""The other image tokenizers compute what their originals compute, from the originals' own files.

Whole networks where they are small (OpenAI's dVAE, DALLE-pytorch's DiscreteVAE). GumbelVQ, ruDALL-E
and LlamaGen have the network of `taming-tiny`, so that their own parts are compared, with the
vectors of their originals, and that their names are read to the last one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dallemini import ImageTokenizer
from dallemini.models import DVAE, VQGAN, DiscreteVAE, VQGANConfig
from dallemini.models.vqgan import Codebook, inverse_haar

FOLDER = Path(__file__).parents[1] / "fixtures/image-tokenizers"
SIZES: dict[str, Any] = {"ch": 32, "z_channels": 8, "ch_mult": (1,), "num_res_blocks": 1}


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(FOLDER / f"{name}.npz") as stored:
        found = {key: torch.from_numpy(stored[key]) for key in stored}
    return {key: one if one.is_floating_point() else one.long() for key, one in found.items()}


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@torch.no_grad()
def test_dvae_of_openai(cache: Path) -> None:
    dvae = ImageTokenizer.from_pretrained(FOLDER / "encoder.pkl", cache_dir=cache)
    assert isinstance(dvae, DVAE)
    known = arrays("openai-dvae")
    assert_close(dvae.logits(known["a_pixels"]), known["a_z_logits"])
    assert_close(dvae.statistics(known["a_codes"]), known["a_x_stats"])
    for name in ("a", "odd"):  # 32x32, and 44x53, which 8 does not divide
        codes = dvae.encode(known[f"{name}_pixels"])
        assert torch.equal(codes, known[f"{name}_codes"].flatten(1))
        assert_close(dvae.decode(known[f"{name}_codes"]), known[f"{name}_picture"])
    assert_close(dvae.decode(known["random_codes"]), known["random_picture"])


@torch.no_grad()
def test_discrete_vae_of_dalle_pytorch(cache: Path) -> None:
    vae = ImageTokenizer.from_pretrained(FOLDER / "vae.pt", cache_dir=cache)
    assert isinstance(vae, DiscreteVAE)
    assert vae.image_size == (32, 32), "told by the file's hparams"
    known = arrays("dalle-pytorch-dvae")
    assert_close(vae.logits(known["vae_pixels"]), known["vae_logits"])
    assert torch.equal(vae.encode(known["vae_pixels"]), known["vae_codes"])
    assert_close(vae.pixels(known["vae_codes"].view(1, 8, 8)), known["vae_decoded"])
    expected = (known["vae_random_decoded"] * 0.5 + 0.5).clamp(0, 1)
    assert_close(vae.decode(known["vae_random_codes"]), expected)


def codebook(quantizer: Any, codes: int, width: int) -> Codebook:
    made = Codebook(VQGANConfig(**SIZES, n_embed=codes, embed_dim=width, quantizer=quantizer))
    return made.requires_grad_(False)


def test_gumbel_codes_are_the_highest_scores() -> None:
    known = arrays("taming-gumbel")
    made = codebook("gumbel", *known["quantize.embed.weight"].shape)
    made.embedding.weight.copy_(known["quantize.embed.weight"])
    made.proj.load_state_dict({name: known[f"quantize.proj.{name}"] for name in ("weight", "bias")})
    flat = known["a_pre_quant"].permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.equal(made.choose(flat), known["a_indices_argmax"].flatten())
    logits = F.conv2d(known["a_pre_quant"], made.proj.weight, made.proj.bias)
    assert_close(logits, known["a_logits"])
    sampled = (logits + known["a_gumbel_noise"]).argmax(1)
    assert torch.equal(sampled, known["a_indices_eval_sampled"]), "as the original, even evaluated"


@pytest.mark.parametrize("name", ["a", "b"])
def test_llamagen_codes_have_the_nearest_direction(name: str) -> None:
    known = arrays("llamagen-vq")
    made = codebook("cosine", *known["codebook"].shape)
    made.embedding.weight.copy_(known["codebook"])
    features = known[f"{name}_pre_quant"]
    found = made.choose(features.permute(0, 2, 3, 1).flatten(0, 2))
    assert torch.equal(found, known[f"{name}_indices"].flatten())
    shape = (len(features), *features.shape[2:])
    vectors = made.vectors(known[f"{name}_indices"].view(shape)).permute(0, 3, 1, 2)
    assert_close(vectors, known[f"{name}_quant"])


def test_the_wavelet_of_rudalle() -> None:
    known = arrays("rudalle-wavelet")
    assert_close(inverse_haar(known["freq"]), known["unclamped"])


@pytest.mark.parametrize(
    ("name", "quantizer", "wavelet", "factor"),
    [
        ("last.ckpt", "gumbel", False, 8),
        ("vqgan.gumbelf8-sber.model.ckpt", "gumbel", False, 4),
        ("vqgan.gumbelf8-sber-dwt.model.ckpt", "gumbel", True, 4),
        ("vq_ds16_c2i.pt", "cosine", False, 16),
    ],
)
def test_every_name_of_an_original_file_has_its_place(
    name: str, quantizer: str, wavelet: bool, factor: int, tmp_path: Path
) -> None:
    shapes = json.loads((FOLDER / "names.json").read_text())[name]
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    torch.save(state, tmp_path / name)
    found = ImageTokenizer.from_pretrained(tmp_path / name, cache_dir=tmp_path / "cache")
    assert isinstance(found, VQGAN)
    config = found.config
    assert (config.quantizer, config.wavelet) == (quantizer, wavelet)
    assert config.value_range == (-1.0, 1.0)
    assert found.downsample_factor == factor
    assert found.token_size == factor * (1 + wavelet)
