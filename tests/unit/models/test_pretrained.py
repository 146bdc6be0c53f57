"""Saving and loading parts: identity, dtypes, and files that disagree with their configuration."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dallemini import CLIP, VQGAN, Tokenizer, Transformer
from dallemini.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    InputTypeError,
    MissingFileError,
    StorageError,
    UnsupportedOperationError,
)
from dallemini.models import TransformerConfig
from dallemini.models.lora import add_lora, merge_lora
from dallemini.models.pretrained import PretrainedModule, check_device
from dallemini.testing import (
    TINY_CLIP,
    TINY_TRANSFORMER,
    TINY_VQGAN,
    tiny_tokenizer,
    tiny_transformer,
    tiny_vqgan,
)
from hub_server import TOKEN, HubServer

MODELS: list[Callable[[], PretrainedModule[Any]]] = [
    tiny_transformer,
    tiny_vqgan,
    lambda: CLIP.from_config(TINY_CLIP),
]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_transformer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = {
        name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


class _Ran(TorchDispatchMode):
    """The names of the operators that torch ran."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.names.add(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", MODELS)
def test_outlines_are_built_without_first_values(make: Callable[[], PretrainedModule[Any]]) -> None:
    model = make()
    with _Ran() as ran:
        outline = type(model)(model.config)
    assert all(parameter.is_meta for parameter in outline.parameters())
    assert ran.names <= {"aten.empty", "aten.detach", "aten.alias", "aten.view"}


@pytest.mark.parametrize("make", MODELS)
def test_saving_and_loading_is_identity(
    make: Callable[[], PretrainedModule[Any]], tmp_path: Path
) -> None:
    model = make()
    model.save_pretrained(tmp_path / "new" / "folder")
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    loaded = type(model).from_pretrained(tmp_path / "new" / "folder")
    assert loaded.config == model.config
    assert not loaded.training
    expected = model.state_dict()
    assert list(loaded.state_dict()) == list(expected)
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name])


def test_the_mark_says_what_a_folder_holds(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    assert config["dallemini"]["component"] == "transformer"
    assert config["d_model"] == 16


def test_loading_takes_a_path_or_its_name_or_the_file(saved: Path) -> None:
    weight = tiny_transformer().lm_head.weight
    for source in (saved, str(saved), saved / "model.safetensors"):
        assert torch.equal(Transformer.from_pretrained(source).lm_head.weight, weight)
    loaded = Transformer.from_pretrained(saved.parent, subfolder="model")
    assert torch.equal(loaded.lm_head.weight, weight)


def test_loading_takes_no_random_numbers(saved: Path) -> None:
    state = torch.get_rng_state()
    Transformer.from_pretrained(saved)
    assert torch.equal(torch.get_rng_state(), state)


def test_loaded_weights_can_be_trained_and_the_file_stays(saved: Path) -> None:
    content = (saved / "model.safetensors").read_bytes()
    model = Transformer.from_pretrained(saved)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (saved / "model.safetensors").read_bytes() == content


def test_a_model_can_be_saved_over_the_files_it_was_loaded_from(saved: Path) -> None:
    model = Transformer.from_pretrained(saved)
    model.save_pretrained(saved)
    expected = tiny_transformer().state_dict()
    again = Transformer.from_pretrained(saved)
    for loaded in (model, again):
        assert all(torch.equal(value, expected[n]) for n, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (torch.float16, None),
        (torch.bfloat16, torch.float16),
        (torch.float32, "bfloat16"),
        (torch.float16, "float64"),
    ],
)
def test_weights_have_the_dtype_asked_for_whatever_the_file_holds(
    tmp_path: Path, stored: torch.dtype, wanted: Any
) -> None:
    model = tiny_transformer().to(stored)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        held = load_file(tmp_path / "model.safetensors")["lm_head.weight"]
        assert held.dtype == stored
        loaded = Transformer.from_pretrained(tmp_path, dtype=wanted)
        dtype = getattr(torch, wanted) if isinstance(wanted, str) else wanted
        expected = model.lm_head.weight.to(dtype or torch.float32)
        assert torch.equal(loaded.lm_head.weight, expected)


@pytest.mark.parametrize("make", [lambda: tiny_transformer(), lambda: tiny_tokenizer()])
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the Hub's client
def test_publishing_and_loading_is_identity(make: Callable[[], Any], hub: HubServer) -> None:
    part = make()
    url = part.push_to_hub("someone/part", token=TOKEN, private=True, commit_message="First")
    assert url.startswith(f"{hub.endpoint}/someone/part/commit/")
    loaded = type(part).from_pretrained("someone/part", token=TOKEN)
    assert loaded.config == part.config


def test_weights_of_another_size_name_the_tensor_and_both_shapes(saved: Path) -> None:
    change_config(saved, d_model=8)
    message = (
        r"model\.safetensors holds \S+ with shape \(360, 16\), but its configuration asks for "
        r"\(360, 8\)\. Use the configuration that belongs to these weights"
    )
    with pytest.raises(CheckpointError, match=message):
        Transformer.from_pretrained(saved)


def test_missing_weights_are_named(saved: Path) -> None:
    change_config(saved, decoder_layers=3)
    with pytest.raises(CheckpointError, match=r"lacks tensors .*\.layers\.2\.self_attn_norm"):
        Transformer.from_pretrained(saved)


def test_unknown_weights_are_named(saved: Path) -> None:
    change_weights(saved, lambda tensors: tensors.update(extra=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r"has unknown tensors .*\(1: extra\)"):
        Transformer.from_pretrained(saved)


def test_unknown_setting_suggests_the_nearest(saved: Path) -> None:
    change_config(saved, d_modell=16)
    with pytest.raises(ConfigError, match=r"no field 'd_modell'\. Did you mean 'd_model'"):
        Transformer.from_pretrained(saved)


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_truncated_weights_are_refused(saved: Path, cut: int) -> None:
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[:cut])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Transformer.from_pretrained(saved)


def test_a_part_of_another_kind_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a Transformer, not a VQGAN"):
        VQGAN.from_pretrained(saved)


def test_missing_files_are_named(saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"config\.json but no model\.safetensors"):
        Transformer.from_pretrained(saved)
    with pytest.raises(MissingFileError, match="There is no file or folder"):
        Transformer.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match="nowhere"):
        Transformer.from_pretrained(tmp_path, subfolder="nowhere")


@pytest.mark.parametrize("source", [None, 3, b"model"])
def test_a_source_that_is_no_name_is_refused(source: Any) -> None:
    for part in (Transformer, VQGAN, CLIP, Tokenizer):
        with pytest.raises(InputTypeError, match="A model is named by a string or a path, not "):
            part.from_pretrained(source)


@pytest.mark.parametrize("name", ["subfolder", "revision", "cache_dir"])
@pytest.mark.parametrize("value", [3, ["name"]])
def test_a_place_that_is_no_name_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InputTypeError, match=f"{name} must be a string.*, not "):
        Transformer.from_pretrained("someone/nowhere", **{name: value})


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("flaot16", r"There is no dtype 'flaot16'\. Did you mean 'float16'"),
        (torch.int8, r"dtype must be a floating-point type such as .* not torch\.int8"),
        (16, r"dtype must be a floating-point type such as .* not 16"),
    ],
)
def test_a_dtype_that_is_none_of_weights_is_told_before_loading(dtype: Any, message: str) -> None:
    for part, config in ((Transformer, TINY_TRANSFORMER), (VQGAN, TINY_VQGAN)):
        with pytest.raises((InputError, InputTypeError), match=message):
            part.from_pretrained("someone/nowhere", dtype=dtype)
        with pytest.raises((InputError, InputTypeError), match=message):
            part.from_config(config, dtype=dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", [VQGAN, CLIP])
def test_a_part_without_int8_weights_says_so_before_loading(part: Any) -> None:
    for precision in ({"dtype": "int8"}, {"quantization": "int8"}):
        with pytest.raises(UnsupportedOperationError, match=rf"A {part.__name__} has no int8 wei"):
            part.from_pretrained("someone/nowhere", **precision)


@pytest.mark.parametrize("device", ["cpux", "cuda:99", ""])
def test_a_device_that_is_not_there_is_told_before_loading(device: str) -> None:
    message = rf"The device '{device}' cannot be used here: .*Use device='cpu'"
    with pytest.raises(InputError, match=message):
        Transformer.from_pretrained("someone/nowhere", device=device)
    with pytest.raises(InputError, match=message):
        Transformer.from_config(TINY_TRANSFORMER, device=device)


@pytest.mark.parametrize("device", [None, b"cpu"])
def test_a_device_that_is_none_is_refused(device: Any) -> None:
    with pytest.raises(InputTypeError, match="device must be a name such as 'cpu' or 'cuda', not"):
        check_device(device)


def test_a_device_comes_back_as_torch_names_it() -> None:
    assert check_device("cpu") == check_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("seed", ["0", 1.5, None])
def test_a_seed_that_is_no_number_is_refused(seed: Any) -> None:
    with pytest.raises(InputTypeError, match="seed must be a whole number, not "):
        Transformer.from_config(TINY_TRANSFORMER, seed=seed)


@pytest.mark.parametrize("config", [None, TINY_VQGAN, TransformerConfig])
def test_a_model_is_made_from_its_own_configuration(config: Any) -> None:
    with pytest.raises(InputTypeError, match="Transformer is made from a TransformerConfig, not "):
        Transformer(config)


@pytest.mark.parametrize("part", [tiny_transformer(), tiny_vqgan(), tiny_tokenizer()])
def test_saving_to_a_file_is_refused(part: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(StorageError, match=rf"Could not make {re.escape(str(target))}"):
            part.save_pretrained(target)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("directory", [None, b"folder"])
def test_saving_refuses_what_names_no_folder(directory: Any) -> None:
    with pytest.raises(InputTypeError, match="folder is named by a string or a path, not "):
        tiny_transformer().save_pretrained(directory)


def test_a_model_without_init_weights_cannot_be_made() -> None:
    class Half(PretrainedModule[TransformerConfig]):
        config_class, component = TransformerConfig, "transformer"

    with pytest.raises(TypeError, match=r"abstract .*init_weights"):
        Half(TINY_TRANSFORMER)  # type: ignore[abstract]


# What a save writes, a load accepts


def widen(model: Transformer) -> None:
    model.lm_head = nn.Linear(16, 65, bias=True)  # type: ignore[assignment]


def narrow(model: Transformer) -> None:
    model.encoder.embed_tokens.weight.data = torch.zeros(3, 16)


def cut(model: Transformer) -> None:
    del model.decoder.layers[1]


def to_float8(model: Transformer) -> None:
    model.lm_head.weight.data = model.lm_head.weight.data.to(torch.float8_e4m3fn)


def to_whole_numbers(model: Transformer) -> None:
    model.lm_head.weight.requires_grad_(False).data = torch.zeros(65, 16, dtype=torch.int64)


@pytest.mark.slow_except("narrow", "add_lora", "to_float8")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_lora, r"has unknown tensors .*lora_a.* call merge_lora or save_lora first"),
        (widen, r"has unknown tensors .*lm_head\.bias\).* undo what was changed in it first"),
        (narrow, r"holds encoder\.embed_tokens\.weight with shape \(3, 16\)"),
        (cut, r"lacks tensors .*decoder\.layers\.1\."),
        (to_float8, r"holds lm_head\.weight as torch\.float8_e4m3fn"),
        (to_whole_numbers, r"holds lm_head\.weight as torch\.int64"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(
    change: Callable[[Transformer], object], message: str, saved: Path, tmp_path: Path
) -> None:
    model, before = Transformer.from_pretrained(saved), (saved / "config.json").read_text()
    change(model)
    for folder in (saved, tmp_path / "new"):
        with pytest.raises(UnsupportedOperationError, match=rf"This Transformer {message}"):
            model.save_pretrained(folder)
    with pytest.raises(UnsupportedOperationError, match=rf"This Transformer {message}"):
        model.push_to_hub("someone/model")
    assert not (tmp_path / "new").exists()
    assert (saved / "config.json").read_text() == before
    assert Transformer.from_pretrained(saved)


def test_a_model_without_weights_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperationError, match="has no weights to save; make it with"):
        Transformer(TINY_TRANSFORMER).save_pretrained(tmp_path)


def test_merged_adapters_are_saved(saved: Path) -> None:
    model = Transformer.from_pretrained(saved)
    add_lora(model)
    merge_lora(model)
    model.save_pretrained(saved)
    assert Transformer.from_pretrained(saved)


def test_help_shows_what_can_be_given() -> None:
    six = ["subfolder", "revision", "cache_dir", "local_files_only", "token"]
    for part, more in ((Tokenizer, []), (Transformer, ["device", "dtype"]), (VQGAN, ["device"])):
        parameters = inspect.signature(part.from_pretrained).parameters
        assert [name for name in parameters if name in (*six, *more)] == [*six, *more]
        assert all(value.annotation != inspect.Parameter.empty for value in parameters.values())
