"""Tests of `dallemini.checkpoints.min_dalle`: which files are meant, and what they become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini.checkpoints import Claim
from dallemini.checkpoints.dallebart import DalleBart
from dallemini.checkpoints.formats import LazyCheckpoint
from dallemini.checkpoints.min_dalle import Detokenizer, MinDalle
from dallemini.errors import CheckpointError, MissingFileError, UnsupportedModelError
from dallemini.hub.source import open_source
from dallemini.models.transformer import Transformer
from dallemini.models.vqgan import VQGAN
from random_checkpoints import config, write_transformer

NAMES = {
    "self_attn_norm.bias": "pre_self_attn_layer_norm.bias",
    "self_attn_post_norm.": "self_attn_layer_norm.",
    "cross_attn_norm.bias": "pre_encoder_attn_layer_norm.bias",
    "cross_attn_post_norm.": "encoder_attn_layer_norm.",
    "cross_attn.": "encoder_attn.",
    "glu.norm_in.bias": "glu.ln0.bias",
    "glu.norm_mid.bias": "glu.ln1.bias",
    "glu.out_proj.": "glu.fc2.",
    "final_norm.": "final_ln.",
}
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "kv_proj": ("k_proj", "v_proj"),
    "glu.in_proj": ("glu.fc0", "glu.fc1"),
}


def original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo the native names: what min-dalle would have stored."""
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for here, there in NAMES.items():
            name = name.replace(here, there)
        for here, parts in FUSED.items():
            if here in name:
                pieces = tensor.chunk(len(parts))
                stored |= {
                    name.replace(here, part): x.clone()
                    for part, x in zip(parts, pieces, strict=True)
                }
                break
        else:
            stored[name] = tensor
    return stored


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> LazyCheckpoint:
    folder = write_transformer(tmp_path_factory.mktemp("flax"), config("tiny"))
    source = open_source(folder)
    return DalleBart().read(source, source.fetch(["config.json", "flax_model.msgpack"]))


def save(folder: Path, native: LazyCheckpoint, **changes: Tensor) -> Path:
    folder.mkdir(exist_ok=True)
    stored = original({name: tensor.load() for name, tensor in native.tensors.items()})
    stored["decoder.lm_head.weight"] = stored.pop("lm_head.weight")
    for side in ("encoder", "decoder"):
        part = {
            k.removeprefix(f"{side}."): v
            for k, v in (stored | changes).items()
            if k.startswith(side + ".")
        }
        torch.save(part, folder / f"{side}.pt")
    return folder


def read(path: Path) -> LazyCheckpoint:
    source = open_source(path)
    names = MinDalle().detect(source)
    assert names is not None
    return Claim(MinDalle(), names).read(source, Transformer.expected_shapes)


def test_two_files_become_one_transformer(tmp_path: Path, native: LazyCheckpoint) -> None:
    found = read(save(tmp_path, native))
    assert found.tensors.keys() == native.tensors.keys()
    for name, tensor in native.tensors.items():
        assert torch.equal(found.tensors[name].load(), tensor.load()), name


def test_sizes_come_from_the_shapes_with_64_per_head(
    tmp_path: Path, native: LazyCheckpoint
) -> None:
    heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1}
    assert read(save(tmp_path, native)).config == native.config | heads


def test_dallebart_configuration_beside_the_files_wins(
    tmp_path: Path, native: LazyCheckpoint
) -> None:
    save(tmp_path, native)
    values = config("tiny", decoder_start_token_id=77)
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read(tmp_path).config == native.config | {"decoder_start_token_id": 77}


def test_partial_configuration_adds_to_the_shapes(tmp_path: Path, native: LazyCheckpoint) -> None:
    save(tmp_path, native)
    partial = {"decoder_attention_heads": 4, "encoder_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(partial))
    assert read(tmp_path).config == native.config


def test_configuration_that_disagrees_is_refused(tmp_path: Path, native: LazyCheckpoint) -> None:
    save(tmp_path, native)
    (tmp_path / "config.json").write_text(json.dumps(config("tiny", encoder_ffn_dim=95)))
    with pytest.raises(CheckpointError, match=r"glu.in_proj.weight .* shape \(192, 64\), but"):
        read(tmp_path)


def test_configuration_of_another_architecture_is_refused(
    tmp_path: Path, native: LazyCheckpoint
) -> None:
    save(tmp_path, native)
    (tmp_path / "config.json").write_text(json.dumps(config("tiny", use_bias=True)))
    with pytest.raises(UnsupportedModelError, match="use_bias True"):
        read(tmp_path)


# Which files are meant


def names(*files: str, folder: Path, selected: str | None = None) -> tuple[str, ...] | None:
    for name in files:
        (folder / name).write_text("{}")
    return MinDalle().detect(open_source(folder / selected if selected else folder))


MEGA = ("encoder.pt", "decoder.pt")
MINI = ("encoder_mini.pt", "decoder_mini.pt")
V26 = ("encoder_v26.pt", "decoder_v26.pt")
CONFIGS = ("config.json", "config_mini.json")


def test_plain_names_win(tmp_path: Path) -> None:
    assert names(*V26, *MINI, *MEGA, *CONFIGS, folder=tmp_path) == (*MEGA, "config.json")


def test_mini_names_are_taken_where_they_are_alone(tmp_path: Path) -> None:
    assert names(*MINI, folder=tmp_path) == MINI
    assert names(*MINI, "config.json", folder=tmp_path) == (*MINI, "config.json")


def test_whole_pair_wins_over_half_of_one(tmp_path: Path) -> None:
    assert names("encoder.pt", *V26, folder=tmp_path) == V26


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        ("encoder_mini.pt", (*MINI, "config_mini.json")),
        ("decoder_mini.pt", (*MINI, "config_mini.json")),
        ("decoder_v26.pt", V26),
        ("encoder.pt", (*MEGA, "config.json")),
        ("config.json", None),
    ],
)
def test_named_file_chooses_its_pair(
    tmp_path: Path, selected: str, expected: tuple[str, ...] | None
) -> None:
    assert names(*V26, *MINI, *MEGA, *CONFIGS, folder=tmp_path, selected=selected) == expected


def test_plain_configuration_is_not_minis(tmp_path: Path) -> None:
    found = names(*MINI, *MEGA, "config.json", folder=tmp_path, selected="encoder_mini.pt")
    assert found == MINI


@pytest.mark.parametrize(("there", "absent"), [MEGA, MEGA[::-1], MINI])
def test_half_of_a_transformer_names_the_other(tmp_path: Path, there: str, absent: str) -> None:
    with pytest.raises(MissingFileError, match=f"has {there} but no {absent}"):
        names(there, folder=tmp_path)


def test_other_folders_are_another_format(tmp_path: Path) -> None:
    assert names("detoker.pt", "vocab.json", folder=tmp_path) is None


# Norm scales that min-dalle's own classes have and the model lacks


def test_neutral_scales_are_left_out(tmp_path: Path, native: LazyCheckpoint) -> None:
    scales = {
        "encoder.final_ln.weight": torch.ones(64),
        "decoder.layers.1.glu.ln1.weight": torch.ones(96),
    }
    assert read(save(tmp_path, native, **scales)).tensors.keys() == native.tensors.keys()


def test_trained_scales_are_refused(tmp_path: Path, native: LazyCheckpoint) -> None:
    scales = {"decoder.layers.1.glu.ln1.weight": torch.full((96,), 1.5)}
    with pytest.raises(
        UnsupportedModelError, match=r"decoder\.pt: 'layers\.1\.glu\.ln1\.weight' should hold"
    ):
        read(save(tmp_path, native, **scales))


# The detokenizer


def detokenizer(folder: Path, **changes: Any) -> dict[str, Tensor]:
    fields = {
        "ch": 32,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [128],
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "z_channels": 8,
        "embed_dim": 4,
        "n_embed": 16,
        "has_encoder": False,
    }
    shapes = VQGAN.expected_shapes(fields)
    state = {name.removeprefix("quantize."): torch.randn(shape) for name, shape in shapes.items()}
    torch.save(state | changes, folder / "detoker.pt")
    return state


def read_detokenizer(folder: Path) -> LazyCheckpoint:
    source = open_source(folder)
    names = Detokenizer().detect(source)
    assert names == ("detoker.pt",)
    return Detokenizer().read(source, source.fetch(names))


def test_detokenizer_becomes_a_vqgan_without_encoder(tmp_path: Path) -> None:
    state = detokenizer(tmp_path)
    found = read_detokenizer(tmp_path)
    assert found.config["has_encoder"] is False
    assert found.config["value_range"] == [0.0, 1.0]
    assert (found.config["n_embed"], found.config["ch_mult"]) == (16, [1, 2])
    codebook = found.tensors["quantize.embedding.weight"].load()
    assert torch.equal(codebook, state["embedding.weight"])


def test_detokenizer_with_another_tensor_is_refused(tmp_path: Path) -> None:
    detokenizer(tmp_path, other=torch.ones(1))
    with pytest.raises(CheckpointError, match=r"no place in this architecture: 'other' \(1,\)"):
        read_detokenizer(tmp_path)


def test_detokenizer_is_told_by_its_name(tmp_path: Path) -> None:
    assert Detokenizer().detect(open_source(tmp_path)) is None
    detokenizer(tmp_path)
    (tmp_path / "encoder.pt").touch()
    assert Detokenizer().detect(open_source(tmp_path / "detoker.pt")) == ("detoker.pt",)
    assert Detokenizer().detect(open_source(tmp_path / "encoder.pt")) is None
