"""Low-rank adapters: frozen weights stay, training works, merging and files lose nothing."""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from dallemini import Transformer
from dallemini.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    InputTypeError,
    MissingFileError,
    StorageError,
)
from dallemini.hub import upload_folder
from dallemini.models.lora import (
    LoRAConfig,
    LoRALinear,
    add_lora,
    load_lora,
    lora_state_dict,
    merge_lora,
    save_lora,
)
from dallemini.testing import (
    TINY_TRANSFORMER,
    tiny_pipeline,
    tiny_tokenizer,
    tiny_transformer,
    tiny_vqgan,
)
from hub_server import TOKEN, HubServer

TOKENS = tiny_tokenizer()(["a red apple", "a blue bird"]).trim()
IMAGE_TOKENS = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
CONFIG = LoRAConfig(rank=3, alpha=6.0)


def logits(model: Transformer) -> Tensor:
    with torch.no_grad():
        return model(TOKENS, IMAGE_TOKENS)  # type: ignore[no-any-return]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def structure(model: nn.Module) -> list[tuple[str, type, bool]]:
    return [(name, type(part), part.training) for name, part in model.named_modules()]


def trained(config: LoRAConfig = CONFIG, *, model: Transformer | None = None) -> Transformer:
    """A model whose adapters change what it does."""
    model = model or tiny_transformer()
    add_lora(model, config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_lora(trained(), tmp_path / "adapter", base_model="dallemini/emoji")
    return tmp_path / "adapter"


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((folder / "adapter_config.json").read_text())
    change(values)
    (folder / "adapter_config.json").write_text(json.dumps(values))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = {n: t.clone() for n, t in load_file(folder / "adapter_model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def test_new_adapters_change_no_output_and_freeze_the_rest() -> None:
    model = tiny_transformer()
    before, expected = weights(model), logits(model)
    names = add_lora(model, CONFIG)
    assert torch.equal(logits(model), expected)
    kinds = {name.rpartition(".")[2] for name in names}
    assert kinds == {"qkv_proj", "q_proj", "kv_proj", "out_proj", "in_proj"}
    assert len(names) == 2 * 4 + 2 * 7
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"{name}.{part}" for name in names for part in ("lora_a", "lora_b")}
    assert model.state_dict().keys() == before.keys() | trainable  # no weight is renamed
    assert not model.training


def test_adapters_come_from_their_seed_alone() -> None:
    state = torch.get_rng_state()
    made = []
    for seed in (0, 0, 1):
        model = tiny_transformer()
        add_lora(model, CONFIG, seed=seed)
        made.append(lora_state_dict(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())
    name = "decoder.layers.0.self_attn.qkv_proj.lora_a"
    assert not torch.equal(made[0][name], made[2][name])


@pytest.mark.slow_except("dtype0")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_lowers_the_loss_and_leaves_the_weights_bit_identical(dtype: torch.dtype) -> None:
    model = tiny_transformer().to(dtype)
    before = weights(model)
    add_lora(model, LoRAConfig(rank=4, dropout=0.05))
    model.train()
    adapters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(adapters, lr=0.02)
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(
            model(TOKENS, IMAGE_TOKENS).float().flatten(0, 1), IMAGE_TOKENS.flatten()
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.dtype == torch.float32 for p in adapters)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_merging_is_exact_and_leaves_the_structure(dtype: torch.dtype) -> None:
    plain = tiny_transformer().to(dtype)
    parts = dict(plain.named_modules())
    model = trained(model=plain)
    tensors = {name: value.clone() for name, value in lora_state_dict(model).items()}
    expected = weights(model)
    for name in [n.removesuffix(".lora_a") for n in tensors if n.endswith("lora_a")]:
        wide = torch.promote_types(dtype, torch.float32)
        product = tensors[f"{name}.lora_b"].to(wide) @ tensors[f"{name}.lora_a"].to(wide)
        expected[f"{name}.weight"] = (expected[f"{name}.weight"].to(wide) + 2.0 * product).to(dtype)
    names = merge_lora(model)
    fresh = tiny_transformer().to(dtype)
    assert structure(model) == structure(fresh)
    assert dict(model.named_modules()) == parts  # the very same modules
    assert list(model.state_dict()) == list(fresh.state_dict())
    assert {p.requires_grad for p in model.parameters()} == {True}
    assert all(torch.equal(value, expected[n]) for n, value in model.state_dict().items())
    assert all(value.dtype == dtype for value in model.state_dict().values())
    assert len(names) == 22


def test_merging_keeps_what_the_model_does() -> None:
    model = trained()
    beside = logits(model)
    assert not torch.allclose(beside, logits(tiny_transformer()), atol=0.1)
    merge_lora(model)
    torch.testing.assert_close(logits(model), beside, atol=2e-5, rtol=1e-5)


def test_merging_under_autocast_is_as_exact() -> None:
    first, second = trained(), trained()
    merge_lora(first)
    with torch.autocast("cpu", torch.bfloat16):
        merge_lora(second)
    assert all(torch.equal(v, second.state_dict()[n]) for n, v in first.state_dict().items())


def test_a_merged_model_is_saved_and_loaded_as_any_other(tmp_path: Path) -> None:
    model = trained()
    merge_lora(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(Transformer.from_pretrained(tmp_path)), logits(model))


def test_a_model_with_adapters_draws() -> None:
    pipe = tiny_pipeline()
    trained(model=pipe.transformer)
    beside = pipe("a red apple", seed=3, top_k=1).image_tokens
    merge_lora(pipe.transformer)
    assert torch.equal(pipe("a red apple", seed=3, top_k=1).image_tokens, beside)


def test_autocast_gives_the_dtype_of_the_plain_layer() -> None:
    layer = LoRALinear(nn.Linear(4, 6), CONFIG, generator=torch.Generator())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(2, 4)).dtype == torch.bfloat16
    half = LoRALinear(nn.Linear(4, 6).bfloat16(), CONFIG, generator=torch.Generator())
    assert half(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert half.lora_a.dtype == torch.float32


def test_a_bias_is_kept() -> None:
    base = nn.Linear(4, 6)
    model, inputs = nn.Sequential(base), torch.ones(2, 4)
    expected = model(inputs)
    add_lora(model, LoRAConfig(rank=2, targets=("0",)))
    assert torch.equal(model(inputs), expected)
    assert not model[0].bias.requires_grad
    merge_lora(model)
    assert model[0] is base


def test_dropout_works_in_training_only() -> None:
    model = trained(dataclasses.replace(CONFIG, dropout=0.5))
    assert torch.equal(logits(model), logits(trained()))
    model.train()
    assert not torch.equal(logits(model), logits(model))


def test_a_copy_of_a_model_with_adapters_is_independent() -> None:
    model = trained()
    twin = copy.deepcopy(model)
    before = logits(model)
    merge_lora(twin)
    assert torch.equal(logits(model), before)
    assert isinstance(model.decoder.layers[0].self_attn.qkv_proj, LoRALinear)  # type: ignore[union-attr]


def test_targets_may_be_the_end_of_a_dotted_name() -> None:
    names = add_lora(tiny_transformer(), LoRAConfig(targets=("cross_attn.out_proj", "lm_head")))
    assert names == [
        "decoder.layers.0.cross_attn.out_proj",
        "decoder.layers.1.cross_attn.out_proj",
        "lm_head",
    ]


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    store = (tmp_path / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.thorough
@pytest.mark.slow_except("dtype0")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("process_group")
def test_a_split_model_trains_and_gives_whole_adapters(dtype: torch.dtype, tmp_path: Path) -> None:
    model = trained(model=tiny_transformer().to(dtype))
    before = {name: value.clone() for name, value in lora_state_dict(model).items()}
    expected = logits(model)
    whole = [weakref.ref(parameter) for parameter in model.parameters()]
    for layer in (*model.encoder.layers, *model.decoder.layers):
        fully_shard(layer)
    fully_shard(model)
    gc.collect()
    assert not any(reference() is not None for reference in whole)  # nothing keeps whole weights
    torch.testing.assert_close(logits(model), expected)
    F.cross_entropy(
        model(TOKENS, IMAGE_TOKENS).float().flatten(0, 1), IMAGE_TOKENS.flatten()
    ).backward()
    adapters = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in adapters)
    gathered = lora_state_dict(model)
    assert all(torch.equal(value, before[name]) for name, value in gathered.items())
    torch.optim.SGD(adapters, lr=1.0).step()
    with pytest.raises(InputError, match="split over processes: call lora_state_dict in every"):
        save_lora(model, tmp_path / "adapter")
    save_lora(model, tmp_path / "adapter", state_dict=lora_state_dict(model))
    one = tiny_transformer().to(dtype)
    load_lora(one, tmp_path / "adapter", merge=False)
    torch.testing.assert_close(logits(one), logits(model))
    merge_lora(one)
    merge_lora(model)
    merged: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True)
    )
    assert list(merged) == list(one.state_dict())
    assert all(torch.equal(merged[name], value) for name, value in one.state_dict().items())


@pytest.mark.slow
def test_the_compiler_takes_a_layer_with_an_adapter_whole() -> None:
    model = trained()
    layer = model.encoder.layers[0]
    hidden_states, mask = torch.randn(2, 5, 16), torch.ones(2, 1, 1, 5, dtype=torch.bool)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(hidden_states, mask), layer(hidden_states, mask))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "LoRAConfig.rank must be from 1 to 16,777,216, not 0"),
        ({"rank": 10**400}, "LoRAConfig.rank must be from 1 to 16,777,216, not a number of about"),
        ({"rank": 1.5}, "LoRAConfig.rank must be int, not 1.5"),
        ({"alpha": 0}, "alpha must be a finite number above 0: 0"),
        ({"alpha": float("nan")}, "alpha must be a finite number above 0: nan"),
        ({"dropout": 1.0}, "dropout must be from 0 up to 1, not 1.0"),
        ({"targets": []}, "targets must name at least one layer"),
        ({"targets": "qkv_proj"}, "targets must be .*tuple"),
        ({"r": 4}, "no field 'r'"),
    ],
)
def test_impossible_settings_are_refused(changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoRAConfig.from_dict(changes)


def test_an_unknown_target_suggests_the_nearest() -> None:
    model = tiny_transformer()
    with pytest.raises(ConfigError, match=r"called 'qkv_pro'\. Did you mean 'qkv_proj'"):
        add_lora(model, LoRAConfig(targets=("out_proj", "qkv_pro")))
    assert structure(model) == structure(tiny_transformer())


def test_adding_twice_or_without_weights_is_refused() -> None:
    model = trained()
    with pytest.raises(InputError, match=r"has adapters already; merge_lora"):
        add_lora(model)
    with pytest.raises(InputError, match="Transformer has no weights; make it with"):
        add_lora(Transformer(TINY_TRANSFORMER))


@pytest.mark.parametrize("use", [merge_lora, lora_state_dict])
def test_a_model_without_adapters_has_none_to_give(use: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(InputError, match="Transformer has no adapters; add_lora makes them"):
        use(tiny_transformer())


def test_saving_without_adapters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no adapters"):
        save_lora(tiny_transformer(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_equals_merging(saved: Path, dtype: torch.dtype) -> None:
    expected, model = trained(model=tiny_transformer().to(dtype)), tiny_transformer().to(dtype)
    names = merge_lora(expected)
    model.encoder.requires_grad_(False)
    assert load_lora(model, saved) == names
    assert structure(model) == structure(tiny_transformer())
    assert all(torch.equal(v, expected.state_dict()[n]) for n, v in model.state_dict().items())
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.requires_grad for p in model.decoder.parameters())


def test_a_loaded_adapter_changes_what_is_drawn(saved: Path) -> None:
    pipe = tiny_pipeline()
    before = pipe("a red apple", seed=0).image_tokens
    load_lora(pipe.transformer, str(saved))
    after = pipe("a red apple", seed=0).image_tokens
    assert not torch.equal(before, after)


def test_scale_is_a_strength_from_nothing_to_more(saved: Path) -> None:
    name = "decoder.layers.0.cross_attn.kv_proj"
    plain = tiny_transformer().get_submodule(name).weight
    moved = {}
    for scale in (0, 0.5, 1.0, 2.0, -1.0):
        model = tiny_transformer()
        load_lora(model, saved, scale=scale)
        moved[scale] = (model.get_submodule(name).weight - plain).detach()  # type: ignore[operator]
    assert torch.count_nonzero(moved[0]) == 0
    for scale, difference in moved.items():
        torch.testing.assert_close(difference, scale * moved[1.0], atol=1e-6, rtol=1e-4)


def test_several_adapters_add_up(saved: Path) -> None:
    model, doubled = tiny_transformer(), tiny_transformer()
    load_lora(model, saved, scale=0.5)
    load_lora(model, saved, scale=0.25)
    load_lora(doubled, saved, scale=0.75)
    torch.testing.assert_close(logits(model), logits(doubled), atol=1e-4, rtol=1e-4)


def test_loading_without_merging_gives_what_was_saved_to_train_on(saved: Path) -> None:
    model = tiny_transformer()
    load_lora(model, saved, merge=False)
    expected = lora_state_dict(trained())
    assert all(torch.equal(v, expected[n]) for n, v in lora_state_dict(model).items())
    assert torch.equal(logits(model), logits(trained()))
    assert all(p.requires_grad == ("lora_" in n) for n, p in model.named_parameters())
    half = tiny_transformer()
    load_lora(half, saved, merge=False, scale=0.5)
    merge_lora(half)
    merged = tiny_transformer()
    load_lora(merged, saved, scale=0.5)
    assert torch.equal(logits(half), logits(merged))


def test_other_tensors_than_the_models_can_be_saved(tmp_path: Path) -> None:
    model = trained()
    average = {name: 0.5 * value for name, value in model.state_dict().items()}
    save_lora(model, tmp_path, state_dict=average)
    other = tiny_transformer()
    load_lora(other, tmp_path, merge=False)
    found = lora_state_dict(other)
    assert found.keys() == lora_state_dict(model).keys()
    assert all(torch.equal(value, average[name]) for name, value in found.items())
    del average["decoder.layers.1.glu.in_proj.lora_b"]
    with pytest.raises(InputError, match=r"lacks 1 tensors .* decoder\.layers\.1\.glu\.in_proj"):
        save_lora(model, tmp_path, state_dict=average)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the Hub's client
def test_publishing_and_loading_is_identity(saved: Path, hub: HubServer) -> None:
    upload_folder(saved, "someone/lora", token=TOKEN)
    expected, model = tiny_transformer(), tiny_transformer()
    load_lora(expected, saved)
    load_lora(model, "someone/lora", token=TOKEN)
    assert torch.equal(logits(model), logits(expected))


def test_the_weight_file_or_a_subfolder_names_the_adapter_too(saved: Path) -> None:
    first, second = tiny_transformer(), tiny_transformer()
    load_lora(first, saved / "adapter_model.safetensors")
    load_lora(second, saved.parent, subfolder="adapter")
    assert torch.equal(logits(first), logits(second))


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        (
            {"d_model": 32},
            r"its \S+ adds to a weight \[32, 16\], but here it is \[64, 32\]",
        ),
        ({"decoder_layers": 1}, r"it has the layer decoder\.layers\.1\.\S+ \(7 such\), which this"),
        (
            {"decoder_layers": 3},
            r"it lacks the layer decoder\.layers\.2\.\S+ \(7 such\), which this",
        ),
    ],
)
def test_an_adapter_of_another_model_is_refused(saved: Path, sizes: Any, problem: str) -> None:
    model = tiny_transformer(dataclasses.replace(TINY_TRANSFORMER, **sizes))
    before = weights(model)
    message = f"belongs to another model: .*{problem}.* trained on: dallemini/emoji"
    for merge in (True, False):
        with pytest.raises(CheckpointError, match=message):
            load_lora(model, saved, merge=merge)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_an_adapter_for_another_kind_of_model_is_refused(saved: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"belongs to another model: it has .* which this VQGAN has not"
    ):
        load_lora(tiny_vqgan(), saved)


def test_a_missing_or_an_extra_tensor_is_named(saved: Path) -> None:
    layer = "base_model.model.decoder.layers.0.glu.in_proj"
    change_weights(saved, lambda tensors: tensors.pop(f"{layer}.lora_A.weight"))
    with pytest.raises(CheckpointError, match=r"only one matrix for 'decoder\.layers\.0\.glu\.in"):
        load_lora(tiny_transformer(), saved)
    change_weights(saved, lambda tensors: tensors.pop(f"{layer}.lora_B.weight"))
    with pytest.raises(CheckpointError, match=r"it lacks the layer decoder\.layers\.0\.glu\.in_p"):
        load_lora(tiny_transformer(), saved)
    change_weights(saved, lambda tensors: tensors.update({"a.lora_magnitude": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"holds 'a\.lora_magnitude', which is no part"):
        load_lora(tiny_transformer(), saved)
    change_weights(saved, lambda tensors: tensors.clear())
    with pytest.raises(CheckpointError, match="has no tensors"):
        load_lora(tiny_transformer(), saved)


def test_a_rank_that_is_not_the_tensors_is_refused(saved: Path) -> None:
    change_config(saved, lambda values: values.update(r=4))
    with pytest.raises(CheckpointError, match=r"\[3, 16\] and \[\d+, 3\], .* together at rank 4"):
        load_lora(tiny_transformer(), saved)


def test_a_truncated_adapter_is_refused(saved: Path) -> None:
    content = (saved / "adapter_model.safetensors").read_bytes()
    (saved / "adapter_model.safetensors").write_bytes(content[:-10])
    with pytest.raises(
        CheckpointError, match=r"adapter_model\.safetensors is truncated or damaged"
    ):
        load_lora(tiny_transformer(), saved)


def test_a_folder_without_an_adapter_says_what_it_holds(saved: Path, tmp_path: Path) -> None:
    tiny_transformer().save_pretrained(tmp_path / "model")
    message = (
        r"is no LoRA adapter: it lacks adapter_config\.json and adapter_model\.safetensors; it h"
    )
    with pytest.raises(MissingFileError, match=message):
        load_lora(tiny_transformer(), tmp_path / "model")
    (saved / "adapter_model.safetensors").unlink()
    with pytest.raises(
        MissingFileError, match=r"it lacks adapter_model\.safetensors; it holds README"
    ):
        load_lora(tiny_transformer(), saved)
    with pytest.raises(MissingFileError, match="There is no file or folder"):
        load_lora(tiny_transformer(), tmp_path / "nowhere")


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), "1", None])
def test_a_scale_that_is_no_number_is_refused(saved: Path, scale: Any) -> None:
    with pytest.raises(InputError, match=r"scale must be a finite number such as 1\.0, not"):
        load_lora(tiny_transformer(), saved, scale=scale)


def test_loading_beside_adapters_is_refused(saved: Path) -> None:
    with pytest.raises(InputError, match="has adapters already"):
        load_lora(trained(), saved)


def test_saving_where_no_folder_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="Could not make"):
        save_lora(trained(), tmp_path / "file")
    with pytest.raises(InputTypeError, match="folder is named by a string or a path"):
        save_lora(trained(), 3)  # type: ignore[arg-type]


def test_int8_weights_take_no_adapters() -> None:
    model = tiny_transformer().quantize("int8")
    with pytest.raises(InputError, match="Int8 weights take no adapters"):
        add_lora(model)
