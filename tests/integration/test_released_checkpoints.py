"""Released checkpoints by their Hub names, served in their authentic formats by a local hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from dallemini import CLIPScorer, Pipeline, Tokenizer, Transformer
from dallemini.checkpoints.safetensors_file import WEIGHTS_FILE
from dallemini.errors import (
    DalleMiniWarning,
    HubError,
    InputError,
    MissingFileError,
    UnsupportedModelError,
)
from dallemini.models import VQGANConfig
from dallemini.models.vqgan import VQGAN
from dallemini.testing import tiny_clip_scorer, tiny_tokenizer
from hub_server import HubServer

MINI = "dalle-mini/dalle-mini"
MIN_DALLE = "kuprel/min-dalle"
VQGAN_NAME = "dalle-mini/vqgan_imagenet_f16_16384"
CLIP_NAME = "timm/vit_base_patch32_clip_224.openai"
OLDER_CLIP_NAME = "openai/clip-vit-base-patch32"


@pytest.fixture
def released(hub: HubServer, fixtures: Path) -> HubServer:
    """A hub with DALL-E Mini and its VQGAN, small, with random weights."""
    hub.add(MINI, fixtures / "e2e-tiny" / "model")
    hub.add(VQGAN_NAME, fixtures / "vqgan-jax-tiny" / "model")
    return hub


def draw(pipe: Pipeline) -> list[int]:
    """Return the first tokens of a picture, on which all others depend."""
    step = next(iter(pipe.stream("sunset over a lake", seed=3, top_k=1, every=24)))
    return [int(token) for token in step.image_tokens[:, :24].flatten()]


def test_dalle_mini_completes_itself_with_its_vqgan(released: HubServer) -> None:
    pipe = Pipeline.from_pretrained(MINI)
    out = pipe("sunset over a lake", seed=3)
    assert out.images[0].size == (256, 256)
    assert out.model.startswith(f"{MINI}@")
    asked = " ".join(released.requests)
    assert VQGAN_NAME in asked
    assert CLIP_NAME not in asked


@pytest.mark.thorough
def test_foreign_checkpoint_in_a_folder_of_a_model_is_completed_too(
    released: HubServer, fixtures: Path, tmp_path: Path
) -> None:
    shutil.copytree(fixtures / "e2e-tiny" / "model", tmp_path / "many" / "mini")
    commit = released.add("someone/many", tmp_path / "many")
    pipe = Pipeline.from_pretrained("someone/many", subfolder="mini")
    assert draw(pipe) == draw(Pipeline.from_pretrained(MINI))
    assert pipe.name == f"someone/many/mini@{commit[:12]}"


def test_second_load_maps_the_conversion_and_needs_no_network(released: HubServer) -> None:
    first = draw(Pipeline.from_pretrained(MINI))
    released.reset()
    offline = Pipeline.from_pretrained(MINI, local_files_only=True)
    assert draw(offline) == first
    assert released.requests == []


@pytest.mark.thorough
def test_warm_cache_draws_when_the_hub_is_down(released: HubServer) -> None:
    first = draw(Pipeline.from_pretrained(MINI))
    released.stop()
    with pytest.warns(DalleMiniWarning, match="copy in the cache is used"):
        again = Pipeline.from_pretrained(MINI)
    assert draw(again) == first


def test_cold_cache_without_network_says_what_to_do(released: HubServer) -> None:
    released.stop()
    with pytest.raises(HubError, match=r"cannot be reached.*HF_ENDPOINT"):
        Pipeline.from_pretrained(MINI)


def test_ranking_fetches_clip_when_it_is_first_asked_for(
    released: HubServer, fixtures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "clip"
    tiny_clip_scorer().save_pretrained(folder)
    released.add(CLIP_NAME, folder)
    pipe = Pipeline.from_pretrained(MINI)
    assert isinstance(pipe.scorer, CLIPScorer)
    scores = pipe.scorer.score(torch.rand(2, 3, 256, 256), ["sunset over a lake"] * 2)
    assert scores.shape == (2,)


@pytest.mark.thorough
def test_ranking_falls_back_to_the_file_that_openai_published(
    released: HubServer, tmp_path: Path
) -> None:
    folder = tmp_path / "clip"
    tiny_clip_scorer().save_pretrained(folder)
    released.add(OLDER_CLIP_NAME, folder)
    scorer = Pipeline.from_pretrained(MINI).scorer
    assert isinstance(scorer, CLIPScorer)


@pytest.mark.thorough
def test_ranking_without_clip_names_the_first_source(released: HubServer) -> None:
    pipe = Pipeline.from_pretrained(MINI)
    with pytest.raises(HubError, match=CLIP_NAME):
        pipe("a lake", rank=True)


def test_min_dalle_loads_by_name_and_takes_the_original_vqgan(
    hub: HubServer, fixtures: Path, tmp_path: Path
) -> None:
    hub.add(MIN_DALLE, min_dalle_folder(fixtures, tmp_path / "min-dalle"))
    codes = VQGANConfig(
        ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), resolution=32, n_embed=128
    )
    VQGAN.from_config(codes).save_pretrained(tmp_path / "vqgan")
    hub.add(VQGAN_NAME, tmp_path / "vqgan")
    pipe = Pipeline.from_pretrained(MIN_DALLE)
    assert max(draw(pipe)) < 128


@pytest.mark.thorough
def test_interrupted_download_says_so_and_the_next_call_succeeds(released: HubServer) -> None:
    released.fail("GET /blobs/", cut=0.0)
    with pytest.raises(HubError, match=r"tokenizer\.json"):
        Pipeline.from_pretrained(MINI)
    released.reset()
    assert draw(Pipeline.from_pretrained(MINI))


def test_older_model_is_refused_by_name_before_anything_is_downloaded(hub: HubServer) -> None:
    with pytest.raises(UnsupportedModelError, match="flax-community/dalle-mini is a BART model"):
        Pipeline.from_pretrained("flax-community/dalle-mini")
    assert hub.requests == []


def test_model_of_type_bart_is_refused(hub: HubServer, tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "bart")
    (tmp_path / "bart" / "config.json").write_text(json.dumps({"model_type": "bart"}))
    hub.add("someone/bart", tmp_path / "bart")
    with pytest.raises(UnsupportedModelError, match="model_type 'bart'"):
        Pipeline.from_pretrained("someone/bart")


@pytest.mark.thorough
def test_saved_pipeline_draws_the_same_from_the_hub(
    released: HubServer, tmp_path: Path, fixtures: Path
) -> None:
    original = Pipeline.from_pretrained(MINI, scorer=tiny_clip_scorer())
    original.save_pretrained(tmp_path / "saved")
    released.add("someone/copy", tmp_path / "saved")
    copy = Pipeline.from_pretrained("someone/copy")
    assert draw(copy) == draw(original)
    assert (tmp_path / "saved" / "transformer" / WEIGHTS_FILE).is_file()
    for name, parameter in copy.transformer.named_parameters():
        assert torch.equal(parameter, original.transformer.get_parameter(name)), name


def min_dalle_folder(fixtures: Path, folder: Path) -> Path:
    """Write a folder as min-dalle's on the Hub: two state dicts, vocabulary and merges."""
    folder.mkdir()
    for name in ("encoder.pt", "decoder.pt"):
        shutil.copy(fixtures / "min-dalle-tiny-fp16" / name, folder)
    tokenizer = Tokenizer.train(["a lake"] * 9, vocab_size=300, max_length=64)
    tokenizer.save_pretrained(folder / "native")
    model = json.loads((folder / "native" / "tokenizer.json").read_text())["model"]
    shutil.rmtree(folder / "native")
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return folder


def test_one_file_of_a_hub_model_selects_the_smaller_min_dalle(
    hub: HubServer, fixtures: Path, tmp_path: Path
) -> None:
    folder = min_dalle_folder(fixtures, tmp_path / "min-dalle")
    for name in ("encoder.pt", "decoder.pt", "vocab.json", "merges.txt"):
        stem, ending = name.split(".")
        shutil.copy(folder / name, folder / f"{stem}_mini.{ending}")
    hub.add(MIN_DALLE, folder)
    transformer = Transformer.from_pretrained(f"{MIN_DALLE}/encoder_mini.pt")
    assert transformer.config.image_vocab_size == 159
    downloaded = " ".join(request for request in hub.requests if "HEAD" in request)
    assert "decoder_mini.pt" in downloaded
    assert "/decoder.pt" not in downloaded


def test_missing_file_of_a_hub_model_is_named(hub: HubServer, fixtures: Path) -> None:
    hub.add(MIN_DALLE, fixtures / "min-dalle-tiny-fp16")
    with pytest.raises(MissingFileError, match=r"kuprel/min-dalle has no file encoder_max\.pt"):
        Transformer.from_pretrained(f"{MIN_DALLE}/encoder_max.pt")


def test_saving_a_released_model_fetches_no_scorer(released: HubServer, tmp_path: Path) -> None:
    Pipeline.from_pretrained(MINI).save_pretrained(tmp_path / "saved")
    assert CLIP_NAME not in " ".join(released.requests)
    with pytest.raises(InputError, match="has no scorer"):
        Pipeline.from_pretrained(tmp_path / "saved")("a lake", rank=True)
