"""Adapters in files: peft's format as peft writes it, ours before that, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dallemini import Transformer
from dallemini.errors import CheckpointError, ConfigError, InputError
from dallemini.models.adapted import add_adapter
from dallemini.models.adapter_files import read_adapter
from dallemini.models.lora import LoRAConfig, add_lora, load_lora, lora_state_dict, save_lora
from dallemini.testing import TINY_TRANSFORMER, tiny_tokenizer, tiny_transformer, tiny_vqgan
from fuzzing import ruled

FIXTURES = Path(__file__).parents[2] / "fixtures" / "adapters"
TOKENS = tiny_tokenizer()(["a red apple", "a blue bird"]).trim()
IMAGE_TOKENS = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))


def logits(model: Transformer) -> Tensor:
    with torch.no_grad():
        return model(TOKENS, IMAGE_TOKENS)  # type: ignore[no-any-return]


def trained(config: LoRAConfig, **sizes: Any) -> Transformer:
    model = tiny_transformer(dataclasses.replace(TINY_TRANSFORMER, **sizes))
    add_lora(model, config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def test_what_peft_wrote_computes_what_peft_computed() -> None:
    """Ranks and alphas of single layers, rsLoRA and an excluded layer are in it."""
    expected = torch.from_numpy(np.load(FIXTURES / "peft" / "logits.npz")["logits"])
    model, beside = tiny_transformer(), tiny_transformer()
    layers = load_lora(model, FIXTURES / "peft")
    assert "encoder.layers.1.self_attn.qkv_proj" not in layers
    assert len(layers) == 5
    torch.testing.assert_close(logits(model)[:, ::3, ::7], expected, atol=5e-5, rtol=1e-4)
    load_lora(beside, FIXTURES / "peft", merge=False)
    torch.testing.assert_close(logits(beside)[:, ::3, ::7], expected, atol=5e-5, rtol=1e-4)


def test_what_was_loaded_beside_is_saved_with_its_own_ranks(tmp_path: Path) -> None:
    beside, again = tiny_transformer(), tiny_transformer()
    load_lora(beside, FIXTURES / "peft", merge=False)
    save_lora(beside, tmp_path)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    assert values["rank_pattern"] == {"decoder.layers.0.cross_attn.out_proj": 3}
    assert len(values["alpha_pattern"]) == 2
    load_lora(again, tmp_path, merge=False)
    assert torch.equal(logits(again), logits(beside))


def test_adapters_of_the_former_format_are_read() -> None:
    model = tiny_transformer()
    load_lora(model, FIXTURES / "former", merge=False)
    tensors = load_file(FIXTURES / "former" / "adapter.safetensors")
    found = lora_state_dict(model)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    layer: Any = model.get_submodule("decoder.layers.0.cross_attn.out_proj")
    assert layer.config.scale == 3.0


def test_the_files_are_those_of_peft(tmp_path: Path) -> None:
    save_lora(trained(LoRAConfig(rank=3, alpha=6.0)), tmp_path, base_model="dallemini/emoji")
    files = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert {path.name for path in tmp_path.iterdir()} == files
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    assert values["target_modules"] == ["in_proj", "kv_proj", "out_proj", "q_proj", "qkv_proj"]
    assert (values["peft_type"], values["r"], values["lora_alpha"]) == ("LORA", 3, 6.0)
    assert values["base_model_name_or_path"] == "dallemini/emoji"
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 44
    assert "base_model.model.decoder.layers.1.cross_attn.q_proj.lora_B.weight" in tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_an_older_save_in_the_folder_is_replaced_with_its_card(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "former", tmp_path, dirs_exist_ok=True)
    (tmp_path / "README.md").write_text("mine")
    save_lora(trained(LoRAConfig(rank=2)), tmp_path)
    assert not (tmp_path / "adapter.safetensors").exists()
    assert "LoRA adapter" in (tmp_path / "README.md").read_text()
    save_lora(trained(LoRAConfig(rank=2)), tmp_path, card="mine")
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("targets", [("lm_head",), ("cross_attn.out_proj", "layers.0.glu.in_proj")])
def test_target_modules_mean_the_layers_and_no_others(
    targets: tuple[str, ...], tmp_path: Path
) -> None:
    save_lora(trained(LoRAConfig(rank=2, targets=targets)), tmp_path)
    found = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    names = [
        add_lora(tiny_transformer(), LoRAConfig(rank=2, targets=tuple(one)))
        for one in (targets, found)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    "sizes",
    [
        {"use_glu": False, "use_bias": True},
        {
            "use_cosine_attention": True,
            "use_head_scale": True,
            "use_swin_position_embeddings": True,
        },
    ],
)
def test_every_projection_of_every_architecture_is_adapted(sizes: Any, tmp_path: Path) -> None:
    model = trained(LoRAConfig(rank=2), **sizes)
    plain = tiny_transformer(dataclasses.replace(TINY_TRANSFORMER, **sizes))
    linears = [n for n, part in plain.named_modules() if isinstance(part, nn.Linear)]
    assert {name.rpartition(".")[0] for name in lora_state_dict(model)} == {*linears} - {"lm_head"}
    save_lora(model, tmp_path)
    load_lora(plain, tmp_path)
    torch.testing.assert_close(logits(plain), logits(model), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(logits(plain), logits(type(plain).from_config(plain.config)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "is an adapter of the type 'IA3'; only LORA"),
        (
            {"use_dora": True},
            "asks for use_dora=True, which cannot be honoured here; merge it with",
        ),
        ({"bias": "lora_only"}, "asks for bias='lora_only'"),
        ({"modules_to_save": ["lm_head"]}, r"asks for modules_to_save=\['lm_head'\]"),
        ({"init_lora_weights": "pissa"}, "asks for init_lora_weights='pissa'"),
        ({"setting_of_tomorrow": 3}, "asks for setting_of_tomorrow=3"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    changes: Any, message: str, tmp_path: Path
) -> None:
    copy_of_peft(tmp_path, changes)
    with pytest.raises(CheckpointError, match=message):
        load_lora(tiny_transformer(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": "8"}, r"adapter_config\.json: .*rank must be int"),
        (
            {"rank_pattern": {"(a|aa)+": 2}},
            r"rank_pattern has the pattern '\(a\|aa\)\+'; only names",
        ),
        ({"alpha_pattern": [1]}, r"alpha_pattern must be a mapping .* not \[1\]"),
    ],
)
def test_settings_that_cannot_be_read_name_the_file(
    changes: Any, message: str, tmp_path: Path
) -> None:
    copy_of_peft(tmp_path, changes)
    with pytest.raises(ConfigError, match=message):
        load_lora(tiny_transformer(), tmp_path)


def test_patterns_and_layers_without_end_are_compared_at_once(tmp_path: Path) -> None:
    count = 300
    tensors = {
        f"base_model.model.{n}.{'a.' * 20}x.lora_{side}.weight": torch.ones(shape)
        for n in range(count)
        for side, shape in (("A", (2, 1)), ("B", (1, 2)))
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    names = {f"y{n}": 2 for n in range(30_000)}
    values = {"peft_type": "LORA", "r": 2, "target_modules": [*names], "rank_pattern": names}
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    model = tiny_transformer()
    with ruled(), pytest.raises(CheckpointError, match=r"it has the layer .* \(300 such\)"):
        load_lora(model, tmp_path)


def test_every_setting_of_peft_is_accounted_for() -> None:
    """The recorded file has all that peft 0.21 knows; none is refused where it asks for nothing."""
    assert len(json.loads((FIXTURES / "peft" / "adapter_config.json").read_text())) >= 35
    assert load_lora(tiny_transformer(), FIXTURES / "peft")


def test_former_settings_name_the_file(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "former", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "adapter_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "rang": 4}))
    with pytest.raises(ConfigError, match=r"adapter_config\.json: .*'rang'\. Did you mean 'rank'"):
        load_lora(tiny_transformer(), tmp_path)
    values.pop("dallemini")
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"lacks the mark 'dallemini'.* adapter of peft has"):
        load_lora(tiny_transformer(), tmp_path)


def test_a_model_without_linear_layers_takes_none() -> None:
    with pytest.raises(ConfigError, match="This VQGAN has no linear layers to adapt"):
        add_lora(tiny_vqgan())


def test_a_model_with_loaded_adapters_is_not_trained_on() -> None:
    from dallemini import hub

    model = tiny_transformer()
    add_adapter(model, read_adapter(hub.open(FIXTURES / "former")), name="ink")
    for use in (add_lora, lambda one: load_lora(one, FIXTURES / "former")):
        with pytest.raises(InputError, match=r"has loaded adapters \(ink\); unload_adapter takes"):
            use(model)


def copy_of_peft(folder: Path, changes: dict[str, Any]) -> None:
    shutil.copytree(FIXTURES / "peft", folder, dirs_exist_ok=True)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
