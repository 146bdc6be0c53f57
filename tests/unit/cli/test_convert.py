"""`dallemini convert`: what is written, that it computes the same, and what is left on failure."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dallemini import CLIP, VQGAN, CLIPScorer, ImageTokenizer, Pipeline, Tokenizer, Transformer
from dallemini.hub.card import split_card
from dallemini.models import DVAE
from dallemini.testing import TINY_VQGAN, tiny_vqgan
from hub_server import HubServer


@pytest.fixture
def flax(fixtures: Path) -> Path:
    return fixtures / "e2e-tiny" / "model"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "new" / "output"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    others = second.state_dict()
    return all(torch.equal(tensor, others[name]) for name, tensor in first.state_dict().items())


def test_transformer_and_tokenizer_get_a_folder_each(run: Any, flax: Path, output: Path) -> None:
    result = run("convert", flax, output)
    assert (result.code, result.err) == (0, "")
    assert result.lines == [str(output / "tokenizer"), str(output / "transformer")]
    assert sorted(os.listdir(output)) == ["tokenizer", "transformer"]
    native = ["README.md", "config.json", "model.safetensors"]
    assert sorted(os.listdir(output / "transformer")) == native
    converted = Transformer.from_pretrained(output / "transformer")
    assert same_weights(converted, Transformer.from_pretrained(flax))
    prompt = "A red apple, #RedApple"
    ids = Tokenizer.from_pretrained(output / "tokenizer")(prompt).input_ids
    assert torch.equal(ids, Tokenizer.from_pretrained(flax)(prompt).input_ids)


@pytest.mark.thorough
def test_with_a_vqgan_it_becomes_a_pipeline(
    run: Any, flax: Path, fixtures: Path, output: Path
) -> None:
    vqgan = fixtures / "vqgan-jax-tiny" / "model"
    scorer = fixtures / "clip-hf-tiny" / "model"
    result = run("convert", flax, output, "--vqgan", vqgan, "--scorer", scorer)
    assert (result.code, result.err) == (0, "")
    index = json.loads((output / "model_index.json").read_text())
    assert (index["vqgan"], index["scorer"]) == ("VQGAN", "CLIPScorer")
    card = (output / "README.md").read_text()
    assert "# output\n" in card
    pipe = Pipeline.from_pretrained(output)
    assert same_weights(pipe.transformer, Transformer.from_pretrained(flax))
    assert isinstance(pipe.vqgan, VQGAN)
    assert same_weights(pipe.vqgan, VQGAN.from_pretrained(vqgan))
    assert next(iter(pipe.stream("a red apple", seed=0, every=8))).images[0].size == (256, 256)
    assert same_weights(
        CLIP.from_pretrained(output, subfolder="scorer"), CLIP.from_pretrained(scorer)
    )


@pytest.mark.thorough
def test_other_image_tokenizers_are_told_and_converted(
    run: Any, fixtures: Path, output: Path
) -> None:
    source = fixtures / "image-tokenizers" / "encoder.pkl"
    assert "dVAE (OpenAI)" in run("info", source).out
    result = run("convert", source, output)
    assert (result.code, result.err) == (0, "")
    converted = ImageTokenizer.from_pretrained(output)
    assert isinstance(converted, DVAE)
    assert same_weights(converted, ImageTokenizer.from_pretrained(source))


def test_one_part_is_written_to_the_output_itself(run: Any, fixtures: Path, output: Path) -> None:
    result = run("convert", fixtures / "clip-hf-tiny" / "model", output)
    assert result.lines == [str(output)]
    assert sorted(os.listdir(output)) == ["README.md", "config.json", "model.safetensors"]
    header, text = split_card((output / "README.md").read_text(encoding="utf-8"))
    assert header["pipeline_tag"] == "zero-shot-image-classification"
    assert text.startswith("# output\n")
    assert "Converted from `model`." in text
    count = sum(one.numel() for one in CLIP.from_pretrained(output).parameters())
    assert f"| CLIP | {count:,} | float32 |" in text


def test_single_file_is_converted_with_its_sibling(run: Any, fixtures: Path, output: Path) -> None:
    source = fixtures / "min-dalle-tiny-fp16" / "encoder.pt"
    assert run("convert", source, output).code == 0
    assert same_weights(Transformer.from_pretrained(output), Transformer.from_pretrained(source))


def test_native_pipeline_is_written_again_in_another_dtype(
    run: Any, tiny: Path, output: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny, tmp_path / "own")
    (tmp_path / "own" / "NOTICE").write_text("Pictures by somebody.\n")
    assert run("convert", tmp_path / "own", output, "--dtype", "float16").code == 0
    assert (output / "NOTICE").read_text() == "Pictures by somebody.\n"
    assert (output / "README.md").read_text() == (tiny / "README.md").read_text()
    for name in ("model_index.json", "generation_config.json"):
        assert json.loads((output / name).read_text()) == json.loads((tiny / name).read_text())
    for part in ("transformer", "vqgan", "scorer"):
        before = (tiny / part / "model.safetensors").stat().st_size
        assert (output / part / "model.safetensors").stat().st_size < 0.75 * before
    scorer = CLIPScorer.from_pretrained(output, subfolder="scorer")
    assert torch.isfinite(scorer.score(torch.rand(1, 3, 16, 16), ["a cat"])).all()
    assert Pipeline.from_pretrained(output)("a cat", seed=1).images[0].size == (16, 16)


def test_subfolder_is_converted_alone(run: Any, tiny: Path, output: Path) -> None:
    assert run("convert", tiny, output, "--subfolder", "vqgan").lines == [str(output)]
    assert VQGAN.from_pretrained(output).codebook_size == 64


@pytest.mark.thorough
def test_pipeline_in_a_folder_of_the_source_is_converted(
    run: Any, tiny: Path, output: Path
) -> None:
    result = run("convert", tiny.parent, output, "--subfolder", tiny.name)
    assert (result.code, result.err) == (0, "")
    drawn = Pipeline.from_pretrained(output)("a cat", seed=1)
    again = Pipeline.from_pretrained(tiny)("a cat", seed=1)
    assert torch.equal(drawn.image_tokens, again.image_tokens)
    assert (output / "README.md").read_text() == (tiny / "README.md").read_text()


@pytest.mark.thorough
@pytest.mark.slow_except("dtype0")
@pytest.mark.parametrize("dtype", [[], ["--dtype", "float16"]])
def test_transformer_is_quantised_on_the_way(
    run: Any, tiny: Path, output: Path, dtype: list[str]
) -> None:
    assert run("convert", tiny, output, "--quantization", "int8", *dtype).code == 0
    converted = Pipeline.from_pretrained(output)
    assert converted.transformer.quantization == "int8"
    if not dtype:
        loaded = Pipeline.from_pretrained(tiny, quantization="int8")
        assert same_weights(converted.transformer, loaded.transformer)


@pytest.mark.slow
def test_foreign_transformer_is_quantised_on_the_way(run: Any, flax: Path, output: Path) -> None:
    assert run("convert", flax, output, "--quantization", "int8").code == 0
    converted = Transformer.from_pretrained(output, subfolder="transformer")
    assert same_weights(converted, Transformer.from_pretrained(flax, quantization="int8"))


def test_without_transformer_there_is_nothing_to_quantise(
    run: Any, tiny: Path, output: Path
) -> None:
    result = run("convert", tiny, output, "--subfolder", "vqgan", "--quantization", "int8")
    assert result.code == 1
    assert "holds vqgan; leave out int8" in result.err
    assert not output.exists()


def test_source_may_be_on_the_hub(run: Any, hub: HubServer, flax: Path, output: Path) -> None:
    hub.add("someone/flax", flax, branch="v2")
    assert run("convert", "someone/flax", output, "--revision", "v2").code == 0
    mark = json.loads((output / "transformer" / "config.json").read_text())["dallemini"]
    assert mark["converted_from"] == "someone/flax"


def test_empty_folder_is_filled(run: Any, tiny: Path, output: Path) -> None:
    output.mkdir(parents=True)
    assert run("convert", tiny / "vqgan", output).code == 0
    assert sorted(os.listdir(output)) == ["README.md", "config.json", "model.safetensors"]


def test_source_is_never_overwritten(run: Any, tiny: Path) -> None:
    before = (tiny / "vqgan" / "config.json").read_text()
    result = run("convert", tiny / "vqgan", tiny / "vqgan")
    assert result.code == 1
    assert "exists and is not an empty folder; name a new one" in result.err
    assert (tiny / "vqgan" / "config.json").read_text() == before


def test_parts_that_do_not_fit_leave_nothing_behind(run: Any, flax: Path, output: Path) -> None:
    few = dataclasses.replace(TINY_VQGAN, n_embed=16)
    tiny_vqgan(few).save_pretrained(output.parent / "few")
    result = run("convert", flax, output, "--vqgan", output.parent / "few")
    assert result.code == 1
    assert "The VQGAN has 16 codes, but the transformer draws from 95" in result.err
    assert os.listdir(output.parent) == ["few"]


def test_damaged_weights_leave_nothing_behind(run: Any, flax: Path, output: Path) -> None:
    source = output.parent / "source"
    shutil.copytree(flax, source)
    whole = (source / "flax_model.msgpack").read_bytes()
    (source / "flax_model.msgpack").write_bytes(whole[: len(whole) // 2])
    result = run("convert", source, output)
    assert result.code == 1
    assert "flax_model.msgpack is cut off" in result.err
    assert os.listdir(output.parent) == ["source"]


def test_source_without_the_wanted_part_is_refused(
    run: Any, flax: Path, tiny: Path, output: Path
) -> None:
    result = run("convert", flax, output, "--vqgan", tiny / "tokenizer")
    assert result.code == 1
    assert "holds tokenizer, but no vqgan" in result.err


def test_file_in_place_of_the_parent_folder_is_refused(run: Any, tiny: Path, output: Path) -> None:
    output.parent.write_text("")
    result = run("convert", tiny / "vqgan", output)
    assert result.code == 1
    assert f"Could not make {output}" in result.err
