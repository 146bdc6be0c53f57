"""Whole training runs, from files to a model that loads: at tiny sizes, on a folder of pictures."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dallemini import VQGAN, CLIPScorer, Pipeline
from dallemini.cli import main
from dallemini.data import CaptionedImages, DataConfig, encode_images
from dallemini.errors import (
    ConfigError,
    InputError,
    MissingDependencyError,
    MissingFileError,
    StorageError,
    UnsupportedOperationError,
)
from dallemini.models.adapter_files import ADAPTER_FILES
from dallemini.models.lora import LoRAConfig, add_lora, load_lora
from dallemini.testing import TINY_CLIP, TINY_TRANSFORMER, TINY_VQGAN, tiny_pipeline, tiny_vqgan
from dallemini.training import Callback
from dallemini.training.log import read_log
from dallemini.training.recipes import (
    CLIPTrainingConfig,
    TransformerTrainingConfig,
    VQGANTrainingConfig,
    train_clip,
    train_transformer,
    train_vqgan,
    write_model,
)
from dallemini.training.recipes import transformer as recipe
from dallemini.training.recipes.checks import check_run, data_for
from dallemini.training.vqgan import VQGANLossConfig

COLOURS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 90, 220)}
SMALL = DataConfig(image_size=16, min_side=8, caption_dropout=0.1)
TINY_TEXT = dataclasses.replace(TINY_TRANSFORMER, text_vocab_size=300, max_text_length=12)
ANY_SIZE = DataConfig(min_side=8)
LOOP: dict[str, Any] = {
    "steps": 4,
    "batch_size": 4,
    "warmup_steps": 1,
    "log_every": 2,
    "evaluate_every": 2,
    "device": "cpu",
    "progress": False,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of six pictures with captions beside them."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(2):
        for name, colour in COLOURS.items():
            Image.new("RGB", (20, 16), colour).save(folder / f"{name}{number}.png")
            (folder / f"{name}{number}.txt").write_text(f"a {name} square")
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A whole pipeline to start from."""
    folder = tmp_path_factory.mktemp("start") / "model"
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


class Heard(Callback):
    """Notes the steps that it is told of."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step(self, step: int, values: Mapping[str, float]) -> None:
        self.steps.append(step)


def transformer_run(pictures: str, model: str, output: Path, **changes: Any) -> Pipeline:
    callbacks = changes.pop("callbacks", ())
    files = {"train_data": (pictures,), "eval_data": (pictures,), "output": str(output)}
    settings: dict[str, Any] = {"init_from": model, "data": SMALL, **files, **LOOP, **changes}
    return train_transformer(TransformerTrainingConfig(**settings), callbacks=callbacks)


@pytest.mark.thorough
@pytest.mark.usefixtures("plotting")
def test_a_vqgan_is_trained_from_scratch_and_loads(pictures: str, tmp_path: Path) -> None:
    config = VQGANTrainingConfig(
        train_data=(pictures,),
        eval_data=(pictures,),
        output=str(tmp_path / "vqgan"),
        data=SMALL,
        model=TINY_VQGAN,
        loss=VQGANLossConfig(kmeans_batches=2),
        **LOOP,
    )
    heard = Heard()
    trained = train_vqgan(config, callbacks=(heard,))
    assert heard.steps == [*range(1, LOOP["steps"] + 1)], "each once"
    loaded = VQGAN.from_pretrained(tmp_path / "vqgan")
    codes = torch.arange(16)[None]
    assert torch.equal(loaded.decode(codes), trained.decode(codes))
    run = tmp_path / "vqgan-run"
    assert (run / "curves.png").exists()
    assert (run / "images" / "reconstructions-0000004.png").exists()
    assert {"psnr", "codes_used"} <= {name for row in read_log(run) for name in row}


def test_a_trained_vqgan_keeps_its_codes_when_fine_tuning_begins(
    pictures: str, tmp_path: Path
) -> None:
    tiny_vqgan().save_pretrained(tmp_path / "start")
    config = VQGANTrainingConfig(
        train_data=(pictures,),
        output=str(tmp_path / "tuned"),
        data=SMALL,
        init_from=str(tmp_path / "start"),
        loss=VQGANLossConfig(decoder_only=True),
        **LOOP,
    )
    tuned = train_vqgan(config)
    start = VQGAN.from_pretrained(tmp_path / "start")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tuned.encode(images), start.encode(images))
    assert not torch.equal(tuned.decoder.conv_out.weight, start.decoder.conv_out.weight)


def test_a_transformer_is_fine_tuned_from_a_pipeline(
    pictures: str, model: str, tmp_path: Path
) -> None:
    before = Pipeline.from_pretrained(model).transformer.lm_head.weight.clone()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red square\na blue one\n")
    heard = Heard()
    trained = transformer_run(
        pictures, model, tmp_path / "tuned", callbacks=(heard,), prompts=(str(prompts),)
    )
    assert heard.steps == [*range(1, LOOP["steps"] + 1)], "each once"
    loaded = Pipeline.from_pretrained(tmp_path / "tuned")
    assert torch.equal(loaded.transformer.lm_head.weight, trained.transformer.lm_head.weight)
    assert not torch.equal(loaded.transformer.lm_head.weight, before)
    start = Pipeline.from_pretrained(model)
    assert torch.equal(start.transformer.lm_head.weight, before), "the source stays as it was"
    with Image.open(tmp_path / "tuned-run" / "images" / "samples-0000002.png") as sheet:
        assert sheet.size == (4 * 16 + 3 * 4, 2 * (16 + 18) + 4), "a row a prompt, four pictures"
    measured = {name for row in read_log(tmp_path / "tuned-run") for name in row}
    assert {"train_loss", "held_out_loss", "text_gap", "images_per_second"} <= measured
    card = (tmp_path / "tuned" / "README.md").read_text()
    assert "# tuned" in card
    assert f"fine-tuned from `{Path(model).name}`" in card


@pytest.mark.thorough
def test_a_transformer_is_trained_from_scratch_on_tokens(
    pictures: str, model: str, tmp_path: Path
) -> None:
    images = CaptionedImages.open(pictures, config=SMALL)
    encode_images(
        VQGAN.from_pretrained(model, subfolder="vqgan"), images, tmp_path / "tokens", progress=False
    )
    VQGAN.from_pretrained(model, subfolder="vqgan").save_pretrained(tmp_path / "vqgan")
    pipe = train_transformer(
        TransformerTrainingConfig(
            train_data=(str(tmp_path / "tokens"),),
            output=str(tmp_path / "new"),
            vqgan=str(tmp_path / "vqgan"),
            model=TINY_TEXT,
            **LOOP,
        )
    )
    assert pipe.tokenizer.max_length == 12
    assert Pipeline.from_pretrained(tmp_path / "new")("a red square", progress=False).images


@pytest.fixture(scope="module")
def adapted(
    pictures: str, model: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pipeline, Path]:
    """What a run with adapters returns, and its folder."""
    output = tmp_path_factory.mktemp("adapted") / "tuned"
    return transformer_run(pictures, model, output, lora_rank=2), output


@pytest.mark.thorough
def test_lora_gives_a_merged_model_and_an_adapter(
    model: str, adapted: tuple[Pipeline, Path]
) -> None:
    tuned, output = adapted
    start = Pipeline.from_pretrained(model)
    assert torch.equal(tuned.transformer.lm_head.weight, start.transformer.lm_head.weight)
    weight = "decoder.layers.0.cross_attn.q_proj.weight"
    merged = tuned.transformer.state_dict()[weight]
    assert not torch.equal(merged, start.transformer.state_dict()[weight])
    load_lora(start.transformer, output / "adapter")
    torch.testing.assert_close(start.transformer.state_dict()[weight], merged)


@pytest.mark.slow
def test_a_finished_run_only_writes_its_result_again(
    pictures: str, model: str, adapted: tuple[Pipeline, Path]
) -> None:
    first, output = adapted
    again = transformer_run(pictures, model, output, lora_rank=2)
    for name, value in first.transformer.state_dict().items():
        assert torch.equal(again.transformer.state_dict()[name], value)


def test_clip_is_trained_from_scratch_and_loads(pictures: str, tmp_path: Path) -> None:
    config = CLIPTrainingConfig(
        train_data=(pictures,),
        eval_data=(pictures,),
        output=str(tmp_path / "clip"),
        data=SMALL,
        model=dataclasses.replace(TINY_CLIP, vocab_size=600),
        **LOOP,
    )
    heard = Heard()
    trained = train_clip(config, callbacks=(heard,))
    assert heard.steps == [*range(1, LOOP["steps"] + 1)], "each once"
    loaded = CLIPScorer.from_pretrained(tmp_path / "clip")
    images, prompts = torch.rand(2, 3, 16, 16), ["a red square", "a blue square"]
    torch.testing.assert_close(loaded.score(images, prompts), trained.score(images, prompts))
    assert any("held_out_top1" in row for row in read_log(tmp_path / "clip-run"))


@pytest.mark.thorough
def test_a_scorer_is_fine_tuned(pictures: str, model: str, tmp_path: Path) -> None:
    scorer = Pipeline.from_pretrained(model).scorer
    assert isinstance(scorer, CLIPScorer)
    scorer.save_pretrained(tmp_path / "scorer")
    config = CLIPTrainingConfig(
        train_data=(pictures,),
        output=str(tmp_path / "clip"),
        data=SMALL,
        init_from=str(tmp_path / "scorer"),
        **LOOP,
    )
    assert train_clip(config).tokenizer.vocab_size == scorer.tokenizer.vocab_size


def test_tokens_of_another_vqgan_are_refused(pictures: str, model: str, tmp_path: Path) -> None:
    other = tiny_vqgan(dataclasses.replace(TINY_VQGAN, n_embed=8))
    images = CaptionedImages.open(pictures, config=SMALL)
    encode_images(other, images, tmp_path / "tokens", progress=False)
    with pytest.raises(InputError, match=r"with 8 codes, but the VQGAN has .* encode them with it"):
        transformer_run(str(tmp_path / "tokens"), model, tmp_path / "tuned", eval_data=())


RELEASED = Path(__file__).parents[2] / "fixtures"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.float16]
)
def test_released_weights_are_fine_tuned_in_float32(
    pictures: str, tmp_path: Path, dtype: torch.dtype
) -> None:
    """A Flax transformer without a VQGAN, which is given; in half precision when saved so."""
    source, vqgan = str(RELEASED / "e2e-tiny/model"), str(RELEASED / "vqgan-jax-tiny/model")
    if dtype == torch.float16:
        images = VQGAN.from_pretrained(vqgan)
        pipe = Pipeline.from_pretrained(source, vqgan=images, dtype=dtype)
        pipe.save_pretrained(tmp_path / "half")
        source = str(tmp_path / "half")
    changes = {"vqgan": vqgan, "data": ANY_SIZE, "eval_data": (), "steps": 1}
    tuned = transformer_run(pictures, source, tmp_path / "tuned", **changes)
    assert {parameter.dtype for parameter in tuned.transformer.parameters()} == {torch.float32}
    saved = Pipeline.from_pretrained(tmp_path / "tuned").transformer
    assert torch.equal(saved.lm_head.weight, tuned.transformer.lm_head.weight)


@pytest.mark.slow
def test_every_part_starts_from_a_pipeline(pictures: str, model: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**LOOP, "steps": 1, "train_data": (pictures,), "data": ANY_SIZE}
    vqgan = VQGANTrainingConfig(init_from=model, output=str(tmp_path / "vqgan"), **settings)
    clip = CLIPTrainingConfig(init_from=model, output=str(tmp_path / "clip"), **settings)
    assert train_vqgan(vqgan).config == TINY_VQGAN
    assert train_clip(clip).clip.config.image_size == 16
    changes = {"vqgan": str(tmp_path / "vqgan"), "tokenizer": model, "data": ANY_SIZE, "steps": 1}
    tuned = transformer_run(pictures, model, tmp_path / "tuned", **changes)
    assert tuned.tokenizer.vocab_size == Pipeline.from_pretrained(model).tokenizer.vocab_size


@pytest.mark.parametrize(
    ("train", "kind", "size"),
    [
        (train_vqgan, VQGANTrainingConfig, 18),
        (train_transformer, TransformerTrainingConfig, 40),
    ],
)
def test_pictures_of_a_size_that_the_model_cannot_take_are_refused(
    pictures: str, model: str, tmp_path: Path, train: Any, kind: Any, size: int
) -> None:
    data = dataclasses.replace(SMALL, image_size=size)
    files = {"train_data": (pictures,), "output": str(tmp_path / "new"), "init_from": model}
    with pytest.raises(ConfigError, match=f"image_size {size} does not fit .* 16 pixels wide"):
        train(kind(data=data, **files, **LOOP))


def test_an_output_that_cannot_be_written_is_refused_before_the_run(
    pictures: str, model: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match=r"Could not make .*file.* Choose another"):
        transformer_run(pictures, model, tmp_path / "file")
    with pytest.raises(ConfigError, match="is the model to start from; name another folder"):
        transformer_run(pictures, model, Path(model))
    assert not (tmp_path / "file-run").exists()


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_an_older_model_said_goes_with_its_weights_at_once(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "new"
    tiny_pipeline(seed=5).save_pretrained(output)
    older = {"README.md", "evaluation.json", *(f"adapter/{name}" for name in ADAPTER_FILES)}
    (output / "adapter").mkdir()
    for name in {*older, "adapter/mine.txt"}:
        (output / name).write_text("older")
    before = contents(output)
    settings: dict[str, Any] = {"train_data": ("a",), "output": str(output), "init_from": model}
    config = TransformerTrainingConfig(**settings, data=SMALL, lora_rank=2, **LOOP)
    pipe = Pipeline.from_pretrained(model)
    add_lora(pipe.transformer, LoRAConfig(rank=2), seed=0)
    adapter = recipe._restore(config, pipe)

    def full(*_: object, **__: object) -> None:
        raise StorageError("No space left.")

    monkeypatch.setattr(recipe, "_card", full)
    with pytest.raises(StorageError, match="No space left"):
        recipe._save(config, pipe, adapter)
    assert contents(output) == before
    monkeypatch.undo()
    recipe._save(config, pipe, adapter)
    found = contents(output)
    assert {name for name, content in found.items() if content == b"older"} == {"adapter/mine.txt"}
    assert {name for name in found if name.startswith("adapter/")} == {
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
        *("adapter/README.md", "adapter/mine.txt"),
    }
    recipe._save(dataclasses.replace(config, lora_rank=0), pipe, None)
    assert {name for name in contents(output) if "adapter" in name} == {"adapter/mine.txt"}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (VQGANTrainingConfig, {"model": TINY_VQGAN}, "^model describes a new network"),
        (CLIPTrainingConfig, {"model": TINY_CLIP}, "^model describes a new network"),
        (CLIPTrainingConfig, {"tokenizer": "a"}, "^tokenizer describes a new network"),
        (CLIPTrainingConfig, {"tokenizer": "a", "model": TINY_CLIP}, "^model and tokenizer descr"),
    ],
)
def test_a_new_network_beside_one_to_start_from_is_refused(
    kind: Any, changes: dict[str, Any], message: str
) -> None:
    config = kind(train_data=("a",), output="b", init_from="c", **LOOP, **changes)
    with pytest.raises(ConfigError, match=message):
        check_run(config)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"strategy": "fsdp"}, ConfigError, "splits weights over processes: start with torchrun"),
        ({"tracker": "wandb"}, MissingDependencyError, "Weights & Biases is not installed"),
        ({"optimizer": "soap"}, MissingDependencyError, "comes from a package of its own"),
        ({"lora_rank": 1000}, ConfigError, "rank 1000 is wider than the layer .* to .* a lower"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_picture_is_read(
    pictures: str,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    for name in ("wandb", "pytorch_optimizer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(error, match=message):
        transformer_run(pictures, model, tmp_path / "tuned", **changes)
    assert not list((tmp_path / "tuned-run").glob("tokens-*"))


def test_the_small_networks_are_not_split(pictures: str, model: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"train_data": (pictures,), "output": str(tmp_path / "new"), **LOOP}
    settings |= {"init_from": model, "strategy": "fsdp"}
    with pytest.raises(UnsupportedOperationError, match="is not split over processes"):
        train_vqgan(VQGANTrainingConfig(**settings))
    with pytest.raises(UnsupportedOperationError, match="is not split over processes"):
        train_clip(CLIPTrainingConfig(**settings))


def test_recipes_say_that_inference_mode_rules_gradients_out(model: str, tmp_path: Path) -> None:
    with torch.inference_mode(), pytest.raises(UnsupportedOperationError, match="inference_mode"):
        transformer_run("nowhere", model, tmp_path / "tuned")


@pytest.mark.thorough
def test_a_resumed_run_refuses_what_stays_and_takes_what_may_change(
    pictures: str, model: str, tmp_path: Path
) -> None:
    output = tmp_path / "tuned"
    transformer_run(pictures, model, output, lora_rank=2, lora_alpha=4.0, steps=2)
    changes: dict[str, Any] = {"lora_rank": 4, "lora_alpha": 8.0, "seed": 3}
    message = "was made with seed=0, not 3, lora_rank=2, not 4, lora_alpha=4.0, not 8.0: that stays"
    with pytest.raises(ConfigError, match=message):
        transformer_run(pictures, model, output, **changes)
    free: dict[str, Any] = {"optimizer": "adamw", "batch_size": 2, "learning_rate": 1e-4}
    free |= {"corruption": 0.1, "eval_data": (), "lora_dropout": 0.1, "log_every": 1}
    relative = os.path.relpath(model)
    transformer_run(pictures, relative, output, lora_rank=2, lora_alpha=4.0, steps=3, **free)
    assert list(read_log(tmp_path / "tuned-run"))[-1]["step"] == 3


def vqgan_run(pictures: str, output: Path, **changes: Any) -> VQGAN:
    settings: dict[str, Any] = {"train_data": (pictures,), "data": SMALL, "model": TINY_VQGAN}
    loss = VQGANLossConfig(kmeans_batches=2)
    settings |= {"output": str(output), "loss": loss, **LOOP, "log_every": 1, **changes}
    return train_vqgan(VQGANTrainingConfig(**settings))


@pytest.mark.slow
def test_more_steps_start_neither_the_codes_nor_the_discriminator_again(
    pictures: str, tmp_path: Path
) -> None:
    """Quantised from a quarter of the first steps, with a discriminator from half of them."""
    vqgan_run(pictures, tmp_path / "vqgan", steps=4)
    vqgan_run(pictures, tmp_path / "vqgan", steps=8)
    log = [row for row in read_log(tmp_path / "vqgan-run") if "loss" in row]
    assert [row["step"] for row in log if "commitment" in row] == list(range(2, 9))
    assert [row["step"] for row in log if "discriminator" in row] == list(range(3, 9))
    for changes in ({"loss": VQGANLossConfig(quantize_from=4)}, {"accumulation": 2}):
        with pytest.raises(
            ConfigError, match=r"(loss.quantize_from|accumulation)=1, not [24]: that"
        ):
            vqgan_run(pictures, tmp_path / "vqgan", steps=20, **changes)


def test_a_size_that_is_asked_for_is_never_taken_for_the_default(
    pictures: str, tmp_path: Path
) -> None:
    sizes: list[int] = []
    for size in (None, 32, 256):
        config = VQGANTrainingConfig(steps=1, data=DataConfig(image_size=size))
        sizes.append(data_for(config, 64, multiple=4).side)
    assert sizes == [64, 32, 256]
    with pytest.raises(ConfigError, match="image_size 256 does not fit the model"):
        data_for(config, 96, multiple=96)


def test_a_batch_that_does_not_divide_is_refused_before_the_run(
    pictures: str, model: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="batch_size 4 must be a multiple of 3"):
        transformer_run(pictures, model, tmp_path / "tuned", accumulation=3)
    assert not (tmp_path / "tuned-run").exists()


def test_a_held_out_set_that_is_not_there_is_missed_before_the_pictures_are_encoded(
    pictures: str, model: str, tmp_path: Path
) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        transformer_run(pictures, model, tmp_path / "tuned", eval_data=("nowhere",))
    assert not (tmp_path / "tuned-run" / "tokens-train").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_data": ()}, "train_data must be given: pictures with captions"),
        ({"output": ""}, "output must be given: a folder"),
        ({"init_from": None}, "Give vqgan, or init_from"),
        ({"init_from": None, "vqgan": "x", "lora_rank": 2}, "LoRA adapts a trained model"),
        ({"model": TINY_TRANSFORMER}, "leave it out beside init_from"),
    ],
)
def test_incomplete_runs_are_refused(changes: dict[str, Any], message: str) -> None:
    settings = {"train_data": ("a",), "output": "b", "init_from": "c", **LOOP, **changes}
    with pytest.raises(ConfigError, match=message):
        train_transformer(TransformerTrainingConfig(**settings))


@pytest.mark.parametrize(
    "changes", [{"corruption": 1.5}, {"lora_rank": -1}, {"lora_alpha": 0.0}, {"lora_dropout": 1.0}]
)
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="|".join(changes)):
        TransformerTrainingConfig(**LOOP, **changes)


def test_settings_survive_a_file(tmp_path: Path) -> None:
    config = TransformerTrainingConfig(
        train_data=("a",), output="b", init_from="c", data=SMALL, lora_rank=4, **LOOP
    )
    config.save(tmp_path / "run.json")
    assert TransformerTrainingConfig.from_file(tmp_path / "run.json") == config


@pytest.mark.thorough
def test_any_checkpoint_makes_the_model_that_the_run_would_have_returned(
    pictures: str, model: str, tmp_path: Path
) -> None:
    lora = {"lora_rank": 2, "keep_last": 9, "save_minutes": 0.0}
    trained = transformer_run(pictures, model, tmp_path / "adapted", **lora)
    write_model(tmp_path / "adapted-run" / "checkpoint-00000004", tmp_path / "again")
    last = Pipeline.from_pretrained(tmp_path / "again").transformer.state_dict()
    assert all(torch.equal(v, last[n]) for n, v in trained.transformer.state_dict().items())
    write_model(tmp_path / "adapted-run" / "checkpoint-00000002", tmp_path / "earlier")
    earlier = Pipeline.from_pretrained(tmp_path / "earlier").transformer.state_dict()
    assert not all(torch.equal(v, earlier[n]) for n, v in last.items())
    assert (tmp_path / "earlier" / "adapter").is_dir()


@pytest.mark.slow
def test_the_checkpoint_of_a_vqgan_or_a_scorer_makes_one(pictures: str, tmp_path: Path) -> None:
    vqgan = vqgan_run(pictures, tmp_path / "vqgan")
    assert main(["convert", str(tmp_path / "vqgan-run"), str(tmp_path / "again")]) == 0
    again = VQGAN.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in vqgan.state_dict().items())
    with pytest.raises(MissingFileError, match="vqgan holds no checkpoint of a run; name one"):
        write_model(tmp_path / "vqgan", tmp_path / "none")


@pytest.mark.slow
def test_a_run_that_goes_on_from_another_takes_its_tokenizer(
    pictures: str, model: str, tmp_path: Path
) -> None:
    def train(name: str, data: Path | str, **changes: Any) -> Pipeline:
        settings = {"data": SMALL, "model": TINY_TEXT, **LOOP, **changes}
        files: dict[str, Any] = {"train_data": (str(data),), "output": str(tmp_path / name)}
        vqgan = str(Path(model) / "vqgan")
        return train_transformer(TransformerTrainingConfig(vqgan=vqgan, **files, **settings))

    first = train("first", pictures, steps=2)
    other = next((tmp_path / "first-run").glob("checkpoint-*"))
    (tmp_path / "more").mkdir()
    Image.new("RGB", (20, 16), "red").save(tmp_path / "more" / "one.png")
    (tmp_path / "more" / "one.txt").write_text("entirely different words here")
    second = train("second", tmp_path / "more", resume_from=str(other))
    texts = ["a red", "words"]
    assert torch.equal(second.tokenizer(texts).input_ids, first.tokenizer(texts).input_ids)


@pytest.mark.slow
def test_pictures_and_tokens_are_mixed_by_weight(
    pictures: str, model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (20, 16), "white").save(other / "white.png")
    (other / "white.txt").write_text("a white square" + " or something else" * 40)
    encode_images(
        VQGAN.from_pretrained(model, subfolder="vqgan"),
        CaptionedImages.open(other, config=SMALL),
        tmp_path / "tokens",
        progress=False,
    )
    names = (f"{pictures}:1", f"{tmp_path / 'tokens'}:3")
    with caplog.at_level(logging.WARNING, logger="dallemini.training"):
        transformer_run(pictures, model, tmp_path / "mixed", train_data=names, eval_data=())
    told = [r.getMessage() for r in caplog.records if "longer than" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("1 of 7 captions are longer than the 64 tokens that the model reads")
    assert (tmp_path / "mixed-run" / "tokens-train-0" / "tokens-00000.parquet").exists()
    row = next(row for row in read_log(tmp_path / "mixed-run") if "loss" in row)
    assert row["epoch"] == pytest.approx(2 * 4 / 7, abs=1e-5)


def test_patience_without_held_out_data_is_refused(pictures: str, tmp_path: Path) -> None:
    config = VQGANTrainingConfig(
        train_data=(pictures,), output=str(tmp_path / "v"), patience=3, **LOOP
    )
    with pytest.raises(ConfigError, match="patience looks at held-out data: give eval_data"):
        train_vqgan(config)
