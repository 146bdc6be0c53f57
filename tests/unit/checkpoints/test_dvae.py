"""OpenAI's dVAE and DALLE-pytorch's DiscreteVAE: their files, and those that only look like it."""

from __future__ import annotations

import os
import shutil
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dallemini import ImageTokenizer
from dallemini.errors import CheckpointError, UnsupportedModelError
from dallemini.models import DVAE, DiscreteVAE
from image_tokenizers import pictures, tiny_image_tokenizer

SIDES = ("encoder", "decoder")


def load(source: Path, tmp_path: Path) -> ImageTokenizer:
    return ImageTokenizer.from_pretrained(source, cache_dir=tmp_path / "cache")


def file_names(side: str, model: DVAE) -> dict[str, Tensor]:
    """Return the tensors of a side by the names in OpenAI's files."""
    found = {}
    for name, tensor in getattr(model, side).state_dict().items():
        name = name.replace("output.", "output.conv.")
        stem, _, kind = name.rpartition(".")
        found[f"blocks.{stem}.{kind[0]}"] = tensor
    return found


@pytest.fixture
def dall_e() -> Iterator[types.ModuleType]:
    """A package with classes of the names that OpenAI's have, while the test runs."""
    modules = {name: types.ModuleType(name) for name in ("dall_e", "dall_e.encoder")}
    modules |= {name: types.ModuleType(name) for name in ("dall_e.decoder", "dall_e.utils")}
    for module, name in (("encoder", "Encoder"), ("decoder", "Decoder"), ("utils", "Conv2d")):
        made = type(name, (nn.Module,), {"__module__": f"dall_e.{module}"})
        setattr(modules[f"dall_e.{module}"], name, made)
    sys.modules.update(modules)
    yield modules["dall_e"]
    for name in modules:
        del sys.modules[name]


def as_module(side: str, model: DVAE) -> nn.Module:
    """Rebuild a side of nested modules, as it lies in OpenAI's pickles."""
    module = sys.modules[f"dall_e.{side}"]
    whole: nn.Module = getattr(module, side.title())()
    for name, tensor in file_names(side, model).items():
        *path, last = name.split(".")
        place = whole
        for number, part in enumerate(path):
            if not hasattr(place, part):
                conv = sys.modules["dall_e.utils"].Conv2d()
                place.add_module(part, conv if number == len(path) - 1 else nn.Sequential())
            place = getattr(place, part)
        place.register_parameter(last, nn.Parameter(tensor.clone(), requires_grad=False))
    return whole


@pytest.mark.slow_except("stream", "safetensors", "state dict")
@pytest.mark.usefixtures("dall_e")
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("form", ["zip", "stream", "state dict", "safetensors"])
def test_every_form_of_openais_files_is_read(tmp_path: Path, form: str) -> None:
    model = tiny_image_tokenizer("DVAE")
    assert isinstance(model, DVAE)
    for side in SIDES:
        if form == "state dict":
            torch.save(OrderedDict(file_names(side, model)), tmp_path / f"{side}_state_dict.pt")
        elif form == "safetensors":
            save_file(file_names(side, model), tmp_path / f"{side}.safetensors")
        else:
            path, is_zip = tmp_path / f"{side}.pkl", form == "zip"
            torch.save(as_module(side, model), path, _use_new_zipfile_serialization=is_zip)
    named = form == "safetensors"
    found = load(tmp_path / "decoder.safetensors" if named else tmp_path, tmp_path)
    assert isinstance(found, DVAE)
    images = pictures(1, 16, 24)
    assert torch.equal(found.encode(images), model.encode(images))
    codes = model.encode(images).view(1, 2, 3)
    assert torch.equal(found.decode(codes), model.decode(codes))


class Harmless(nn.Module):
    """A module of a class that OpenAI's files do not name."""


class Evil:
    """Runs a command where a pickle is loaded by pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch it-ran",)


@pytest.mark.usefixtures("dall_e")
@pytest.mark.parametrize("stranger", [Harmless(), Evil()])
def test_a_class_that_is_not_on_the_list_is_refused_and_nothing_runs(
    tmp_path: Path, stranger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_image_tokenizer("DVAE")
    assert isinstance(model, DVAE)
    for side in SIDES:
        module = as_module(side, model)
        module.extra = stranger
        torch.save(module, tmp_path / f"{side}.pkl")
    with pytest.raises(CheckpointError, match=r"its pickle asks for .*never executed"):
        load(tmp_path, tmp_path)
    assert not (tmp_path / "it-ran").exists()


def test_half_of_a_dvae_is_refused(tmp_path: Path, fixtures: Path) -> None:
    shutil.copy(fixtures / "image-tokenizers/encoder.pkl", tmp_path)
    with pytest.raises(CheckpointError, match=r"has encoder\.pkl but no decoder\.pkl"):
        load(tmp_path, tmp_path)


@pytest.mark.usefixtures("dall_e")
def test_sides_of_two_models_are_refused(tmp_path: Path, fixtures: Path) -> None:
    shutil.copy(fixtures / "image-tokenizers/encoder.pkl", tmp_path)
    model = tiny_image_tokenizer("DVAE")
    assert isinstance(model, DVAE)
    torch.save(as_module("decoder", model), tmp_path / "decoder.pkl")
    with pytest.raises(CheckpointError, match="its configuration asks for"):
        load(tmp_path, tmp_path)


# DALLE-pytorch


def save_vae(path: Path, model: ImageTokenizer, **hparams: Any) -> Path:
    known = {**model.config.to_dict(), **hparams}
    torch.save({"hparams": known, "weights": model.state_dict()}, path)
    return path


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_checkpoint_of_dalle_pytorch(tmp_path: Path, blocks: int) -> None:
    model = tiny_image_tokenizer("DiscreteVAE")
    if not blocks:
        config = type(model.config).from_dict({**model.config.to_dict(), "num_resnet_blocks": 0})
        model = DiscreteVAE.from_config(config).eval()
    save_vae(tmp_path / "vae.pt", model, channels=3)
    for source in (tmp_path, tmp_path / "vae.pt"):
        found = load(source, tmp_path)
        assert found.config == model.config
        images = pictures(1, 16, 24)
        assert torch.equal(found.encode(images), model.encode(images))


def test_pictures_with_an_alpha_channel_are_refused_by_name(tmp_path: Path) -> None:
    model = tiny_image_tokenizer("DiscreteVAE")
    state = model.state_dict()
    state["encoder.0.0.weight"] = torch.zeros(8, 4, 4, 4)
    state["decoder.4.weight"], state["decoder.4.bias"] = torch.zeros(4, 8, 1, 1), torch.zeros(4)
    torch.save({"hparams": {"channels": 4}, "weights": state}, tmp_path / "vae.pt")
    for source in (tmp_path, tmp_path / "vae.pt"):
        with pytest.raises(UnsupportedModelError, match=r"4 channels \(RGBA .* only RGB"):
            load(source, tmp_path)


def test_settings_that_nobody_reads_are_refused(tmp_path: Path) -> None:
    path = save_vae(tmp_path / "vae.pt", tiny_image_tokenizer("DiscreteVAE"), vq_mode="new")
    with pytest.raises(UnsupportedModelError, match=r"its hparams has settings .*vq_mode"):
        load(path, tmp_path)
