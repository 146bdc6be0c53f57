"""The VQGAN: sizes, encode and decode, pixel ranges, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dallemini.errors import (
    ConfigError,
    InputError,
    InputTypeError,
    UnsupportedOperationError,
)
from dallemini.models import vqgan_cpu
from dallemini.models.vqgan import VQGAN, VQGANConfig
from dallemini.testing import TINY_TRANSFORMER, TINY_VQGAN, tiny_vqgan


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    return tiny_vqgan()


@pytest.fixture(scope="module")
def codes() -> Tensor:
    return torch.randint(64, (3, 16), generator=torch.Generator().manual_seed(0))


def pictures(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def test_released_size_has_its_number_of_parameters() -> None:
    assert sum(weight.numel() for weight in VQGAN(VQGANConfig()).parameters()) == 76_073_859


def test_full_size_shapes_follow_from_the_configuration() -> None:
    vqgan = VQGAN(VQGANConfig())
    assert (vqgan.codebook_size, vqgan.image_length) == (16384, 256)
    assert vqgan.encode(torch.empty(2, 3, 256, 256, device="meta")).shape == (2, 256)
    codes = torch.zeros(2, 256, dtype=torch.int64, device="meta")
    assert vqgan.decode(codes).shape == (2, 3, 256, 256)


def test_construction_takes_no_memory_and_no_random_numbers() -> None:
    state = torch.get_rng_state()
    vqgan = VQGAN(VQGANConfig())
    assert all(tensor.is_meta for tensor in vqgan.state_dict().values())
    assert torch.equal(torch.get_rng_state(), state)


LARGE = VQGANConfig(
    ch=32,
    ch_mult=(1, 1, 2),
    num_res_blocks=1,
    attn_resolutions=(),
    resolution=64,
    z_channels=16,
    embed_dim=8,
    n_embed=64,
    value_range=(-1.0, 1.0),
    has_encoder=False,
)
LARGE_SIDE = 33  # 132 x 132 positions of 32 channels: 2.1 MiB


@pytest.fixture(scope="module")
def large() -> VQGAN:
    vqgan = VQGAN.from_config(LARGE)
    for name, parameter in vqgan.named_parameters():
        if "norm" in name or name.endswith("bias"):  # not left at one and zero
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            parameter.data += 0.2 * noise
    return vqgan


@pytest.fixture(scope="module")
def large_codes() -> Tensor:
    return torch.randint(64, (2, LARGE_SIDE**2), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def plainly_decoded(vqgan: VQGAN, codes: Tensor) -> Tensor:
    vectors = vqgan.quantize.embedding(codes).view(-1, LARGE_SIDE, LARGE_SIDE, 8)
    return vqgan.decode_features(vectors.permute(0, 3, 1, 2)).clamp(0, 1)


@pytest.mark.slow_except("0")
@pytest.mark.parametrize("large_bytes", [0, vqgan_cpu.LARGE_BYTES])
def test_large_pictures_are_the_plain_ones_up_to_rounding(
    large: VQGAN, large_codes: Tensor, large_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vqgan_cpu, "LARGE_BYTES", large_bytes)
    monkeypatch.setattr(vqgan_cpu, "STRIP_BYTES", 500_000)
    found, expected = large.decode(large_codes), plainly_decoded(large, large_codes)
    assert 0.2 < float(expected.mean()) < 0.8
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)
    assert not torch.equal(found, expected)  # or it was not drawn in strips
    levels = [(pixels * 255).to(torch.uint8).int() for pixels in (found, expected)]
    different = (levels[0] - levels[1]).abs()
    assert different.max() <= 1
    assert (different > 0).float().mean() < 1e-3


@pytest.mark.thorough
def test_a_large_picture_is_the_same_alone_and_in_a_batch(
    large: VQGAN, large_codes: Tensor
) -> None:
    together = large.decode(large_codes)
    assert together.shape == (2, 3, 4 * LARGE_SIDE, 4 * LARGE_SIDE)
    for row in range(2):
        assert torch.equal(large.decode(large_codes[row : row + 1])[0], together[row])
    assert torch.equal(large.decode(large_codes), together)


@pytest.mark.thorough
def test_large_pictures_in_half_precision(large: VQGAN, large_codes: Tensor) -> None:
    half = copy.deepcopy(large).to(torch.bfloat16)
    pixels = half.decode(large_codes[:1])
    assert pixels.dtype == torch.bfloat16
    error = (pixels.float() - large.decode(large_codes[:1])).abs().mean()
    assert float(error) < 0.02


def test_gradients_flow_through_large_pictures(large: VQGAN) -> None:
    vectors = torch.randn(1, 8, LARGE_SIDE, LARGE_SIDE, generator=torch.Generator().manual_seed(0))
    vectors.requires_grad_()
    large.decode_features(vectors).square().mean().backward()
    assert vectors.grad is not None
    assert float(vectors.grad.abs().sum()) > 0
    assert all(parameter.grad is not None for parameter in large.decoder.parameters())
    large.zero_grad(set_to_none=True)
    assert not large.decode(torch.zeros(1, LARGE_SIDE**2, dtype=torch.int64)).requires_grad


def test_decoded_pictures_lie_in_0_to_1(vqgan: VQGAN, codes: Tensor) -> None:
    pixels = vqgan.decode(codes)
    assert pixels.shape == (3, 3, 16, 16)
    assert not pixels.requires_grad
    assert float(pixels.min()) >= 0
    assert float(pixels.max()) <= 1
    assert float(pixels.std()) > 0.1


def test_codes_lie_in_the_codebook(vqgan: VQGAN) -> None:
    codes = vqgan.encode(pictures(2, 3, 16, 16))
    assert codes.shape == (2, 16)
    assert codes.dtype == torch.int64
    assert int(codes.min()) >= 0
    assert int(codes.max()) < 64


def test_encode_takes_the_nearest_code(vqgan: VQGAN) -> None:
    images = pictures(2, 3, 16, 16)
    features = vqgan.encode_features(images).permute(0, 2, 3, 1).reshape(2, 16, 4)
    distances = torch.cdist(features, vqgan.quantize.embedding.weight[None])
    assert torch.equal(vqgan.encode(images), distances.argmin(-1))


def test_pictures_of_a_batch_do_not_mix(vqgan: VQGAN, codes: Tensor) -> None:
    together = vqgan.decode(codes)
    for row in range(3):
        torch.testing.assert_close(vqgan.decode(codes[row : row + 1])[0], together[row])


@pytest.mark.parametrize("side", [2, 3, 6])
def test_other_sizes_of_picture_work(vqgan: VQGAN, side: int) -> None:
    pixels = vqgan.decode(torch.zeros(1, side * side, dtype=torch.int64))
    assert pixels.shape == (1, 3, 4 * side, 4 * side)
    assert vqgan.encode(pixels).shape == (1, side * side)


def test_pictures_need_not_be_square_to_be_encoded(vqgan: VQGAN) -> None:
    assert vqgan.encode(pictures(1, 3, 8, 20)).shape == (1, 10)


def test_rows_of_codes_run_from_the_top_left(vqgan: VQGAN) -> None:
    codes = torch.zeros(1, 64, dtype=torch.int64)
    changed = codes.clone()
    changed[0, 7] = 1  # the last of the first row: the top right corner
    where = (vqgan.decode(codes) - vqgan.decode(changed)).abs().sum(1)[0]
    assert where[:16, 16:].sum() > where[16:, :16].sum()
    assert where[:16, 16:].sum() > where[16:, 16:].sum()


def test_the_value_range_belongs_to_the_network_alone(codes: Tensor) -> None:
    symmetric = tiny_vqgan(dataclasses.replace(TINY_VQGAN, value_range=(-1.0, 1.0)))
    plain = tiny_vqgan()
    vectors = plain.quantize.embedding(codes).view(3, 4, 4, 4).permute(0, 3, 1, 2)
    torch.testing.assert_close(
        symmetric.decode_features(vectors), (plain.decode_features(vectors) + 1) / 2
    )
    images = pictures(2, 3, 16, 16)
    torch.testing.assert_close(
        symmetric.encode_features(images), plain.encode_features(images * 2 - 1)
    )


def test_attention_sits_where_the_configuration_says_whatever_the_input() -> None:
    config = VQGANConfig(ch=32, ch_mult=(1, 1, 1), attn_resolutions=(8,), resolution=16)
    assert [config.has_attention(level) for level in range(3)] == [False, True, False]
    names = {name for name, _ in VQGAN(config).named_parameters() if ".attn." in name}
    assert {name.split(".attn.")[0] for name in names} == {"encoder.down.1", "decoder.up.1"}


def test_folded_pixels_leave_the_pictures_size_alone() -> None:
    folded = dataclasses.replace(TINY_VQGAN, pixel_shuffle=4, ch_mult=(1,), attn_resolutions=())
    vqgan = tiny_vqgan(folded)
    images = pictures(1, 3, 16, 16)
    assert vqgan.encode(images).shape == (1, 16)
    assert vqgan.decode(vqgan.encode(images)).shape == images.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_draws_nearly_the_same(
    vqgan: VQGAN, codes: Tensor, dtype: torch.dtype
) -> None:
    half = tiny_vqgan().to(dtype)
    pixels = half.decode(codes)
    assert pixels.dtype == dtype
    error = (pixels.float() - vqgan.decode(codes)).square().mean()
    assert float(-10 * error.log10()) > 40  # decibels
    assert half.encode(pictures(1, 3, 16, 16)).shape == (1, 16)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_other_integers_are_read_as_codes(vqgan: VQGAN, codes: Tensor, dtype: torch.dtype) -> None:
    assert torch.equal(vqgan.decode(codes.to(dtype)), vqgan.decode(codes))


def test_gradients_flow_through_the_parts_for_training(vqgan: VQGAN) -> None:
    vectors = vqgan.encode_features(pictures(1, 3, 16, 16))
    vqgan.decode_features(vectors).sum().backward()
    assert vqgan.encoder.conv_in.weight.grad is not None
    vqgan.zero_grad(set_to_none=True)


def test_a_slight_overshoot_of_resizing_is_accepted(vqgan: VQGAN) -> None:
    assert vqgan.encode(torch.full((1, 3, 16, 16), 1.005)).shape == (1, 16)


def test_decode_only_model_decodes_the_same_and_says_why_it_cannot_encode(codes: Tensor) -> None:
    whole, half = tiny_vqgan(), VQGAN(dataclasses.replace(TINY_VQGAN, has_encoder=False))
    kept = {name: value for name, value in whole.state_dict().items() if name in half.state_dict()}
    half.load_state_dict(kept, assign=True)
    assert not any(name.startswith(("encoder", "quant_conv")) for name in half.state_dict())
    assert torch.equal(half.decode(codes), whole.decode(codes))
    with pytest.raises(UnsupportedOperationError, match=r"only the decoder .*load one with"):
        half.encode(pictures(1, 3, 16, 16))


@pytest.mark.parametrize(
    "images",
    [None, "picture", [[0.0]], np.zeros((1, 3, 16, 16)), torch.zeros(1, 3, 16, 16).byte()],
)
def test_encode_refuses_what_is_no_float_tensor(vqgan: VQGAN, images: Any) -> None:
    message = r"images must be a floating-point tensor in \[0, 1\], not "
    with pytest.raises(InputTypeError, match=message):
        vqgan.encode(images)


@pytest.mark.parametrize(
    "shape", [(3, 16, 16), (1, 1, 16, 16), (1, 16, 16, 3), (0, 3, 16, 16), (1, 3, 0, 16)]
)
def test_encode_refuses_a_wrong_shape(vqgan: VQGAN, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"images must have shape \[N, 3, H, W\], not \["):
        vqgan.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 3, 15, 16), (1, 3, 16, 18), (1, 3, 1, 1)])
def test_encode_refuses_a_size_that_codes_do_not_fill(vqgan: VQGAN, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"Height and width must be multiples of 4, not .*resize"):
        vqgan.encode(torch.zeros(shape))


@pytest.mark.parametrize("value", [255.0, -1.0, 1.5, float("nan"), float("inf"), -float("inf")])
def test_encode_refuses_pixels_outside_0_to_1(vqgan: VQGAN, value: float) -> None:
    with pytest.raises(InputError, match=r"images must lie in \[0, 1\], but hold "):
        vqgan.encode(torch.full((1, 3, 16, 16), value))


@pytest.mark.parametrize(
    "codes", [None, [[0] * 16], np.zeros((1, 16), int), torch.zeros(1, 16), torch.ones(1, 16) > 0]
)
def test_decode_refuses_what_is_no_integer_tensor(vqgan: VQGAN, codes: Any) -> None:
    with pytest.raises(InputTypeError, match=r"image_tokens must be a tensor of integers \[N, L\]"):
        vqgan.decode(codes)


@pytest.mark.parametrize("shape", [(16,), (1, 15), (1, 0), (1, 17), (1, 2, 4, 2)])
def test_decode_refuses_wrong_grid(vqgan: VQGAN, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\[N, L\] with L a square number such as 16, not \["):
        vqgan.decode(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("code", [-1, 64, 2**40])
def test_decode_refuses_a_code_outside_the_codebook(vqgan: VQGAN, code: int) -> None:
    codes = torch.zeros(1, 16, dtype=torch.int64)
    codes[0, 3] = code
    with pytest.raises(InputError, match=r"outside 0 to 63: this codebook has 64 codes"):
        vqgan.decode(codes)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ch", 33, "ch must be a multiple of 32, not 33"),
        ("ch_mult", (1,) * 100_000, "at most 16 levels .* not 100000 with 2 each"),
        ("num_res_blocks", 100, "at most 16 levels .* with 256 blocks in all, not 5 with 100 each"),
        ("resolution", 2**62, "Every size of a VQGANConfig must be at most 16777216"),
        ("ch", 2**23, "Every size of a VQGANConfig must be at most 16777216, not 33554432"),
        ("value_range", (0, 10**400), "value_range is too large for a number"),
        ("ch", 0, "Every size of a VQGANConfig must be at least 1"),
        ("ch_mult", (), "Every size of a VQGANConfig must be at least 1"),
        ("ch_mult", (1, 0), "Every size of a VQGANConfig must be at least 1"),
        ("num_res_blocks", -1, "Every size of a VQGANConfig must be at least 1"),
        ("pixel_shuffle", 0, "Every size of a VQGANConfig must be at least 1"),
        ("n_embed", 0, "Every size of a VQGANConfig must be at least 1"),
        ("in_channels", 1, "in_channels and out_ch must be 3"),
        ("out_ch", 4, "in_channels and out_ch must be 3"),
        ("value_range", (1.0, 0.0), r"value_range must be two rising numbers, not \(1.0, 0.0\)"),
        ("value_range", (0.0,), "value_range must be two rising numbers"),
        ("value_range", (float("nan"), 1.0), "value_range must be two rising numbers"),
        ("value_range", (0.0, float("inf")), "value_range must be two rising numbers"),
        ("refiner_scale", 0, "Every size of a VQGANConfig must be at least 1"),
        ("refiner_width", 2**30, "at most 16777216, not 1073741824"),
        ("refiner_scale", 9, "scale of 'compact' must be one of 1, 2, 3, 4, 5, 6, 7, 8, not 9"),
        ("resolution", 250, "250 must be a multiple of the downsampling factor 16"),
        ("attn_resolutions", 16, "attn_resolutions must be tuple"),
        ("has_encoder", "yes", "has_encoder must be bool, not 'yes'"),
        ("embed_dim", 2.5, "embed_dim must be int, not 2.5"),
    ],
)
def test_impossible_sizes_are_refused(field: str, value: Any, message: str) -> None:
    for make in (VQGANConfig.from_dict, lambda fields: VQGANConfig(**fields)):
        with pytest.raises(ConfigError, match=message):
            make({field: value})


def test_a_refiner_makes_larger_pictures_of_the_same_codes() -> None:
    plain = tiny_vqgan()
    finer = VQGAN.from_config(dataclasses.replace(TINY_VQGAN, refiner_scale=4))
    assert (finer.downsample_factor, finer.token_size, finer.grid) == (4, 16, plain.grid)
    codes = torch.zeros(1, 16, dtype=torch.int64)
    assert finer.decode(codes).shape == (1, 3, 64, 64)
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    small = finer.shrink(pictures)
    assert small.shape == (2, 3, 16, 16)
    torch.testing.assert_close(small.mean((2, 3)), pictures.mean((2, 3)), atol=0.02, rtol=0)
    assert plain.shrink(small) is small
    both = codes.new_tensor([[3] * 16, [5] * 16])
    torch.testing.assert_close(finer.decode(both)[1:], finer.decode(both[1:]))
    wrapped = finer.decode(both, wraps=True)
    turned = finer.decode(both.roll(8, 1), wraps=True)
    torch.testing.assert_close(wrapped.roll(32, 2), turned)


def test_another_configuration_is_refused() -> None:
    with pytest.raises(InputTypeError, match="made from a VQGANConfig, not TransformerConfig"):
        VQGAN(TINY_TRANSFORMER)  # type: ignore[arg-type]


def test_codes_of_any_shape_are_decoded(vqgan: VQGAN) -> None:
    codes = torch.arange(10)[None]
    wide = vqgan.decode(codes, shape=(2, 5))
    assert wide.shape[3] * 2 == wide.shape[2] * 5
    with pytest.raises(InputError, match=r"\[N, 3 \* 5\], not \[1, 10\]"):
        vqgan.decode(codes, shape=(3, 5))


def test_pictures_that_wrap_move_with_their_codes(vqgan: VQGAN) -> None:
    codes = torch.randint(vqgan.codebook_size, (4, 6), generator=torch.Generator().manual_seed(0))
    still = vqgan.decode(codes.view(1, -1), shape=(4, 6), wraps=True)
    moved = vqgan.decode(codes.roll((1, 4), (0, 1)).view(1, -1), shape=(4, 6), wraps=True)
    unit = vqgan.config.downsample_factor
    torch.testing.assert_close(moved, still.roll((unit, 4 * unit), (2, 3)), atol=1e-5, rtol=0)
    plain = vqgan.decode(codes.view(1, -1), shape=(4, 6))
    assert not torch.allclose(plain, still, atol=1e-3)
