"""Tests of `dallemini.checkpoints.clip_openai`: OpenAI's files and open_clip's folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dallemini.checkpoints import Claim
from dallemini.checkpoints.clip_openai import OpenAICLIP, OpenCLIP
from dallemini.checkpoints.formats import Format, LazyCheckpoint
from dallemini.errors import CheckpointError, ConfigError, DalleMiniWarning, UnsupportedModelError
from dallemini.hub.source import open_source
from dallemini.models.clip import CLIP
from dallemini.scorer import preprocess


@pytest.fixture
def folder(tmp_path: Path, fixtures: Path) -> Path:
    original = fixtures / "clip-open_clip-tiny-quickgelu/model"
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture
def openai(fixtures: Path) -> Path:
    return fixtures / "clip-openai-tiny/state_dict_openai_fp16.pt"


def read(path: Path, kind: Format) -> LazyCheckpoint:
    source = open_source(path)
    names = kind.detect(source)
    assert names is not None
    return Claim(kind, names).read(source, CLIP.expected_shapes)


def change(folder: Path, part: str = "", **changes: Any) -> None:
    path = folder / "open_clip_config.json"
    values = json.loads(path.read_text())
    place = values["preprocess_cfg"] if part == "preprocess" else values["model_cfg"]
    place.get(part, place).update(changes)
    path.write_text(json.dumps(values))


# OpenAI


def test_sizes_come_from_the_shapes(openai: Path) -> None:
    assert read(openai, OpenAICLIP()).config == {
        "embed_dim": 32,
        "image_size": 32,
        "patch_size": 8,
        "context_length": 16,
        "vocab_size": 600,
        "activation": "quick_gelu",
        "pooling": "argmax",
        "crop_rounding": "even",
        "eos_token_id": 599,
        "pad_token_id": 0,
        "text_width": 64,
        "text_layers": 2,
        "text_heads": 1,
        "text_mlp_dim": 256,
        "vision_width": 128,
        "vision_layers": 2,
        "vision_heads": 2,
        "vision_mlp_dim": 512,
    }


def test_projections_are_turned_and_dtypes_kept(openai: Path) -> None:
    stored = torch.load(openai, weights_only=True)
    found = read(openai, OpenAICLIP()).tensors
    for here, there in (
        ("text.projection.weight", "text_projection"),
        ("vision.projection.weight", "visual.proj"),
    ):
        assert torch.equal(found[here].load(), stored[there].T)
        assert found[here].dtype == torch.float16
    assert found["text.token_embedding.weight"].dtype == torch.float32


def test_only_file_of_a_folder_is_taken(tmp_path: Path) -> None:
    assert OpenAICLIP().detect(open_source(tmp_path)) is None
    (tmp_path / "ViT-B-32.pt").touch()
    assert OpenAICLIP().detect(open_source(tmp_path)) == ("ViT-B-32.pt",)
    (tmp_path / "ViT-L-14.pt").touch()
    with pytest.raises(CheckpointError, match=r"several .pt files: ViT-B-32.pt, ViT-L-14.pt. Name"):
        OpenAICLIP().detect(open_source(tmp_path))
    assert OpenAICLIP().detect(open_source(tmp_path / "ViT-L-14.pt")) == ("ViT-L-14.pt",)


def test_resnet_is_refused(tmp_path: Path) -> None:
    torch.save({"visual.layer1.0.conv1.weight": torch.ones(1)}, tmp_path / "RN50.pt")
    with pytest.raises(UnsupportedModelError, match="has a ResNet for pictures"):
        read(tmp_path, OpenAICLIP())


def test_other_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"no place in this architecture: 'weight' \(1,\)"):
        read(tmp_path, OpenAICLIP())


# open_clip


def test_open_clip_fields_are_those_of_its_configuration(folder: Path) -> None:
    config = read(folder, OpenCLIP()).config
    assert (config["vision_heads"], config["text_heads"]) == (4, 3)
    assert (config["vision_mlp_dim"], config["activation"]) == (512, "quick_gelu")
    assert config["image_mean"] == [0.48145466, 0.4578275, 0.40821073]


def test_gelu_is_the_default(folder: Path) -> None:
    values = json.loads((folder / "open_clip_config.json").read_text())
    del values["model_cfg"]["quick_gelu"]
    (folder / "open_clip_config.json").write_text(json.dumps(values))
    assert read(folder, OpenCLIP()).config["activation"] == "gelu"


def test_safetensors_are_preferred(folder: Path) -> None:
    (folder / "open_clip_pytorch_model.bin").touch()
    names = ("open_clip_config.json", "open_clip_model.safetensors")
    assert OpenCLIP().detect(open_source(folder)) == names
    (folder / names[1]).unlink()
    found = OpenCLIP().detect(open_source(folder))
    assert found == ("open_clip_config.json", "open_clip_pytorch_model.bin")


def test_training_checkpoint_beside_the_configuration_is_read(folder: Path) -> None:
    state = load_file(folder / "open_clip_model.safetensors")
    wrapped = {"epoch": 1, "state_dict": {f"module.{name}": x for name, x in state.items()}}
    torch.save(wrapped, folder / "epoch_1.pt")
    safe, trained = read(folder, OpenCLIP()), read(folder / "epoch_1.pt", OpenCLIP())
    assert safe.config == trained.config
    for name, tensor in safe.tensors.items():
        assert torch.equal(trained.tensors[name].load(), tensor.load())


def test_training_checkpoint_is_found_beside_the_configuration(folder: Path) -> None:
    state = load_file(folder / "open_clip_model.safetensors")
    (folder / "open_clip_model.safetensors").unlink()
    for epoch in (1, 2):
        torch.save({"epoch": 1, "state_dict": state}, folder / f"epoch_{epoch}.pt")
    with pytest.raises(CheckpointError, match=r"several files of weights: 'epoch_1.pt', 'epoch_2"):
        OpenCLIP().detect(open_source(folder))
    (folder / "epoch_1.pt").unlink()
    assert OpenCLIP().detect(open_source(folder)) == ("open_clip_config.json", "epoch_2.pt")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_training_checkpoint_alone_is_read_with_a_warning(
    folder: Path, tmp_path: Path, prefix: str
) -> None:
    state = load_file(folder / "open_clip_model.safetensors")
    wrapped = {"epoch": 1, "state_dict": {f"{prefix}{name}": x for name, x in state.items()}}
    torch.save(wrapped, tmp_path / "epoch_1.pt")
    with pytest.warns(DalleMiniWarning, match="OpenAI's files do not: .* open_clip_config.json"):
        assert read(tmp_path / "epoch_1.pt", OpenAICLIP()).config["activation"] == "quick_gelu"


def test_sources_without_its_files_are_another_format(tmp_path: Path) -> None:
    assert OpenCLIP().detect(open_source(tmp_path)) is None
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert OpenCLIP().detect(open_source(tmp_path)) is None


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("", {"custom_text": True}, "custom_text True, but only False"),
        ("", {"init_logit_bias": -10}, "init_logit_bias -10, but only None"),
        ("vision_cfg", {"timm_model_name": "vit"}, "timm_model_name 'vit'"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, r"vision layers \[3, 4, 6, 3\], a ResNet"),
        ("vision_cfg", {"attentional_pool": True}, "attentional_pool True"),
        ("text_cfg", {"hf_model_name": "roberta"}, "hf_model_name 'roberta'"),
        ("text_cfg", {"pool_type": "last"}, "pool_type 'last', but only 'argmax'"),
        ("text_cfg", {"no_causal_mask": True}, "no_causal_mask True"),
        ("preprocess", {"interpolation": "bilinear"}, "interpolation 'bilinear'"),
        ("preprocess", {"resize_mode": "squash"}, "resize_mode 'squash', but only 'shortest'"),
        ("preprocess", {"size": [32, 48]}, r"size \[32, 48\], but only squares"),
        ("preprocess", {"size": 48}, "size 48 in preprocess_cfg, but only"),
        ("preprocess", {"antialias": False}, r"settings .* not known here \('antialias'\)"),
        (
            "text_cfg",
            {"tokenizer_kwargs": {"clean": "lower"}},
            "tokenizer_kwargs .*but only",
        ),
        (
            "vision_cfg",
            {"use_fused_attn": True},
            r"settings .* not known here \('use_fused_attn'\)",
        ),
    ],
)
def test_other_architectures_are_refused(
    folder: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    change(folder, part, **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        OpenCLIP().detect(open_source(folder))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("", {"text_cfg": None}, "needs text_cfg and vision_cfg"),
        ("text_cfg", {"mlp_ratio": float("nan")}, "mlp_ratio must be a number, not nan"),
        ("vision_cfg", {"layers": 10**9}, "layers must be at most 256, not 1000000000"),
        ("vision_cfg", {"width": "wide"}, "width must be a whole number, not 'wide'"),
    ],
)
def test_damaged_configuration_is_refused(
    folder: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    change(folder, part, **changes)
    with pytest.raises(ConfigError, match=message):
        OpenCLIP().detect(open_source(folder))


def test_disagreement_names_tensor_and_shapes(folder: Path) -> None:
    change(folder, "text_cfg", vocab_size=601)
    with pytest.raises(CheckpointError, match=r"'token_embedding.weight'\) .* \(601, 48\)"):
        read(folder, OpenCLIP())


def test_pictures_need_not_be_square(folder: Path) -> None:
    """2 x 8 patches have as many positions as the 4 x 4 of the recorded model."""
    change(folder, "vision_cfg", image_size=[16, 64])
    change(folder, "preprocess", size=[16, 64])
    config = read(folder, OpenCLIP()).config
    assert config["image_size"] == (16, 64)
    clip = CLIP.from_pretrained(folder, cache_dir=folder / "cache")
    assert clip.config.num_patches == 16
    pixels = preprocess(torch.rand(2, 3, 30, 70), clip.config)
    assert pixels.shape == (2, 3, 16, 64)
    assert clip.encode_image(pixels).shape == (2, clip.config.embed_dim)
    change(folder, "preprocess", size=[64, 16])
    with pytest.raises(UnsupportedModelError, match=r"size \[64, 16\] in preprocess_cfg, but only"):
        read(folder, OpenCLIP())
