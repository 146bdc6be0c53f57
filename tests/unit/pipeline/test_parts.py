"""Parts of a source: found in one place, of one commit, and completed where some are missing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.pre_tokenizers import PreTokenizer

from dallemini import VQGAN, CLIPScorer, Pipeline, Tokenizer, Transformer
from dallemini.errors import (
    CheckpointError,
    HubError,
    InputError,
    InputTypeError,
    MissingFileError,
    UnsupportedModelError,
    UnsupportedOperationError,
)
from dallemini.hub import open as open_once
from dallemini.models import VQGANConfig, precision
from dallemini.models.lora import add_lora, load_lora
from dallemini.pipeline.parts import Parts
from dallemini.testing import TINY_VQGAN, tiny_pipeline, tiny_transformer, tiny_vqgan
from dallemini.training.recipes.common import load_part
from hub_server import HubServer

REPO = "someone/tiny"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


def save_detokenizer(path: Path) -> VQGAN:
    """Write the decoding half of a VQGAN as min-dalle stores it."""
    config = {**TINY_VQGAN.to_dict(), "n_embed": 128, "resolution": 256, "attn_resolutions": []}
    config |= {"pixel_shuffle": 1, "out_ch": 3}
    vqgan = VQGAN.from_config(VQGANConfig.from_dict({**config, "has_encoder": False}), seed=3)
    state = vqgan.state_dict()
    state["embedding.weight"] = state.pop("quantize.embedding.weight")
    torch.save(state, path)
    return vqgan


@pytest.fixture(params=["", "_mini"])
def min_dalle(request: pytest.FixtureRequest, fixtures: Path, tmp_path: Path) -> Path:
    """A whole folder as min-dalle downloads it: both halves, the vocabulary and the VQGAN."""
    suffix, folder = request.param, tmp_path / "min-dalle"
    folder.mkdir()
    for side in ("encoder", "decoder"):
        original = fixtures / "min-dalle-tiny-fp16" / f"{side}.pt"
        shutil.copy(original, folder / f"{side}{suffix}.pt")
    tokenizer = Tokenizer.train(["a red apple", "a blue bird"], vocab_size=270)
    tokenizer.backend.model.save(str(folder))
    for name in ("vocab.json", "merges.txt"):
        (folder / name).rename(folder / name.replace(".", f"{suffix}."))
    save_detokenizer(folder / "detoker.pt")
    return folder


# Which parts a source has


def test_saved_pipeline_names_its_parts(saved: Path) -> None:
    found = Parts(open_once(saved)).all()
    assert list(found) == ["tokenizer", "transformer", "vqgan", "scorer"]
    assert {part: source.subfolder for part, source in found.items()} == {p: p for p in found}


@pytest.mark.parametrize("part", ["tokenizer", "transformer", "vqgan", "scorer"])
def test_one_part_alone_is_known_by_its_mark(saved: Path, part: str) -> None:
    found = Parts(open_once(saved / part))
    assert list(found.all()) == [part]
    assert found.find("nothing") is None


def test_source_without_parts_lists_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "odd.txt").touch()
    parts = Parts(open_once(tmp_path))
    assert parts.find("vqgan") is None
    with pytest.raises(MissingFileError, match=r"not a pipeline, .* it holds odd\.txt"):
        parts.all()


def test_older_model_is_refused_for_every_part(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bart"}')
    for part in ("tokenizer", "vqgan"):
        with pytest.raises(UnsupportedModelError, match="is a BART model"):
            Parts(open_once(tmp_path)).find(part)
    with pytest.raises(UnsupportedModelError, match=r"Use dalle-mini/dalle-mini"):
        Pipeline.from_pretrained(tmp_path)


def test_missing_folder_of_an_indexed_part_is_named(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    shutil.rmtree(folder / "scorer")
    pipe = Pipeline.from_pretrained(folder)  # which needs it for ranking only
    with pytest.raises(MissingFileError, match=r"There is no folder .*scorer"):
        pipe.scorer  # noqa: B018
    shutil.rmtree(folder / "vqgan")
    with pytest.raises(MissingFileError, match=r"There is no folder .*vqgan"):
        Pipeline.from_pretrained(folder)


@pytest.mark.parametrize("alone", [True, False])
def test_training_finds_a_part_alone_or_in_a_pipeline(saved: Path, alone: bool) -> None:
    source = str(saved / "vqgan" if alone else saved)
    assert load_part(VQGAN, source, "vqgan").config == TINY_VQGAN
    with pytest.raises((CheckpointError, MissingFileError)):
        load_part(Transformer, str(saved / "vqgan"), "transformer")


# min-dalle's folder


@pytest.mark.thorough_except("_mini")
def test_min_dalle_folder_is_a_pipeline_offline(
    min_dalle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert list(Parts(open_once(min_dalle)).all()) == ["tokenizer", "transformer", "vqgan"]
    pipe = Pipeline.from_pretrained(min_dalle)
    assert isinstance(pipe.vqgan, VQGAN)
    expected = save_detokenizer(min_dalle / "detoker.pt").state_dict()
    assert all(torch.equal(value, expected[n]) for n, value in pipe.vqgan.state_dict().items())
    out = pipe("a red apple", seed=0, progress=False)
    assert len(out.images) == 1


@pytest.mark.slow_except("_mini")
def test_min_dalle_transformer_that_was_named_is_completed_by_its_folder(
    min_dalle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (encoder,) = min_dalle.glob("encoder*.pt")
    assert Pipeline.from_pretrained(encoder).vqgan.codebook_size == 128
    (min_dalle / "detoker.pt").unlink()
    with pytest.raises(HubError, match=r"vqgan_imagenet_f16_16384 .* not in the cache"):
        Pipeline.from_pretrained(encoder)


# One commit


@pytest.mark.slow_except("None")
@pytest.mark.parametrize("subfolder", [None, "models/tiny"])
def test_parts_of_two_commits_never_mix(
    hub: HubServer, saved: Path, tmp_path: Path, subfolder: str | None
) -> None:
    def publish(pipe: Pipeline, name: str) -> str:
        pipe.save_pretrained(tmp_path / name / (subfolder or ""))
        return hub.add(REPO, tmp_path / name)

    first = publish(tiny_pipeline(), "first")
    second_pipe = tiny_pipeline(seed=5)
    moved: list[str] = []

    def move_branch(request: str) -> None:
        # as soon as anything but the list of files is asked for, the branch moves on
        if not moved and "/resolve/" in request:
            moved.append("")
            moved[0] = publish(second_pipe, "second")

    hub.watch = move_branch
    pipe = Pipeline.from_pretrained(REPO, subfolder=subfolder)
    hub.watch = None
    expected = tiny_pipeline()
    assert moved[0] not in ("", first)
    assert pipe.name == "/".join(filter(None, (REPO, subfolder))) + f"@{first[:12]}"
    assert isinstance(pipe.scorer, CLIPScorer)
    assert isinstance(pipe.vqgan, VQGAN)
    for ours, theirs in (
        (pipe.transformer, expected.transformer),
        (pipe.vqgan, expected.vqgan),
        (pipe.scorer.clip, expected.scorer.clip),  # type: ignore[attr-defined]
    ):
        state = theirs.state_dict()  # type: ignore[union-attr]
        assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())
    asked = [line for line in hub.requests if "/revision/" in line]
    assert asked == [f"GET /api/models/{REPO}/revision/main"]
    newer = Pipeline.from_pretrained(REPO, subfolder=subfolder)
    assert newer.name.endswith(f"@{moved[0][:12]}")


def test_source_that_was_opened_gives_every_part(hub: HubServer, saved: Path) -> None:
    commit = hub.add(REPO, saved)
    source = open_once(REPO)
    pipe = Pipeline.from_pretrained(source)
    transformer = Transformer.from_pretrained(source, subfolder="transformer")
    assert torch.equal(transformer.lm_head.weight, pipe.transformer.lm_head.weight)
    assert CLIPScorer.from_pretrained(source.inside("scorer"))
    assert pipe.name == f"{REPO}@{commit[:12]}"
    assert len([line for line in hub.requests if "/revision/" in line]) == 1
    with pytest.raises(InputError, match="was opened already"):
        Pipeline.from_pretrained(source, revision="main")


def test_incomplete_cache_says_so_offline(hub: HubServer, saved: Path) -> None:
    hub.add(REPO, saved)
    source = open_once(REPO)
    Pipeline.from_pretrained(source)
    path = source.fetch(["vqgan/model.safetensors"])["vqgan/model.safetensors"]
    path.resolve().unlink()
    message = r"the cache is incomplete: it lacks vqgan/model\.safetensors of someone/tiny"
    with pytest.raises(HubError, match=message):
        Pipeline.from_pretrained(REPO, local_files_only=True)


# Precisions


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("native", [True, False])
def test_int8_means_the_transformer(
    saved: Path, older: bool, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_native_bfloat16", lambda: native)
    asked: dict[str, Any] = {"quantization": "int8"} if older else {"dtype": "int8"}
    pipe = Pipeline.from_pretrained(saved, **asked)
    assert pipe.transformer.quantization == "int8"
    assert isinstance(pipe.vqgan, VQGAN)
    wanted = torch.bfloat16 if native else torch.float32
    assert (pipe.vqgan.quantization, pipe.vqgan.dtype) == (None, wanted)
    assert len(pipe("a cat", seed=0, progress=False).images) == 1
    mapped = Pipeline.from_pretrained(saved, dtype={"transformer": "int8"})
    assert isinstance(mapped.vqgan, VQGAN)
    assert mapped.vqgan.dtype == torch.float32


@pytest.mark.parametrize("flag", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_a_processor_with_either_unit_has_bfloat16(
    flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == flag, raising=False)
    assert precision.has_native_bfloat16()
    monkeypatch.setattr(torch.cpu, flag, lambda: False)
    assert not precision.has_native_bfloat16()
    monkeypatch.delattr(torch.cpu, flag)
    assert not precision.has_native_bfloat16()


def test_each_part_has_its_own_precision(saved: Path) -> None:
    pipe = Pipeline.from_pretrained(
        saved, dtype={"transformer": "int8", "vqgan": torch.bfloat16, "scorer": "float64"}
    )
    assert isinstance(pipe.vqgan, VQGAN)
    assert isinstance(pipe.scorer, CLIPScorer)
    assert pipe.transformer.quantization == "int8"
    assert (pipe.vqgan.dtype, pipe.scorer.clip.dtype) == (torch.bfloat16, torch.float64)
    assert len(pipe("a cat", seed=0, rank=True, progress=False).images) == 1


@pytest.mark.parametrize(
    ("dtype", "error", "message"),
    [
        ("flaot16", InputError, "There is no dtype 'flaot16'. Did you mean 'float16'"),
        ({"vqqan": "float16"}, InputError, "a part 'vqqan', which .* Did you mean 'vqgan'"),
        ({"tokenizer": "float16"}, InputError, "a part 'tokenizer', which has no weights"),
        ({"vqgan": "int8"}, UnsupportedOperationError, "A VQGAN has no int8 weights"),
        (torch.int8, InputTypeError, "dtype must be a floating-point type"),
    ],
)
def test_wrong_precision_is_told_before_anything_is_opened(
    dtype: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Pipeline.from_pretrained("someone/nowhere", dtype=dtype)


# What a save writes, a load accepts


def test_pipeline_with_adapters_is_not_saved(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    add_lora(pipe.transformer)
    for save in (pipe.save_pretrained, lambda folder: pipe.push_to_hub("someone/tiny")):
        with pytest.raises(UnsupportedOperationError, match=r"lora_.* merge_lora or save_lora"):
            save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_parts_that_do_not_fit_each_other_are_not_saved(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.vqgan = VQGAN.from_config(dataclasses.replace(TINY_VQGAN, n_embed=8), seed=0)
    with pytest.raises(InputError, match="VQGAN has 8 codes, but the transformer draws from"):
        pipe.save_pretrained(tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_licence_that_is_older_than_utf8_goes_with_its_weights(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "tiny"))
    (folder / "LICENSE").write_bytes("Copyright Jos\u00e9".encode("latin-1"))
    Pipeline.from_pretrained(folder).save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "LICENSE").read_text("utf-8") == "Copyright Jos\ufffd"


def test_scorer_that_was_changed_is_not_saved(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    assert isinstance(pipe.scorer, CLIPScorer)
    pipe.scorer.clip.register_parameter("more", torch.nn.Parameter(torch.zeros(1)))
    for part in (pipe, pipe.scorer):
        with pytest.raises(UnsupportedOperationError, match=r"This CLIP has unknown .*\(1: more\)"):
            part.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


class Blanks:
    """Splits at blanks, in Python: nothing that a file could say."""

    def pre_tokenize(self, text: Any) -> None:
        text.split(lambda number, piece: [piece])


@pytest.mark.slow_except("tokenizer")
@pytest.mark.parametrize("name", ["tokenizer", "scorer"])
def test_vocabulary_of_ones_own_code_is_not_saved(tmp_path: Path, name: str) -> None:
    pipe = tiny_pipeline()
    part: Any = getattr(pipe, name)
    tokenizer = part.tokenizer if name == "scorer" else part
    tokenizer.backend.pre_tokenizer = PreTokenizer.custom(Blanks())
    for whole in (part, pipe):
        with pytest.raises(
            CheckpointError, match="This vocabulary cannot be saved, because it could"
        ):
            whole.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.thorough
def test_nothing_of_other_weights_stays(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "copy"))
    for name in ("README.md", "NOTICE", "LICENSE"):
        (folder / name).write_text(f"{name} of the first")
    whole = tiny_pipeline(seed=5)
    Pipeline(
        tokenizer=whole.tokenizer, transformer=whole.transformer, vqgan=whole.vqgan
    ).save_pretrained(folder)
    left = {path.name for path in folder.iterdir()}
    assert left.isdisjoint({"NOTICE", "LICENSE", "scorer"})
    assert "of the first" not in (folder / "README.md").read_text()
    index = json.loads((folder / "model_index.json").read_text())
    assert (index["vqgan"], index["scorer"]) == ("VQGAN", None)
    assert Pipeline.from_pretrained(folder)


def test_adapters_of_a_whole_pipeline_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match=r"not to a Pipeline\. Give pipe\.transformer instead"):
        load_lora(tiny_pipeline(), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match=r"belong to a torch module, not to a str\.$"):
        add_lora("transformer")  # type: ignore[arg-type]
    assert add_lora(tiny_transformer())
    assert tiny_vqgan()
