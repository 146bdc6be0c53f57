"""Tests of `dallemini.checkpoints.vqgan`: Flax and Lightning files, YAML, refused variants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from dallemini.checkpoints import Claim
from dallemini.checkpoints.formats import Format, LazyCheckpoint
from dallemini.checkpoints.vqgan import Taming, VQGANJax
from dallemini.errors import CheckpointError, ConfigError, UnsupportedModelError
from dallemini.hub.source import open_source
from dallemini.models.vqgan import VQGAN
from foreign_folders import flax_leaves
from random_checkpoints import nested, write_flax

CONFIG: dict[str, Any] = {
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "z_channels": 8,
    "embed_dim": 4,
    "n_embed": 16,
}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = VQGAN.expected_shapes({**CONFIG, "has_encoder": True})
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def save_flax(folder: Path, state: dict[str, Tensor], **changes: Any) -> Path:
    config = CONFIG | {"num_resolutions": 2, "double_z": False, "architectures": ["del"]} | changes
    (folder / "config.json").write_text(json.dumps(config))
    write_flax(folder / "flax_model.msgpack", nested(flax_leaves(state)))
    return folder


def save_taming(folder: Path, state: dict[str, Tensor], **changes: Any) -> Path:
    params = {key: CONFIG[key] for key in ("embed_dim", "n_embed")} | changes.pop("params", {})
    ddconfig = {key: value for key, value in CONFIG.items() if key not in params} | changes
    model = {"target": "taming.models.vqgan.VQModel", "params": params | {"ddconfig": ddconfig}}
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": model}))
    extra = {"loss.discriminator.main.0.weight": torch.ones(2)}
    torch.save({"epoch": 1, "state_dict": state | extra}, folder / "last.ckpt")
    return folder


def read(path: Path, kind: Format) -> LazyCheckpoint:
    source = open_source(path)
    names = kind.detect(source)
    assert names is not None
    return Claim(kind, names).read(source, VQGAN.expected_shapes)


def assert_holds(found: LazyCheckpoint, state: dict[str, Tensor]) -> None:
    assert found.tensors.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found.tensors[name].load(), tensor), name


# vqgan-jax


def test_flax_folder_becomes_the_names_of_taming(tmp_path: Path, state: dict[str, Tensor]) -> None:
    found = read(save_flax(tmp_path, state), VQGANJax())
    assert_holds(found, state)
    assert found.config == CONFIG | {"has_encoder": True, "value_range": [0.0, 1.0]}


def test_old_norms_lose_their_leading_axes(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_flax(tmp_path, state)
    leaves = flax_leaves(state, old_norms=True)
    assert leaves["decoder/norm_out/scale"].shape == (1, 1, 1, 32)
    write_flax(tmp_path / "flax_model.msgpack", nested(leaves))
    assert_holds(read(tmp_path, VQGANJax()), state)


def test_flax_folder_without_configuration_is_inferred(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    save_flax(tmp_path, state)
    (tmp_path / "config.json").unlink()
    found = read(tmp_path, VQGANJax())
    assert found.config["attn_resolutions"] == [128]  # half of the resolution assumed, 256
    assert (found.config["n_embed"], found.config["value_range"]) == (16, [0.0, 1.0])


def test_absent_sizes_take_the_defaults_of_the_original(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    save_flax(tmp_path, state)
    (tmp_path / "config.json").write_text(json.dumps({"ch_mult": [1, 2]}))
    with pytest.raises(CheckpointError, match=r"lacks tensors .*down\.0\.block\.1\."):
        read(tmp_path, VQGANJax())


def test_codebook_of_another_size_names_both_shapes(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    message = r"'quantize/embedding/embedding'\) with shape \(16, 4\), .* asks for \(1024, 4\)"
    with pytest.raises(CheckpointError, match=message):
        read(save_flax(tmp_path, state, n_embed=1024), VQGANJax())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("double_z", True),
        ("resamp_with_conv", False),
        ("give_pre_end", True),
        ("use_gumbel", True),
        ("attn_type", "linear"),
        ("tanh_out", True),
        ("remap", "used.npy"),
    ],
)
def test_other_architectures_are_refused(
    tmp_path: Path, state: dict[str, Tensor], key: str, value: Any
) -> None:
    save_flax(tmp_path, state, **{key: value})
    with pytest.raises(UnsupportedModelError, match=f"has {key} {value!r}, but only"):
        VQGANJax().detect(open_source(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ch": "32"}, "ch must be a whole number, not '32'"),
        ({"ch_mult": 2}, "ch_mult must be a list of whole numbers, not 2"),
        ({"attn_resolutions": [True]}, "attn_resolutions must be a list of whole numbers"),
        ({"num_resolutions": 5}, r"num_resolutions is 5, but ch_mult is \[1, 2\]"),
        ({"ch_mult": [], "num_resolutions": 0}, r"num_resolutions is 0, but ch_mult is \[\]"),
    ],
)
def test_damaged_configuration_is_refused(
    tmp_path: Path, state: dict[str, Tensor], changes: dict[str, Any], message: str
) -> None:
    save_flax(tmp_path, state, **changes)
    with pytest.raises(ConfigError, match=message):
        VQGANJax().detect(open_source(tmp_path))


def test_folder_of_a_transformer_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_flax(tmp_path, state, model_type="dallebart")
    with pytest.raises(CheckpointError, match="holds a Transformer, not a VQGAN"):
        VQGANJax().detect(open_source(tmp_path))


def test_flax_array_that_is_no_norm_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    leaves = flax_leaves(state) | {"decoder/norm_out/scale": np.ones((2, 16), np.float32)}
    save_flax(tmp_path, state)
    write_flax(tmp_path / "flax_model.msgpack", nested(leaves))
    with pytest.raises(CheckpointError, match=r"'decoder/norm_out/scale' has the shape \(2, 16\)"):
        read(tmp_path, VQGANJax())


# taming-transformers


def test_lightning_checkpoint_is_read_without_its_loss(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    found = read(save_taming(tmp_path, state), Taming())
    assert_holds(found, state)
    assert found.config == CONFIG | {"has_encoder": True, "value_range": [-1.0, 1.0]}


def test_block_style_yaml_with_comments_is_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_taming(tmp_path, state)
    (tmp_path / "model.yaml").write_text("""
model:
  base_learning_rate: 4.5e-06  # a comment
  target: taming.models.vqgan.VQModel
  params:
    embed_dim: 4
    n_embed: 16
    ddconfig: {double_z: False, z_channels: 8, resolution: 16, in_channels: 3, out_ch: 3, ch: 32,
      ch_mult: [1, 2], num_res_blocks: 1, attn_resolutions: [8], dropout: 0.0}
    lossconfig:
      target: taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator
      params: {disc_start: 0}
""")
    assert_holds(read(tmp_path, Taming()), state)


def test_checkpoint_without_yaml_is_inferred(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_taming(tmp_path, state)
    (tmp_path / "model.yaml").unlink()
    found = read(tmp_path, Taming())
    assert_holds(found, state)
    assert found.config["value_range"] == [-1.0, 1.0]


def test_yaml_is_found_by_its_name(tmp_path: Path) -> None:
    for name in ("last.ckpt", "imagenet.ckpt", "imagenet.yaml", "project.yml"):
        (tmp_path / name).write_text("model: {params: {ddconfig: {}}}")
    assert Taming().detect(open_source(tmp_path)) == ("last.ckpt",)
    named = Taming().detect(open_source(tmp_path / "imagenet.ckpt"))
    assert named == ("imagenet.ckpt", "imagenet.yaml")
    (tmp_path / "project.yml").unlink()
    assert Taming().detect(open_source(tmp_path)) == ("last.ckpt", "imagenet.yaml")


def test_checkpoint_one_folder_down_is_found(tmp_path: Path) -> None:
    for name in ("checkpoints/last.ckpt", "configs/model.yaml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("model: {params: {ddconfig: {}}}")
    found = Taming().detect(open_source(tmp_path))
    assert found == ("checkpoints/last.ckpt", "configs/model.yaml")


def test_several_checkpoints_need_a_choice(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").touch()
    assert Taming().detect(open_source(tmp_path)) == ("a.ckpt",)
    (tmp_path / "b.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"several checkpoints: 'a.ckpt', 'b.ckpt'. Name one"):
        Taming().detect(open_source(tmp_path))
    assert Taming().detect(open_source(tmp_path / "b.ckpt")) == ("b.ckpt",)


def test_other_files_are_another_format(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").touch()
    assert Taming().detect(open_source(tmp_path)) is None
    assert Taming().detect(open_source(tmp_path / "model.yaml")) is None


def test_other_taming_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").touch()
    model = {"target": "taming.models.vqgan.VQSegmentationModel", "params": {"ddconfig": {}}}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": model}))
    with pytest.raises(
        UnsupportedModelError, match=r"is a taming\.\S+VQSegmentationModel, but only"
    ):
        Taming().detect(open_source(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model: {params: {embed_dim: 4}}", r"has no model\.params\.ddconfig"),
        ("- 1", "must hold names with values, not list"),
        ("", r"has no model\.params\.ddconfig"),
        ("model: [", "is not valid YAML"),
        ("!!python/object/apply:os.system [ls]", "is not valid YAML"),
    ],
)
def test_damaged_yaml_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "last.ckpt").touch()
    (tmp_path / "model.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        Taming().detect(open_source(tmp_path))


def test_remapped_codes_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_taming(tmp_path, state, params={"remap": "used.npy"})
    with pytest.raises(UnsupportedModelError, match=r"has remap 'used.npy'"):
        Taming().detect(open_source(tmp_path))


def test_yaml_of_other_weights_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_taming(tmp_path, state, attn_resolutions=[16])
    with pytest.raises(
        CheckpointError,
        match=r"Use the configuration that belongs to these weights|belongs to other weights",
    ):
        read(tmp_path, Taming())


# As people have them


def test_prefix_that_is_not_a_usual_one_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_taming(tmp_path, state)
    foreign = {f"net.vae.{name}": x for name, x in state.items()} | {"net.vae.x": torch.ones(2)}
    torch.save({"state_dict": foreign}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"without 'state_dict\.net\.vae\.' in front their"):
        read(tmp_path, Taming())


def test_vqgan_of_a_transformer_over_codes_is_read(
    tmp_path: Path, state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    save_taming(tmp_path, state)
    first = yaml.safe_load((tmp_path / "model.yaml").read_text())["model"]
    model = {"target": "taming.Net2NetTransformer", "params": {"first_stage_config": first}}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": model}))
    inside = {f"first_stage_model.{name}": x for name, x in state.items()}
    inside |= {"transformer.head.weight": torch.ones(2), "cond_stage_model.x": torch.ones(2)}
    torch.save({"state_dict": inside}, tmp_path / "last.ckpt")
    with caplog.at_level("INFO", "dallemini.checkpoints"):
        assert_holds(read(tmp_path, Taming()), state)
    assert "(beside the weights): 'state_dict.transformer.head.weight'" in caplog.text


def test_safetensors_beside_the_yaml_are_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_taming(tmp_path, state)
    (tmp_path / "last.ckpt").unlink()
    save_file({f"module.{name}": x for name, x in state.items()}, tmp_path / "model.safetensors")
    assert_holds(read(tmp_path, Taming()), state)


def test_what_only_training_needs_is_named_in_the_log(
    tmp_path: Path, state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    save_taming(tmp_path, state)
    more = ("model_ema.decay", "quantize.cluster_size", "quantize.embedding.embed_avg")
    content: dict[str, Any] = {"state_dict": state | {name: torch.ones(2) for name in more}}
    content["optimizer_states"] = {"state": {"0": torch.ones(2)}}
    torch.save(content, tmp_path / "last.ckpt")
    with caplog.at_level("INFO", "dallemini.checkpoints"):
        assert_holds(read(tmp_path, Taming()), state)
    for name in (*more, "optimizer_states.state.0"):
        assert repr(name) in caplog.text


def test_tensor_without_a_place_is_still_an_error(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_taming(tmp_path, state)
    torch.save({"state_dict": state | {"extra.weight": torch.ones(2)}}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"no place in .*: 'extra.weight' \(2,\)"):
        read(tmp_path, Taming())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ch_mult": [1] * 100_000}, "ch_mult has 100000 numbers, too many for a model"),
        ({"num_res_blocks": 10**9}, "num_res_blocks must be at most 256, not 1000000000"),
        ({"ch": [[["x"] * 99] * 99] * 99}, r"ch must be a whole number, not \[\["),
    ],
)
def test_sizes_without_measure_are_refused_briefly(
    tmp_path: Path, state: dict[str, Tensor], changes: dict[str, Any], message: str
) -> None:
    save_flax(tmp_path, state, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        VQGANJax().detect(open_source(tmp_path))
    assert len(str(caught.value)) < 1000


def test_setting_that_nobody_reads_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_taming(tmp_path, state, use_timestep=True)
    with pytest.raises(UnsupportedModelError, match=r"not known here \('use_timestep'\)"):
        Taming().detect(open_source(tmp_path))
