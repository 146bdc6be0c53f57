"""CLIP computes what OpenAI's code, open_clip and Hugging Face compute, from their own files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from dallemini.models.clip import CLIP
from dallemini.scorer import preprocess

Arrays = dict[str, npt.NDArray[np.float32]]


class Case(NamedTuple):
    """A fixture folder, where its checkpoint lies, and how exactly its features were recorded."""

    folder: str
    checkpoint: str
    tolerance: float


# The features of the OpenAI folder were recorded in float32, its file holds float16.
CASES = [
    Case("clip-hf-tiny", "model", 1e-5),
    Case("clip-hf-tiny-modern-eos", "model", 1e-5),
    Case("clip-open_clip-tiny-quickgelu", "model", 1e-5),
    Case("clip-openai-tiny", "state_dict_openai_fp16.pt", 5e-3),
]
IMAGES = [
    "exact_32",
    "gray_60x45",
    "land_100x70",
    "odd_33x100",
    "port_51x77",
    "rgba_45x60",
    "small_20x25",
    "square_256",
]
HUGGING_FACE = [case for case in CASES if "-hf-" in case.folder]  # these record two paddings
# The others resize RGBA with its transparency, which an RGB tensor does not have.
PREPROCESSED = [
    (case, name)
    for case in CASES
    for name in IMAGES
    if case in HUGGING_FACE or not name.startswith("rgba")
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.folder)
def case(request: pytest.FixtureRequest) -> Case:
    assert isinstance(request.param, Case)
    return request.param


@pytest.fixture
def vectors(fixtures: Path, case: Case) -> Arrays:
    with np.load(fixtures / case.folder / "vectors.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every file is converted once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def clip(fixtures: Path, case: Case, cache: Path) -> CLIP:
    return CLIP.from_pretrained(fixtures / case.folder / case.checkpoint, cache_dir=cache)


def assert_equal(actual: Tensor, expected: npt.NDArray[np.float32], tolerance: float) -> None:
    torch.testing.assert_close(
        actual.detach(), torch.from_numpy(expected), atol=tolerance, rtol=tolerance
    )


def test_features_equal_the_recorded_ones(clip: CLIP, case: Case, vectors: Arrays) -> None:
    text_features = clip.encode_text(torch.from_numpy(vectors["input_ids"]).long())
    image_features = clip.encode_image(torch.from_numpy(vectors["pixel_values"]))
    assert_equal(text_features, vectors["text_features"], case.tolerance)
    assert_equal(image_features, vectors["image_features"], case.tolerance)


def test_logits_equal_the_recorded_ones(clip: CLIP, vectors: Arrays) -> None:
    image_features = clip.encode_image(torch.from_numpy(vectors["pixel_values"]))
    text_features = clip.encode_text(torch.from_numpy(vectors["input_ids"]).long())
    logits = clip.logits(image_features, text_features)
    exact = "logits_per_image_from_fp16_file"
    assert_equal(logits, vectors[exact if exact in vectors else "logits_per_image"], 2e-5)


@pytest.mark.parametrize("case", HUGGING_FACE, indirect=True, ids=lambda case: case.folder)
def test_padding_and_mask_change_nothing(clip: CLIP, case: Case, vectors: Arrays) -> None:
    recorded = vectors["text_features"]
    zero_padded = torch.from_numpy(vectors["input_ids_zeropad"])
    input_ids, mask = (torch.from_numpy(vectors[key]) for key in ("input_ids", "attention_mask"))
    assert_equal(clip.encode_text(zero_padded), recorded, case.tolerance)
    assert_equal(clip.encode_text(input_ids, mask), recorded, case.tolerance)


@pytest.mark.parametrize(
    ("case", "name"),
    PREPROCESSED,
    indirect=["case"],
    ids=lambda value: getattr(value, "folder", value),
)
def test_preprocessing_equals_the_recorded_one(
    fixtures: Path, clip: CLIP, vectors: Arrays, name: str
) -> None:
    with Image.open(fixtures / "clip-images" / f"{name}.png") as picture:
        levels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]
    pixel_values = preprocess(levels / 255, clip.config)[0]
    one_level = 1 / 255 / torch.tensor(clip.config.image_std)[:, None, None]
    difference = (pixel_values - torch.from_numpy(vectors[f"pp_{name}"])).abs()
    assert bool((difference <= 1.001 * one_level).all())
    assert float((difference > 1e-4).float().mean()) < 0.01


def test_margins_are_cut_as_the_code_base_does(clip: CLIP, case: Case) -> None:
    assert clip.config.crop_rounding == ("down" if "-hf-" in case.folder else "even")
