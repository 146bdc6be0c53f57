"""Fine-tuning: adapters by targets, cards, what is not to be forgotten, captions ignored."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dallemini import Pipeline
from dallemini.data import DataConfig, EncodedImages, TokenBatches
from dallemini.errors import ConfigError
from dallemini.hub.card import split_card
from dallemini.testing import tiny_pipeline
from dallemini.training.recipes import TransformerTrainingConfig, train_transformer
from dallemini.training.recipes.gap import GapWatch
from dallemini.training.recipes.prior import draw_prior, read_listed
from dallemini.training.recipes.tokens import open_tokens

LOOP: dict[str, Any] = {"steps": 2, "batch_size": 4, "warmup_steps": 1, "evaluate_every": 2}
LOOP |= {"device": "cpu", "progress": False, "data": DataConfig(image_size=16, min_side=8)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures and a pipeline to start from."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "pictures").mkdir()
    for name in ("red", "green", "blue"):
        Image.new("RGB", (20, 16), name).save(folder / "pictures" / f"{name}.png")
        (folder / "pictures" / f"{name}.txt").write_text(f"a {name} square")
    tiny_pipeline().save_pretrained(folder / "model")
    card = folder / "model" / "README.md"
    card.write_text("---\nlicense: apache-2.0\n---\n\n# Model\n")
    return folder


def run(place: Path, output: Path, **changes: Any) -> Pipeline:
    files: dict[str, Any] = {"train_data": (str(place / "pictures"),), "output": str(output)}
    files |= {"eval_data": (str(place / "pictures"),), "init_from": str(place / "model")}
    return train_transformer(TransformerTrainingConfig(**{**files, **LOOP, **changes}))


def test_prompts_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "validation.txt").write_text("a duck\n\na silver coin\n")
    assert read_listed([str(tmp_path / "validation.txt")]) == ("a duck", "a silver coin")
    assert read_listed(["a duck.", "two.txt"]) == ("a duck.", "two.txt")


def test_an_adapter_has_the_layers_that_are_asked_for_and_a_card(
    place: Path, tmp_path: Path
) -> None:
    pipe = run(place, tmp_path / "blips", lora_rank=2, lora_targets=("q_proj", "lm_head"))
    again = Pipeline.from_pretrained(place / "model")
    before = {name: value.clone() for name, value in again.transformer.state_dict().items()}
    again.load_adapter(tmp_path / "blips" / "adapter")
    after = again.transformer.state_dict()
    changed = {name for name, value in after.items() if not value.equal(before[name])}
    assert changed == {f"decoder.layers.{n}.cross_attn.q_proj.weight" for n in (0, 1)} | {
        "lm_head.weight"
    }
    for name, value in pipe.transformer.state_dict().items():
        assert value.equal(after[name])
    for card in ("README.md", "adapter/README.md"):
        header, body = split_card((tmp_path / "blips" / card).read_text())
        assert header["license"] == "apache-2.0", "that of the model it started from"
        assert "`pictures`, 2 steps of 4; LoRA of rank 2, adamw at 0.001." in body
        assert "After 2 steps, in nats for each token: train_loss" in body
        assert "held_out_text_gap" in body
    assert {"lora", "peft"} <= {*header["tags"]}
    assert str(tmp_path) not in body


def test_what_the_old_model_drew_is_mixed_in(place: Path, tmp_path: Path) -> None:
    prompts = ("a red apple", "a blue bird")
    changes: dict[str, Any] = {"prior_prompts": prompts, "prior_share": 0.5, "license": "mit"}
    pipe = run(place, tmp_path / "kept", **changes)
    path = tmp_path / "kept-run" / "tokens-prior" / "tokens-00000.parquet"
    prior = EncodedImages.open(path.parent)
    captions = [prior[index].captions[0] for index in (0, 7, 8, 15)]
    assert captions == [prompts[0], prompts[0], prompts[1], prompts[1]]
    start = Pipeline.from_pretrained(place / "model")
    drawn = start(prompts, num_images_per_prompt=8, seed=0, progress=False, candidates=1)
    assert prior.image_tokens(range(16)).equal(drawn.image_tokens)
    card = (tmp_path / "kept" / "README.md").read_text()
    assert 'license: "mit"' in card
    assert "of which 50% were drawn by the model before" in card
    stamp = path.stat().st_mtime_ns
    config = TransformerTrainingConfig(
        train_data=("x",), output=str(tmp_path / "kept"), init_from="y", **LOOP, **changes
    )
    draw_prior(config, Pipeline.from_pretrained(place / "model"))
    assert path.stat().st_mtime_ns == stamp, "drawn once"
    draw_prior(config, pipe)
    assert path.stat().st_mtime_ns != stamp, "drawn by another model"


def test_a_prior_has_its_share_of_the_pictures(place: Path, tmp_path: Path) -> None:
    pipe = Pipeline.from_pretrained(place / "model")
    config = TransformerTrainingConfig(
        train_data=(str(place / "pictures"),),
        output=str(tmp_path / "out"),
        init_from=str(place / "model"),
        **LOOP,
        prior_prompts=("a red apple",),
    )
    folder = draw_prior(config, pipe)
    encoded = open_tokens(config, pipe, config.train_data, name="train", prior=(folder, 0.25))
    assert encoded.lengths == [3, 8]
    batches = TokenBatches(encoded, batch_size=100, seed=0)
    keys = [key for number in range(4) for key in batches(number).keys]
    assert sum(key.startswith("prior-") for key in keys) == pytest.approx(100, abs=15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior_share": 0.0}, "prior_share is a share above 0 and below 1, not 0.0"),
        ({"init_from": None, "vqgan": "x", "prior_prompts": ("a",)}, "drawn by a trained model"),
        ({"lora_targets": ("q_proj",)}, "lora_targets name layers for adapters: give lora_rank"),
        ({"lora_rank": 2, "lora_targets": ("q_pro",)}, "called 'q_pro'. Did you mean 'q_proj'"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    place: Path, tmp_path: Path, changes: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(place, tmp_path / "out", **changes)


def test_a_run_that_ignores_its_captions_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="dallemini.training")
    watch = GapWatch(steps=100, is_lora=True)
    watch.on_evaluation(40, {"text_gap": 0.0, "train_loss": 4.0}, {})  # too early to tell
    watch.on_evaluation(60, {"text_gap": 0.05, "train_loss": 4.0}, {})
    assert caplog.messages == []
    for step in (80, 100):
        watch.on_evaluation(step, {"text_gap": 0.007, "train_loss": 3.81}, {})
    (message,) = caplog.messages
    assert message.startswith("After 80 of 100 steps captions play no part")
    assert "Train all weights (lora_rank=0), and say in each caption" in message
    GapWatch(steps=2, is_lora=False).on_evaluation(2, {"text_gap": -1.0, "train_loss": 4.0}, {})
    assert "Take more steps" in caplog.messages[1]


def test_a_run_has_the_watch(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="dallemini.training")
    deaf = tiny_pipeline()
    for name, parameter in deaf.transformer.named_parameters():
        if name.endswith("cross_attn.out_proj.weight"):
            torch.nn.init.zeros_(parameter)
    deaf.save_pretrained(tmp_path / "deaf")
    lora = {"lora_rank": 2, "lora_targets": ("self_attn.out_proj",)}
    run(place, tmp_path / "out", init_from=str(tmp_path / "deaf"), **lora)
    assert any("text_gap is 0, under" in message for message in caplog.messages)
