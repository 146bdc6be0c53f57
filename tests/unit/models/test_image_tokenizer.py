"""What every image tokenizer promises: shapes, ranges, saving, fingerprints, and refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dallemini import ImageTokenizer
from dallemini.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    InputTypeError,
    MissingFileError,
    UnsupportedOperationError,
)
from dallemini.models import DVAE, VQGAN, DiscreteVAE, DiscreteVAEConfig, DVAEConfig
from dallemini.testing import TINY_VQGAN, tiny_pipeline, tiny_transformer, tiny_vqgan
from image_tokenizers import KINDS, pictures, tiny_image_tokenizer


@pytest.fixture(scope="module")
def all_kinds() -> dict[str, ImageTokenizer]:
    return {kind: tiny_image_tokenizer(kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def tokenizer(
    request: pytest.FixtureRequest, all_kinds: dict[str, ImageTokenizer]
) -> ImageTokenizer:
    return all_kinds[request.param]


def test_codes_and_pictures_have_the_shapes_that_grid_and_size_say(
    tokenizer: ImageTokenizer,
) -> None:
    assert isinstance(tokenizer, ImageTokenizer)
    assert (tokenizer.codebook_size, tokenizer.image_size) == (64, (16, 16))
    codes = tokenizer.encode(pictures(2, *tokenizer.image_size))
    assert codes.shape == (2, math.prod(tokenizer.grid)) == (2, tokenizer.image_length)
    assert codes.dtype == torch.int64
    assert 0 <= int(codes.min()) <= int(codes.max()) < 64
    decoded = tokenizer.decode(codes)
    size = [rows * tokenizer.token_size for rows in tokenizer.grid]
    assert list(decoded.shape) == [2, 3, *size]
    assert 0 <= float(decoded.min()) < float(decoded.max()) <= 1


def test_grids_need_not_be_square(tokenizer: ImageTokenizer) -> None:
    factor = tokenizer.downsample_factor
    codes = tokenizer.encode(pictures(2, 2 * factor, 5 * factor))
    assert codes.shape == (2, 10)
    decoded = tokenizer.decode(codes.view(2, 2, 5))
    assert decoded.shape[2:] == (2 * tokenizer.token_size, 5 * tokenizer.token_size)
    assert torch.equal(decoded, tokenizer.decode(codes, shape=(2, 5)))
    with pytest.raises(InputError, match=r"\[N, L\] with L .*, not \[2, 10\]; rows and columns"):
        tokenizer.decode(codes)


def test_a_wrapping_picture_goes_on_at_its_opposite_edges(tokenizer: ImageTokenizer) -> None:
    """Shifted codes make shifted pictures; the tiny VQGANs see all of a picture by their norms."""
    codes = torch.randint(0, 64, (1, 4, 4), generator=torch.Generator().manual_seed(0))
    unit = tokenizer.token_size
    picture = tokenizer.decode(codes, wraps=True)
    shifted = tokenizer.decode(codes.roll((1, 2), dims=(1, 2)), wraps=True)
    expected = picture.roll((unit, 2 * unit), dims=(2, 3))
    torch.testing.assert_close(shifted, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(tokenizer.decode(codes), picture, atol=1e-4)


@pytest.mark.slow_except("nearest", "gumbel", "DVAE")
def test_the_class_is_found_and_everything_comes_back(
    tokenizer: ImageTokenizer, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = ImageTokenizer.from_pretrained(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.config == tokenizer.config
    assert loaded.fingerprint == tokenizer.fingerprint
    images = pictures(1, 16, 16)
    codes = tokenizer.encode(images)
    assert torch.equal(loaded.encode(images), codes)
    assert torch.equal(loaded.decode(codes), tokenizer.decode(codes))
    half = ImageTokenizer.from_pretrained(tmp_path, dtype="bfloat16")
    assert half.fingerprint == tokenizer.fingerprint
    assert half.decode(codes).dtype == torch.bfloat16


def test_fingerprints_tell_codes_apart(all_kinds: dict[str, ImageTokenizer]) -> None:
    prints = {kind: one.fingerprint for kind, one in all_kinds.items()}
    others = {kind: tiny_image_tokenizer(kind, seed=1).fingerprint for kind in KINDS}
    assert all(len(mark) == 32 for mark in prints.values())
    assert not set(prints.values()) & set(others.values())
    decoder = VQGAN.from_config(replace(TINY_VQGAN, has_encoder=False))
    full = tiny_vqgan()
    with torch.no_grad():
        decoder.quantize.embedding.weight.copy_(full.code_vectors)
    assert decoder.fingerprint == full.fingerprint, "the same codes, without an encoder"


def test_wrong_codes_and_pictures_are_refused(tokenizer: ImageTokenizer) -> None:
    factor = tokenizer.downsample_factor
    with pytest.raises(InputError, match="Image tokens 0 to 64 are outside 0 to 63"):
        tokenizer.decode(torch.tensor([[0, 1, 2, 64]]))
    with pytest.raises(InputTypeError, match="must be a tensor of integers"):
        tokenizer.decode(torch.zeros(1, 4))
    with pytest.raises(InputError, match=rf"(multiples of|at least) {factor}, "):
        tokenizer.encode(torch.zeros(1, 3, factor, factor - 1))
    with pytest.raises(InputError, match=r"must lie in \[0, 1\], but hold -1 to 1"):
        tokenizer.encode(torch.tensor([-1.0, 1.0]).expand(1, 3, 16, 8, 2).flatten(3))
    with pytest.raises(InputError, match=r"shape \[N, 3, H, W\], not \[1, 4, 16, 16\]"):
        tokenizer.encode(torch.zeros(1, 4, 16, 16))


def test_only_the_dvae_leaves_pixels_out() -> None:
    images = pictures(1, 21, 18)
    dvae = tiny_image_tokenizer("DVAE")
    assert dvae.encode(images).shape == (1, 4)
    with pytest.raises(InputError, match="must be multiples of 4, not 21x18"):
        tiny_image_tokenizer("DiscreteVAE").encode(images)


def test_another_class_is_named(tmp_path: Path) -> None:
    tiny_image_tokenizer("DVAE").save_pretrained(tmp_path / "dvae")
    with pytest.raises(CheckpointError, match="holds a DVAE, not a VQGAN"):
        VQGAN.from_pretrained(tmp_path / "dvae")
    with pytest.raises(CheckpointError, match="holds a DVAE, not a DiscreteVAE"):
        DiscreteVAE.from_pretrained(tmp_path / "dvae")
    tiny_transformer().save_pretrained(tmp_path / "transformer")
    with pytest.raises(CheckpointError, match="holds a Transformer, not a VQGAN"):
        ImageTokenizer.from_pretrained(tmp_path / "transformer")


def test_a_source_without_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(MissingFileError, match=r"no image tokenizer .*\(VQGAN, DVAE, DiscreteVAE"):
        ImageTokenizer.from_pretrained(tmp_path)
    tiny_pipeline().save_pretrained(tmp_path / "pipe")
    with pytest.raises(MissingFileError, match="subfolder='vqgan'"):
        ImageTokenizer.from_pretrained(tmp_path / "pipe")
    assert isinstance(ImageTokenizer.from_pretrained(tmp_path / "pipe", subfolder="vqgan"), VQGAN)


def test_a_decoder_alone_encodes_nothing() -> None:
    config = replace(TINY_VQGAN, has_encoder=False, quantizer="gumbel")
    with pytest.raises(UnsupportedOperationError, match="only the decoder"):
        VQGAN.from_config(config).encode(pictures(1, 16, 16))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DVAEConfig, {"n_hid": 6}, "n_hid must be a multiple of 4"),
        (DVAEConfig, {"resolution": 100}, "resolution must be a multiple of 8, not 100"),
        (DVAEConfig, {"vocab_size": 0}, "vocab_size must be from 1 to"),
        (DVAEConfig, {"n_blk_per_group": 300}, "has 300 layers, but at most"),
        (DiscreteVAEConfig, {"image_size": 36}, "image_size must be a multiple of 8, not 36"),
        (DiscreteVAEConfig, {"num_resnet_blocks": -1}, "num_resnet_blocks must be from 0"),
        (DiscreteVAEConfig, {"num_layers": 17}, "num_layers must be at most 16"),
    ],
)
def test_wrong_sizes_are_refused(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind.from_dict(values)


def test_released_sizes_are_those_of_the_originals() -> None:
    """Counted from the originals' own modules."""
    dvae = DVAE(DVAEConfig())
    counts = [sum(p.numel() for p in side.parameters()) for side in (dvae.encoder, dvae.decoder)]
    assert counts == [53_786_240, 43_829_766]
    f16 = replace(VQGAN(TINY_VQGAN).config.__class__(), quantizer="cosine", embed_dim=8)
    f8 = replace(f16, ch_mult=(1, 2, 2, 4), attn_resolutions=(32,))
    counts = [sum(p.numel() for p in VQGAN(config).parameters()) for config in (f16, f8)]
    assert counts == [71_883_403, 70_109_835]
