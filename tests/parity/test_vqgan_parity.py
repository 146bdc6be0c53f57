"""The VQGAN computes what vqgan-jax and taming-transformers compute, from their own files.

vqgan-jax keeps channels last and pixels in [0, 1], taming keeps channels first and pixels in
[-1, 1]; here channels are first and pixels in [0, 1], whatever the checkpoint was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dallemini.models.vqgan import VQGAN
from fixture_files import unpack_taming

Arrays = Mapping[str, npt.NDArray[Any]]


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


class Case:
    """One original: its model and its arrays in our layout."""

    def __init__(self, vqgan: VQGAN, arrays: Arrays, *, channels_last: bool) -> None:
        self.vqgan = vqgan
        self.arrays = arrays
        self.channels_last = channels_last

    def features(self, name: str) -> Tensor:
        values = torch.from_numpy(self.arrays[name])
        return values.permute(0, 3, 1, 2) if self.channels_last else values

    def pixels(self, name: str) -> Tensor:
        values = self.features(name)
        return values if self.channels_last else (values + 1) / 2

    def codes(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name].astype(np.int64))

    def decode_unclipped(self, codes: Tensor) -> Tensor:
        return self.vqgan.decode_features(self.vectors(codes))

    def vectors(self, codes: Tensor) -> Tensor:
        side = int(codes.shape[1] ** 0.5)
        vectors: Tensor = self.vqgan.quantize.embedding(codes)
        return vectors.view(-1, side, side, vectors.shape[2]).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    fixtures = Path(__file__).parents[1] / "fixtures"
    temporary = tmp_path_factory.mktemp("vqgan")
    folders = {
        "vqgan-jax-tiny": fixtures / "vqgan-jax-tiny/model",
        "taming-tiny": unpack_taming(fixtures, temporary),
    }
    found = {}
    for name, folder in folders.items():
        with np.load(fixtures / name / "vectors.npz") as stored:
            arrays = dict(stored)
        vqgan = VQGAN.from_pretrained(folder, cache_dir=temporary / "cache")
        found[name] = Case(vqgan, arrays, channels_last=name == "vqgan-jax-tiny")
    return found


@pytest.fixture(params=["vqgan-jax-tiny", "taming-tiny"])
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    return cases[request.param]


@torch.no_grad()
def test_features_before_quantisation(case: Case) -> None:
    found = case.vqgan.encode_features(case.pixels("pixel_values"))
    assert_close(found, case.features("pre_quant"))


@pytest.mark.parametrize("prefix", ["", "big_"])
def test_encode(case: Case, prefix: str) -> None:
    found = case.vqgan.encode(case.pixels(f"{prefix}pixel_values"))
    assert torch.equal(found, case.codes(f"{prefix}indices"))


@torch.no_grad()
def test_quantised_vectors(case: Case) -> None:
    name = "quant_states" if case.channels_last else "quant"
    found = case.vectors(case.codes("indices"))
    assert_close(found, case.features(name))


@pytest.mark.parametrize(
    ("codes", "image"),
    [("indices", "reconstruction"), ("code_b", "decoded"), ("big_indices", "big_decoded")],
)
@torch.no_grad()
def test_decode(case: Case, codes: str, image: str) -> None:
    expected = case.pixels(image)
    found = case.decode_unclipped(case.codes(codes))
    assert_close(found, expected)
    clipped = case.vqgan.decode(case.codes(codes))
    assert_close(clipped, expected.clamp(0, 1))


def test_pictures_equal_to_the_last_bit(cases: dict[str, Case]) -> None:
    case = cases["vqgan-jax-tiny"]
    found = (case.vqgan.decode(case.codes("code_b")) * 255).to(torch.uint8)
    expected = torch.from_numpy(case.arrays["decoded_uint8"]).permute(0, 3, 1, 2)
    different = (found.int() - expected.int()).abs()
    assert different.max() <= 1  # truncation: the last digit of a float may decide
    assert (different > 0).float().mean() < 1e-3


def test_value_range_is_that_of_the_original(cases: dict[str, Case]) -> None:
    assert cases["vqgan-jax-tiny"].vqgan.config.value_range == (0.0, 1.0)
    assert cases["taming-tiny"].vqgan.config.value_range == (-1.0, 1.0)
