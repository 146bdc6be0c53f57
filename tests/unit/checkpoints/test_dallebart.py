"""Tests of `dallemini.checkpoints.dallebart`: layouts, defaults, and refused architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dallemini.checkpoints import Claim
from dallemini.checkpoints.dallebart import RELEASED, DalleBart, translate_config
from dallemini.checkpoints.formats import LazyCheckpoint
from dallemini.errors import CheckpointError, ConfigError, MissingFileError, UnsupportedModelError
from dallemini.hub.source import LocalSource, open_source
from dallemini.models.transformer import Transformer, TransformerConfig
from random_checkpoints import Leaf, config, leaf_shapes, nested, write_flax, write_transformer


def read(folder: Path) -> LazyCheckpoint:
    source = open_source(folder)
    names = DalleBart().detect(source)
    assert names is not None
    return Claim(DalleBart(), names).read(source, Transformer.expected_shapes)


def array(name: str) -> torch.Tensor:
    return torch.from_numpy(Leaf(name, leaf_shapes(config("tiny"))[name]).array())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_transformer(tmp_path / "model", config("tiny"))


def test_fields_are_those_of_the_configuration(folder: Path) -> None:
    assert read(folder).config == {
        "text_vocab_size": 300,
        "image_vocab_size": 128,
        "image_length": 256,
        "max_text_length": 64,
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 96,
        "decoder_start_token_id": 128,
        **RELEASED,
    }


def test_kernels_are_turned_and_fused(folder: Path) -> None:
    tensors = read(folder).tensors
    layers = "model/decoder/layers/FlaxBartDecoderLayers"
    query, key, value = (array(f"{layers}/FlaxBartAttention_1/{x}_proj/kernel")[1] for x in "qkv")
    prefix = "decoder.layers.1.cross_attn"
    assert torch.equal(tensors[f"{prefix}.q_proj.weight"].load(), query.T)
    assert torch.equal(tensors[f"{prefix}.kv_proj.weight"].load(), torch.cat([key.T, value.T]))
    gate, up = (array(f"{layers}/GLU_0/Dense_{x}/kernel")[0] for x in (0, 1))
    fused = tensors["decoder.layers.0.glu.in_proj.weight"].load()
    assert torch.equal(fused, torch.cat([gate.T, up.T]))
    assert torch.equal(tensors["lm_head.weight"].load(), array("lm_head/kernel").T)


def test_embeddings_and_norms_are_taken_as_they_are(folder: Path) -> None:
    tensors = read(folder).tensors
    for here, there in (
        ("encoder.embed_tokens.weight", "model/encoder/embed_tokens/embedding"),
        ("decoder.embed_positions.weight", "model/decoder/embed_positions/embedding"),
        ("encoder.layernorm_embedding.weight", "model/encoder/layernorm_embedding/scale"),
        ("decoder.final_norm.bias", "model/decoder/final_ln/bias"),
    ):
        assert torch.equal(tensors[here].load(), array(there))


def test_layers_one_by_one_give_the_same_names(tmp_path: Path) -> None:
    stacked = read(write_transformer(tmp_path / "stacked", config("tiny")))
    single = read(write_transformer(tmp_path / "single", config("tiny", use_scan=False)))
    assert stacked.tensors.keys() == single.tensors.keys()
    assert stacked.config == single.config


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype_of_the_file_is_kept(tmp_path: Path, dtype: str) -> None:
    tensors = read(write_transformer(tmp_path / "model", config("tiny"), dtype=dtype)).tensors
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}


def test_shards_give_the_same(tmp_path: Path, folder: Path) -> None:
    shapes = leaf_shapes(config("tiny"))
    names = {
        name: f"flax_model-0000{1 + (i % 2)}-of-00002.msgpack" for i, name in enumerate(shapes)
    }
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    for shard in set(names.values()):
        leaves = {n: Leaf(n, shapes[n]) for n, where in names.items() if where == shard}
        write_flax(sharded / shard, nested(leaves))
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (sharded / "flax_model.msgpack.index.json").write_text(json.dumps(index))
    (sharded / "config.json").write_text(json.dumps(config("tiny")))
    whole, parts = read(folder), read(sharded)
    assert whole.config == parts.config
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor.load(), parts.tensors[name].load())


def test_missing_shard_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"lm_head/kernel": "flax_model-00001-of-00001.msgpack"}}
    (tmp_path / "flax_model.msgpack.index.json").write_text(json.dumps(index))
    with pytest.raises(MissingFileError, match=r"has no flax_model-00001-of-00001.msgpack"):
        read(tmp_path)


def test_folder_without_configuration_is_inferred(folder: Path) -> None:
    (folder / "config.json").unlink()
    inferred = read(folder).config
    assert RELEASED | inferred == {
        **translate_config(config("tiny"), origin="x"),
        "encoder_attention_heads": 1,  # 64 per head
        "decoder_attention_heads": 1,
    }


def test_source_without_flax_file_is_another_format(tmp_path: Path) -> None:
    assert DalleBart().detect(open_source(tmp_path)) is None


# Configurations


def test_absent_sizes_take_the_defaults_of_the_original() -> None:
    assert translate_config({"image_vocab_size": 99}, origin="x") == {
        "text_vocab_size": 50264,
        "image_vocab_size": 99,
        "image_length": 256,
        "max_text_length": 64,
        "d_model": 1024,
        "encoder_layers": 12,
        "decoder_layers": 12,
        "encoder_attention_heads": 16,
        "decoder_attention_heads": 16,
        "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096,
        "decoder_start_token_id": 99,
        **RELEASED,
    }


def test_values_without_effect_are_passed_over() -> None:
    harmless: dict[str, Any] = {"dropout": 0.1, "init_std": 0.01}
    harmless |= {"normalize_text": True, "activation_dropout": 0.0, "use_scan": False, "top_k": 50}
    assert translate_config(config("tiny") | harmless, origin="x") == translate_config(
        config("tiny"), origin="x"
    )


@pytest.mark.parametrize("key", ["use_rotary_embeddings", "hidden_size", "quantization_config"])
def test_setting_that_nobody_reads_is_refused_by_name(folder: Path, key: str) -> None:
    (folder / "config.json").write_text(json.dumps(config("tiny") | {key: None}))
    with pytest.raises(UnsupportedModelError, match=rf"not known here \('{key}'\), so what"):
        DalleBart().detect(open_source(folder))


def test_scaled_embeddings_are_kept() -> None:
    assert translate_config({"scale_embedding": True}, origin="x")["scale_embedding"] is True


def test_switches_are_read() -> None:
    asked: dict[str, Any] = {
        "ln_positions": "subln",
        "ln_type": "rmsnorm",
        "use_glu": False,
        "activation_function": "swish",
        "tau_init": 1,
        "sinkhorn_iters": 3,
        "use_subln_init": True,
    }
    found = translate_config(config("tiny", **asked), origin="x")
    assert {key: found[key] for key in asked} == asked | {"activation_function": "silu"}
    assert {key: TransformerConfig().to_dict()[key] for key in RELEASED} == RELEASED


def test_deepnet_as_a_position_means_postln_and_scaling() -> None:
    found = translate_config({"ln_positions": "deepnet"}, origin="x")
    assert (found["ln_positions"], found["use_deepnet_scaling"]) == ("postln", True)
    told = {"ln_positions": "deepnet", "use_deepnet_scaling": False}
    assert translate_config(told, origin="x")["use_deepnet_scaling"] is False


def test_final_norms_that_postln_lacks_anyway_may_be_switched_off() -> None:
    told = {"ln_positions": "postln", "use_final_ln_encoder": False, "use_final_ln_decoder": False}
    assert translate_config(told, origin="x") == translate_config(
        {"ln_positions": "postln"}, origin="x"
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ln_positions", "sandwich", "has ln_positions 'sandwich', but only 'normformer', 'preln'"),
        ("ln_type", 3, "has ln_type 3, but only 'layernorm', 'rmsnorm' are known"),
        ("activation_function", "tanh", "has activation_function 'tanh', but only 'gelu'"),
        ("activation_function", None, "has activation_function None, but only 'gelu'"),
        ("head_scale", True, "has head_scale True, but only False is"),
        ("use_alibi", True, "has use_alibi True, but only False is supported: .* own code"),
        ("tie_word_embeddings", True, "has tie_word_embeddings True, but only False is"),
    ],
)
def test_what_the_original_cannot_compute_is_refused_by_name(
    folder: Path, key: str, value: Any, message: str
) -> None:
    (folder / "config.json").write_text(json.dumps(config("tiny") | {key: value}))
    with pytest.raises(UnsupportedModelError, match=message):
        DalleBart().detect(open_source(folder))


def test_stacked_layers_that_differ_are_refused() -> None:
    swin = config("tiny", ln_positions="swinv2")
    with pytest.raises(UnsupportedModelError, match="use_scan True with ln_positions 'swinv2'"):
        translate_config(swin, origin="x")
    assert translate_config(swin | {"use_scan": False}, origin="x")["ln_positions"] == "swinv2"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("use_bias", 1, "x: use_bias must be true or false, not 1"),
        ("sinkhorn_iters", 0, "x: sinkhorn_iters must be at least 1, not 0"),
        ("tau_init", "small", "x: tau_init must be a number, not 'small'"),
    ],
)
def test_switch_of_the_wrong_kind_is_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translate_config({key: value}, origin="x")


@pytest.mark.parametrize("value", ["12", 1.5, -1, None, True])
def test_size_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="x: encoder_layers must be a whole number"):
        translate_config({"encoder_layers": value}, origin="x")


def test_other_model_types_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="x has model_type 't5', but only 'dallebart'"):
        translate_config({"model_type": "t5"}, origin="x")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("flax-community/dalle-mini", None),
        ("nev/dalle-mini-pytorch", None),
        ("my-model", {"model_type": "bart"}),
    ],
)
def test_older_models_are_refused_by_name(
    tmp_path: Path, name: str, values: dict[str, Any] | None
) -> None:
    if values is not None:
        (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(
        UnsupportedModelError, match=rf"{name} is a BART model.*dalle-mini/dalle-meg"
    ):
        DalleBart().detect(LocalSource(name=name, folder=tmp_path))


def test_configuration_of_a_vqgan_is_refused() -> None:
    with pytest.raises(
        CheckpointError, match=r"x holds a VQGAN, not a Transformer\. .*VQGAN\.from"
    ):
        translate_config({"ch_mult": [1, 2]}, origin="x")


# Configuration and weights that disagree


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 32}, r"/embedding'\) with shape \(300, 64\), .* asks for \(300, 32\)"),
        (
            {"encoder_layers": 1},
            r"unknown tensors that its configuration does not ask for .*encoder.layers.1\.",
        ),
        ({"decoder_layers": 3}, r"lacks tensors .*decoder\.layers\.2\."),
        ({"image_length": 257}, r"'model/decoder/embed_positions/embedding'\) .* \(257, 64\)"),
    ],
)
def test_disagreement_names_tensor_and_shapes(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    (folder / "config.json").write_text(json.dumps(config("tiny") | changes))
    with pytest.raises(CheckpointError, match=message):
        read(folder)


def test_tensor_of_another_variant_is_named(tmp_path: Path) -> None:
    shapes = leaf_shapes(config("tiny"))
    leaves: dict[str, Any] = {name: Leaf(name, shape) for name, shape in shapes.items()}
    leaves["model/encoder/final_ln/scale"] = np.ones(64, np.float32)
    (tmp_path / "config.json").write_text(json.dumps(config("tiny")))
    write_flax(tmp_path / "flax_model.msgpack", nested(leaves))
    with pytest.raises(
        CheckpointError, match=r"1 tensors .* 'model/encoder/final_ln/scale' \(64,\)"
    ):
        read(tmp_path)


def test_incomplete_group_is_named(tmp_path: Path) -> None:
    shapes = leaf_shapes(config("tiny"))
    del shapes["model/encoder/layers/FlaxBartEncoderLayers/FlaxBartAttention_0/k_proj/kernel"]
    (tmp_path / "config.json").write_text(json.dumps(config("tiny")))
    leaves = {name: Leaf(name, shape) for name, shape in shapes.items()}
    write_flax(tmp_path / "flax_model.msgpack", nested(leaves))
    with pytest.raises(
        CheckpointError, match=r"lacks .*Attention_0/k_proj/kernel', which belongs with"
    ):
        read(tmp_path)
