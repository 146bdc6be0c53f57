"""Tests of `dallemini.checkpoints.clip`: the layout of Hugging Face transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dallemini.checkpoints import Claim
from dallemini.checkpoints.clip import HuggingFaceCLIP
from dallemini.checkpoints.formats import LazyCheckpoint
from dallemini.errors import CheckpointError, ConfigError, UnsupportedModelError
from dallemini.hub.source import open_source
from dallemini.models.clip import CLIP, CLIPConfig


@pytest.fixture
def folder(tmp_path: Path, fixtures: Path) -> Path:
    return Path(shutil.copytree(fixtures / "clip-hf-tiny/model", tmp_path / "model"))


def read(path: Path) -> LazyCheckpoint:
    source = open_source(path)
    names = HuggingFaceCLIP().detect(source)
    assert names is not None
    return Claim(HuggingFaceCLIP(), names).read(source, CLIP.expected_shapes)


def change(folder: Path, name: str = "config.json", **changes: Any) -> None:
    values = json.loads((folder / name).read_text())
    for key, value in changes.items():
        place = values
        *towers, last = key.split("__")
        for tower in towers:
            place = place[tower]
        place[last] = value
    (folder / name).write_text(json.dumps(values))


def test_fields_are_those_of_the_configuration(folder: Path) -> None:
    config = CLIPConfig.from_dict(read(folder).config)
    assert (config.embed_dim, config.text_width, config.vision_width) == (24, 32, 48)
    assert (config.text_heads, config.vision_heads, config.context_length) == (4, 3, 16)
    assert (config.activation, config.image_size, config.patch_size) == ("quick_gelu", 32, 8)


def test_wrong_end_token_of_the_released_files_means_the_highest_id(folder: Path) -> None:
    config = read(folder).config
    assert (config["pooling"], config["eos_token_id"]) == ("argmax", 599)


def test_right_end_token_is_looked_for(fixtures: Path) -> None:
    config = read(fixtures / "clip-hf-tiny-modern-eos/model").config
    assert (config["pooling"], config["eos_token_id"]) == ("first_eos", 599)
    assert config["activation"] == "gelu"


def test_projections_are_fused_in_the_order_query_key_value(folder: Path) -> None:
    stored, found = load_file(folder / "model.safetensors"), read(folder).tensors
    prefix = "text_model.encoder.layers.1.self_attn"
    for part in ("weight", "bias"):
        expected = torch.cat([stored[f"{prefix}.{x}_proj.{part}"] for x in "qkv"])
        assert torch.equal(found[f"text.layers.1.attn.qkv_proj.{part}"].load(), expected)


def test_pickled_file_gives_the_same(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    positions = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    torch.save(state | positions, folder / "pytorch_model.bin")
    safe, pickled = read(folder), read(folder / "pytorch_model.bin")
    assert safe.config == pickled.config
    for name, tensor in safe.tensors.items():
        assert torch.equal(pickled.tensors[name].load(), tensor.load())


def test_safetensors_are_preferred(folder: Path) -> None:
    (folder / "pytorch_model.bin").touch()
    names = ("config.json", "model.safetensors", "preprocessor_config.json")
    assert HuggingFaceCLIP().detect(open_source(folder)) == names
    (folder / "model.safetensors").rename(folder / "open_clip_model.safetensors")
    assert HuggingFaceCLIP().detect(open_source(folder)) is None


def test_pickled_file_is_the_last_choice(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    names = HuggingFaceCLIP().detect(open_source(folder))
    assert names is not None
    assert names[1] == "pytorch_model.bin"


def test_preprocessor_tells_mean_and_deviation(folder: Path) -> None:
    change(folder, "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3])
    assert read(folder).config["image_mean"] == [0.1, 0.2, 0.3]
    (folder / "preprocessor_config.json").unlink()
    assert CLIPConfig.from_dict(read(folder).config).image_mean == CLIPConfig().image_mean


def test_bare_configuration_is_vit_b_32(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    shapes = CLIP(CLIPConfig()).state_dict()
    torch.save({"logit_scale": torch.tensor(1.0)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="asks for 12 text_layers, but there are only 1 tens"):
        read(tmp_path)
    assert shapes["text.token_embedding.weight"].shape == (49408, 512)


def test_settings_repeated_by_older_files_win(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    change(folder, text_config={"hidden_size": 1}, text_config_dict=text, vision_config_dict=None)
    assert read(folder).config["text_width"] == 32


def test_sources_without_clip_are_another_format(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    assert HuggingFaceCLIP().detect(open_source(tmp_path)) is None
    (tmp_path / "config.json").write_text('{"architecture": "vit_base_patch32_clip_224"}')
    assert HuggingFaceCLIP().detect(open_source(tmp_path)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_config__hidden_act": "gelu"}, "hidden_act 'quick_gelu' for text and 'gelu' for"),
        ({"text_config__layer_norm_eps": 1e-6}, "layer_norm_eps 1e-06 for text and 1e-05 for"),
        ({"vision_config__num_channels": 1}, "num_channels 1, but only 3"),
        ({"text_config__pruned_heads": {"0": [1]}}, "pruned_heads .* but only {}"),
        ({"text_config__model_type": "siglip_text_model"}, "model_type 'siglip_text_model', but"),
        ({"vision_config__use_rope": True}, r"vision_config has settings .*\('use_rope'\)"),
        ({"quantization_config": {}}, r"config.json has settings .*\('quantization_config'\)"),
    ],
)
def test_other_architectures_are_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change(folder, **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        HuggingFaceCLIP().detect(open_source(folder))


def test_other_activations_are_refused(folder: Path) -> None:
    change(folder, vision_config__hidden_act="relu", text_config__hidden_act="relu")
    with pytest.raises(UnsupportedModelError, match="hidden_act 'relu', but only"):
        HuggingFaceCLIP().detect(open_source(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 2}, "resample 2, but only 3"),
        ({"do_center_crop": False}, "do_center_crop False, but only True"),
        ({"do_normalize": False}, "do_normalize False, but only True"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor 0.0078.*, but only 1/255"),
        ({"size": {"shortest_edge": 40}}, r"size {'shortest_edge': 40}, but only .* image_size 32"),
        ({"size": {"height": 32, "width": 32}}, "size .*'height': 32, .*but only"),
        ({"crop_size": 30}, "crop_size 30, but only"),
        ({"image_processor_type": "SiglipImageProcessor"}, "'SiglipImageProcessor', but only CLIP"),
        ({"color_jitter": 0.1}, r"settings that are not known here \('color_jitter'\)"),
    ],
)
def test_other_preprocessing_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change(folder, "preprocessor_config.json", **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        read(folder)


def test_older_and_newer_words_for_the_same_preprocessing_are_read(folder: Path) -> None:
    words: dict[str, Any] = {"size": 32, "crop_size": 32}
    words |= {"feature_extractor_type": "CLIPFeatureExtractor", "do_pad": None}
    words |= {"data_format": "channels_first", "default_to_square": False}
    change(folder, "preprocessor_config.json", **words)
    assert read(folder).config["image_size"] == 32


def test_settings_of_every_transformers_model_change_nothing(folder: Path) -> None:
    everywhere: dict[str, Any] = {"torchscript": False, "id2label": {"0": "LABEL_0"}}
    everywhere |= {"top_k": 50, "dropout": 0.0}
    change(folder, text_config__pruned_heads={}, text_config__pad_token_id=None)
    for place in ("", "text_config__", "vision_config__"):
        change(folder, **{f"{place}{key}": value for key, value in everywhere.items()})
    assert read(folder).config["text_width"] == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projection_dim": "24"}, "projection_dim must be a whole number, not '24'"),
        ({"text_config": [1]}, r"text_config must be an object with settings, not \[1\]"),
        ({"vision_config": "big"}, "vision_config must be an object with settings, not 'big'"),
        ({"vision_config__num_hidden_layers": 10**9}, "num_hidden_layers must be at most 256"),
        ({"text_config__hidden_size": 10**30}, "hidden_size must be at most 16777216"),
    ],
)
def test_size_that_no_model_has_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change(folder, **changes)
    with pytest.raises(ConfigError, match=message):
        HuggingFaceCLIP().detect(open_source(folder))


@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_not_floating_point_are_refused(folder: Path, kind: torch.dtype) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    name = "text_model.final_layer_norm.bias"
    torch.save(state | {name: state[name].to(kind)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=rf"'{name}' holds {kind}, but weights are float16"):
        read(folder)


def test_disagreement_names_tensor_and_shapes(folder: Path) -> None:
    change(folder, vision_config__patch_size=4)
    with pytest.raises(CheckpointError, match=r"\(48, 3, 8, 8\), but .* asks for \(48, 3, 4, 4\)"):
        read(folder)
