"""`dallemini info`: what is said about each kind of source, and what is never read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dallemini.testing import TINY_TRANSFORMER, tiny_transformer
from hub_server import HubServer


def block(out: str, part: str) -> dict[str, str]:
    """Return the lines below the name of a part."""
    lines = out.partition(f"\n{part}\n")[2].partition("\n\n")[0].splitlines()
    return {line.split()[0]: line.strip().partition(" ")[2].strip() for line in lines}


def test_pipeline_is_told_part_by_part(run: Any, tiny: Path) -> None:
    result = run("info", tiny)
    assert result.code == 0
    titles = [line for line in result.lines[1:] if line and not line.startswith(" ")]
    assert titles == ["tokenizer", "transformer", "vqgan", "scorer (CLIP)"]
    count = sum(parameter.numel() for parameter in tiny_transformer().parameters())
    told = block(result.out, "transformer")
    assert told["format"] == "native"
    assert told["parameters"] == f"{count:,}"
    assert told["size"].endswith("kB, float32")
    assert f"d_model={TINY_TRANSFORMER.d_model}" in told["config"]


def test_subfolder_is_one_part(run: Any, tiny: Path) -> None:
    result = run("info", tiny, "--subfolder", "vqgan")
    assert "\nvqgan\n" in result.out
    assert "\ntransformer\n" not in result.out


def test_subfolder_may_be_a_whole_pipeline(run: Any, tiny: Path) -> None:
    result = run("info", tiny.parent, "--subfolder", tiny.name)
    assert block(result.out, "transformer") == block(run("info", tiny).out, "transformer")


def test_released_folder_is_told_by_its_format(run: Any, fixtures: Path) -> None:
    result = run("info", fixtures / "e2e-tiny" / "model")
    assert block(result.out, "transformer")["format"] == "DalleBart (Flax)"
    assert block(result.out, "tokenizer")["vocabulary"] == "1,000 ids"


def test_clip_has_no_tokenizer_for_prompts(run: Any, fixtures: Path) -> None:
    result = run("info", fixtures / "clip-hf-tiny" / "model")
    assert block(result.out, "scorer (CLIP)")["format"] == "CLIP (transformers)"
    assert "\ntokenizer\n" not in result.out


def test_single_file_is_told_by_its_tensors(run: Any, fixtures: Path) -> None:
    result = run("info", fixtures / "min-dalle-tiny-fp16" / "decoder.pt")
    told = block(result.out, "transformer")
    assert told["format"] == "min-dalle"
    assert told["size"].endswith("float16")


def test_a_file_that_is_no_model_does_not_hold_the_files_beside_it(
    run: Any, tmp_path: Path
) -> None:
    for name in ("junk.txt", "other.png"):
        (tmp_path / name).write_text("junk")
    junk = tmp_path / "junk.txt"
    for words in (["info", junk], ["generate", "a cat", "--model", junk]):
        result = run(*words)
        assert (result.code, "beside it lie other.png" in result.err) == (1, True), result.err


def test_flax_file_without_config_is_told_by_its_tensors(
    run: Any, fixtures: Path, tmp_path: Path
) -> None:
    shutil.copy(fixtures / "e2e-tiny" / "model" / "flax_model.msgpack", tmp_path)
    result = run("info", tmp_path)
    assert block(result.out, "transformer")["format"] == "DalleBart (Flax)"
    assert "\nvqgan\n" not in result.out


@pytest.mark.thorough
def test_damaged_file_without_config_is_an_error(run: Any, fixtures: Path, tmp_path: Path) -> None:
    whole = (fixtures / "e2e-tiny" / "model" / "flax_model.msgpack").read_bytes()
    (tmp_path / "flax_model.msgpack").write_bytes(whole[: len(whole) // 2])
    result = run("info", tmp_path)
    assert (result.code, result.out) == (1, "")
    assert "flax_model.msgpack is cut off" in result.err


def test_damaged_native_weights_are_an_error(run: Any, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "vqgan", tmp_path / "vqgan")
    (tmp_path / "vqgan" / "model.safetensors").write_bytes(b"short")
    result = run("info", tmp_path / "vqgan")
    assert (result.code, result.out) == (1, "")
    assert "is truncated or damaged" in result.err


@pytest.mark.parametrize("files", [{"notes.txt": "hello"}, {"config.json": "{}"}])
def test_folder_with_nothing_known_is_refused(
    run: Any, tmp_path: Path, files: dict[str, str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    result = run("info", tmp_path)
    assert result.code == 1
    assert "is not a pipeline, transformer, tokenizer, VQGAN, CLIP or upscaler in" in result.err
    assert ", ".join(files) or "no files" in result.err


def test_several_openai_files_must_be_named(run: Any, tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"")
    result = run("info", tmp_path)
    assert result.code == 1
    assert "has several .pt files: a.pt, b.pt. Name one of them" in result.err


def test_older_model_is_refused_by_name(run: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bart"}))
    result = run("info", tmp_path)
    assert result.code == 1
    assert "is a BART model" in result.err


def test_model_on_the_hub_is_told_without_its_weights(
    run: Any, hub: HubServer, fixtures: Path, tiny: Path
) -> None:
    commit = hub.add("someone/flax", fixtures / "e2e-tiny" / "model")
    result = run("info", "someone/flax")
    assert result.code == 0
    assert result.lines[0] == f"someone/flax at commit {commit}"
    told = block(result.out, "transformer")
    assert told["format"] == "DalleBart (Flax)"
    assert told["weights"].startswith("not in the cache")
    hub.add("someone/native", tiny)
    assert block(run("info", "someone/native").out, "vqgan")["format"] == "native"
    fetched = [request for request in hub.requests if request.startswith("GET")]
    assert not [request for request in fetched if "msgpack" in request or "safetensors" in request]


def test_words_that_a_model_was_taught_are_listed(run: Any, tiny: Path) -> None:
    knowledge = {"concepts": ["kite", "fire engine"], "styles": ["flat"], "words": ["kite"]}
    copy = tiny.parent / "knowing"
    shutil.copytree(tiny, copy, dirs_exist_ok=True)
    (copy / "tokenizer" / "knowledge.json").write_text(json.dumps(knowledge), encoding="utf-8")
    assert "2, such as kite, fire engine" in block(run("info", copy).out, "tokenizer")["concepts"]
    told = run("info", copy, "--words")
    assert told.lines == ["# concepts", "kite", "fire engine", "# styles", "flat", "# control"]


def test_a_model_that_lists_no_words_says_so(run: Any, tiny: Path) -> None:
    result = run("info", tiny, "--words")
    assert result.code == 1
    assert "does not list what it was taught" in result.err
