"""The pipeline: the same picture from the same seed however it is asked for, and clear refusals."""

from __future__ import annotations

import dataclasses
import gc
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dallemini import (
    VQGAN,
    CLIPScorer,
    GenerationConfig,
    GenerationOutput,
    Pipeline,
    Tokenizer,
    Transformer,
)
from dallemini.errors import (
    CheckpointError,
    ConfigError,
    DalleMiniWarning,
    InputError,
    InputTypeError,
    MissingFileError,
    StorageError,
)
from dallemini.generation import TopSampler
from dallemini.models.cache import DecoderCache
from dallemini.testing import (
    TINY_TRANSFORMER,
    TINY_VQGAN,
    tiny_clip_scorer,
    tiny_pipeline,
    tiny_transformer,
    tiny_vqgan,
)
from hub_server import TOKEN, HubServer

PROMPTS = ["a red apple", "an armchair in the shape of an avocado", "a blue bird"]


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


MPS = torch.backends.mps.is_available()


def parts(pipe: Pipeline) -> dict[str, Any]:
    return {"tokenizer": pipe.tokenizer, "transformer": pipe.transformer, "vqgan": pipe.vqgan}


def draw(pipe: Pipeline, prompts: Any = "a red apple", **settings: Any) -> GenerationOutput:
    settings.setdefault("seed", 0)
    settings.setdefault("progress", False)
    return pipe(prompts, **settings)


def pixels(images: Sequence[Any]) -> list[bytes]:
    return [image.tobytes() for image in images]


def same(first: GenerationOutput, second: GenerationOutput) -> bool:
    """Equal to the last bit, in the same order."""
    return torch.equal(first.image_tokens, second.image_tokens) and pixels(first.images) == pixels(
        second.images
    )


def alike(first: GenerationOutput, second: GenerationOutput) -> bool:
    """Equal tokens; pixels but for their last bit.

    Mapped weights lie at other addresses than fresh ones, so sums may be taken in another order.
    """
    levels = [np.stack([np.asarray(i) for i in out.images]).astype(int) for out in (first, second)]
    tokens = torch.equal(first.image_tokens, second.image_tokens)
    return tokens and int(np.abs(levels[0] - levels[1]).max()) <= 1


class Brightness:
    """A scorer of one's own."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(images) == len(prompts)
        return images.float().mean(dim=(1, 2, 3))


class Palette:
    """An image tokenizer of one's own: every code is one gray."""

    codebook_size, image_length, device = 64, 16, torch.device("cpu")

    def encode(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, image_tokens: Tensor) -> Tensor:
        return (image_tokens / 63).view(-1, 1, 4, 4).expand(-1, 3, 4, 4)


def test_pictures_are_prompt_major(pipe: Pipeline) -> None:
    out = draw(pipe, PROMPTS, num_images_per_prompt=2, seed=7)
    assert out.prompts == tuple(PROMPTS)
    assert out.seeds == (7, 8, 9, 10, 11, 12)
    assert out.image_tokens.shape == (6, 16)
    assert [image.size for image in out.images] == [(16, 16)] * 6
    assert [out.prompt_of(index) for index in range(6)] == [p for p in PROMPTS for _ in range(2)]
    assert out.config == GenerationConfig(num_images_per_prompt=2, seed=7)
    assert out.scores is None
    assert out.model == "tiny"


def test_pictures_are_the_decoded_tokens(pipe: Pipeline) -> None:
    out = draw(pipe, num_images_per_prompt=3)
    for image, tokens in zip(out.images, out.image_tokens, strict=True):
        decoded = (pipe.vqgan.decode(tokens[None])[0] * 255).byte().permute(1, 2, 0)
        assert image.tobytes() == decoded.numpy().tobytes()


def test_one_prompt_is_a_list_of_one(pipe: Pipeline) -> None:
    assert same(draw(pipe, "a red apple"), draw(pipe, ["a red apple"]))
    assert same(draw(pipe, ("a red apple",)), draw(pipe, ["a red apple"]))


def test_same_seed_draws_the_same_and_another_something_else(pipe: Pipeline) -> None:
    assert same(draw(pipe, seed=3), draw(pipe, seed=3))
    assert not same(draw(pipe, seed=3), draw(pipe, seed=4))


def test_prompts_draw_different_pictures(pipe: Pipeline) -> None:
    assert not same(draw(pipe, PROMPTS[0]), draw(pipe, PROMPTS[2]))


def test_fresh_seeds_are_returned_and_draw_the_same_again(pipe: Pipeline) -> None:
    first, second = (draw(pipe, num_images_per_prompt=2, seed=None) for _ in range(2))
    assert first.seeds != second.seeds
    assert first.config.seed is None
    assert same(draw(pipe, num_images_per_prompt=2, seed=first.seeds), first)


@pytest.mark.thorough
def test_image_is_drawn_by_its_seed_alone(pipe: Pipeline) -> None:
    out = draw(pipe, PROMPTS, num_images_per_prompt=3, seed=100)
    for index, seed in enumerate(out.seeds):
        alone = draw(pipe, out.prompt_of(index), seed=seed)
        assert torch.equal(alone.image_tokens[0], out.image_tokens[index])
        assert pixels(alone.images) == pixels(out.images[index : index + 1])


@pytest.mark.slow_except("4")
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batch_size_changes_nothing(pipe: Pipeline, batch_size: int) -> None:
    whole = draw(pipe, PROMPTS, num_images_per_prompt=3)
    assert same(draw(pipe, PROMPTS, num_images_per_prompt=3, batch_size=batch_size), whole)


@pytest.mark.thorough
def test_order_of_prompts_changes_nothing(pipe: Pipeline) -> None:
    out = draw(pipe, PROMPTS, seed=[5, 6, 7])
    turned = draw(pipe, PROMPTS[::-1], seed=[7, 6, 5])
    assert torch.equal(turned.image_tokens, out.image_tokens.flip(0))
    assert pixels(turned.images[::-1]) == pixels(out.images)


def test_equal_prompts_and_seeds_draw_equal_pictures(pipe: Pipeline) -> None:
    out = draw(pipe, ["a red apple"] * 3, seed=[4, 4, 5])
    assert torch.equal(out.image_tokens[0], out.image_tokens[1])
    assert not torch.equal(out.image_tokens[0], out.image_tokens[2])


def test_top_k_of_1_is_greedy_whatever_the_seed(pipe: Pipeline) -> None:
    out = draw(pipe, num_images_per_prompt=3, top_k=1, guidance_scale=1.0)
    assert all(torch.equal(row, out.image_tokens[0]) for row in out.image_tokens)
    with torch.no_grad():
        logits = pipe.transformer(pipe.tokenizer("a red apple"), out.image_tokens[:1])
    assert torch.equal(logits[..., :64].argmax(-1), out.image_tokens[:1])


def test_own_settings_hold_where_the_call_gives_none() -> None:
    config = GenerationConfig(top_k=1, num_images_per_prompt=2, seed=5)
    pipe = Pipeline(**parts(tiny_pipeline()), config=config)
    out = pipe("a red apple", progress=False)
    assert out.config == config
    assert pipe("a red apple", seed=6, progress=False).config == config.override(seed=6)


def test_drawing_leaves_every_state_alone(pipe: Pipeline) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    draw(pipe, rank=True, seed=None)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_a_sampler_of_ones_own_replaces_the_settings(pipe: Pipeline) -> None:
    greedy = draw(pipe, top_k=1)
    own = draw(pipe, sampler=lambda logits, generators: logits.argmax(-1), temperature=5.0)
    assert same(own, greedy)
    wild = draw(pipe, sampler=TopSampler(temperature=3.0, top_k=None))
    assert same(wild, draw(pipe, temperature=3.0, top_k=None))


def test_an_image_tokenizer_of_ones_own_draws(pipe: Pipeline) -> None:
    own = Pipeline(**{**parts(pipe), "vqgan": Palette()})
    out = draw(own, num_images_per_prompt=5)
    assert torch.equal(out.image_tokens, draw(pipe, num_images_per_prompt=5).image_tokens)
    found = np.asarray(out.images[4])[..., 0].reshape(-1)
    assert np.array_equal(found, (out.image_tokens[4] / 63 * 255).byte().numpy())


@pytest.mark.thorough
@pytest.mark.slow_except("dtype1")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_draws(dtype: torch.dtype) -> None:
    out = draw(tiny_pipeline().to(dtype=dtype), num_images_per_prompt=2, rank=True)
    assert len(out.images) == len(out.scores or ()) == 2


def test_ranking_sorts_the_pictures_of_each_prompt(pipe: Pipeline) -> None:
    plain = draw(pipe, PROMPTS, num_images_per_prompt=4)
    ranked = draw(pipe, PROMPTS, num_images_per_prompt=4, rank=True)
    assert ranked.scores is not None
    expected = {seed: index for index, seed in enumerate(plain.seeds)}
    for start in range(0, 12, 4):
        group = slice(start, start + 4)
        assert list(ranked.scores[group]) == sorted(ranked.scores[group], reverse=True)
        assert set(ranked.seeds[group]) == set(plain.seeds[group])
    for index, seed in enumerate(ranked.seeds):
        before = expected[seed]
        assert torch.equal(ranked.image_tokens[index], plain.image_tokens[before])
        assert ranked.images[index].tobytes() == plain.images[before].tobytes()
    assert pixels(ranked.best()) == pixels(ranked.images[::4])


def test_scores_are_those_of_the_scorer(pipe: Pipeline) -> None:
    out = draw(pipe, PROMPTS, num_images_per_prompt=2, rank=True)
    images = torch.stack([torch.from_numpy(np.array(image)) for image in out.images])
    texts = [str(out.prompt_of(index)) for index in range(6)]
    scores = pipe.scorer.score(images.permute(0, 3, 1, 2) / 255, texts)
    torch.testing.assert_close(torch.tensor(out.scores), scores)


def test_a_scorer_of_ones_own_ranks(pipe: Pipeline) -> None:
    own = Pipeline(**parts(pipe), scorer=Brightness())
    out = draw(own, num_images_per_prompt=6, rank=True)
    light = [float(np.asarray(image).mean()) for image in out.images]
    assert light == sorted(light, reverse=True)


@pytest.mark.slow_except("5")
@pytest.mark.parametrize("every", [1, 5, 32])
def test_last_step_of_a_stream_equals_the_call(pipe: Pipeline, every: int) -> None:
    out = draw(pipe, PROMPTS, num_images_per_prompt=2)
    steps = list(pipe.stream(PROMPTS, num_images_per_prompt=2, seed=0, every=every, progress=False))
    assert [step.position for step in steps] == [*range(every, 16, every), 16]
    assert [step.finished for step in steps] == [False] * (len(steps) - 1) + [True]
    assert torch.equal(steps[-1].image_tokens, out.image_tokens)
    assert pixels(steps[-1].images) == pixels(out.images)
    assert steps[-1].seeds == out.seeds
    for step in steps:
        assert torch.equal(step.image_tokens, out.image_tokens[:, : step.position])
        assert step.length == 16


def test_stream_goes_batch_by_batch(pipe: Pipeline) -> None:
    out = draw(pipe, PROMPTS, num_images_per_prompt=2)
    finished = [
        step
        for step in pipe.stream(
            PROMPTS, num_images_per_prompt=2, seed=0, batch_size=4, every=8, progress=False
        )
        if step.finished
    ]
    assert [step.first_image for step in finished] == [0, 4]
    assert finished[1].prompts == (PROMPTS[2], PROMPTS[2])
    assert [image.tobytes() for step in finished for image in step.images] == pixels(out.images)


def test_undrawn_part_of_a_preview_is_light_gray(pipe: Pipeline) -> None:
    step = next(pipe.stream("a red apple", seed=0, every=8, progress=False))
    picture = np.asarray(step.images[0])
    assert (picture[8:] == 229).all()
    assert not (picture[:8] == 229).all()


def test_dropping_a_stream_keeps_the_gradient_mode_and_frees_the_cache(pipe: Pipeline) -> None:
    def caches() -> int:
        return sum(type(thing) is DecoderCache for thing in gc.get_objects())

    gc.collect()
    before = caches()
    steps = pipe.stream("a red apple", every=4, progress=False)
    assert caches() == before
    next(steps)
    assert torch.is_grad_enabled()
    assert caches() == before + 1
    del steps
    assert torch.is_grad_enabled()
    assert caches() == before


def test_stream_checks_its_arguments_before_the_first_step(pipe: Pipeline) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'top_k'"):
        pipe.stream("a red apple", topk=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("every", [0, -1, 1.5, "3", None, True])
def test_stream_refuses_impossible_steps(pipe: Pipeline, every: Any) -> None:
    with pytest.raises(InputError, match="every must be a whole number from 1, not "):
        pipe.stream("a red apple", every=every)


def test_progress_is_shown_when_asked_for(
    pipe: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(pipe, num_images_per_prompt=2, progress=True)
    assert "32" in capsys.readouterr().err
    draw(pipe, progress=False)
    draw(pipe, progress=None)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("prompts", [[], ()])
def test_no_prompts_are_refused(pipe: Pipeline, prompts: Any) -> None:
    for call in (pipe, pipe.stream):
        with pytest.raises(InputError, match="There are no prompts; give at least one"):
            call(prompts)


@pytest.mark.parametrize(
    "prompts", [None, 3, b"apple", {"apple"}, np.array([["apple"]]), iter(["apple"])]
)
def test_prompts_that_are_no_sequence_of_str_are_refused(pipe: Pipeline, prompts: Any) -> None:
    for call in (pipe, pipe.stream):
        with pytest.raises(InputTypeError, match="prompts must be a str or a sequence of str, not"):
            call(prompts)


@pytest.mark.parametrize("wrong", [None, 3, b"apple", ["apple"], float("nan"), Path("apple")])
def test_a_prompt_that_is_no_str_is_named(pipe: Pipeline, wrong: Any) -> None:
    with pytest.raises(InputTypeError, match=r"prompts\[1\] must be a str, not "):
        draw(pipe, ["a red apple", wrong])


@pytest.mark.parametrize("prompt", ["", " \n", "a\x00b 🍎 猫", "many words " * 500])
def test_every_string_is_a_prompt(pipe: Pipeline, prompt: str) -> None:
    if len(prompt) > 1000:
        with pytest.warns(DalleMiniWarning, match="the model reads 64"):
            assert draw(pipe, prompt).prompts == (prompt,)
    else:
        assert draw(pipe, prompt).prompts == (prompt,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be at least 1, not 0"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number"),
        ({"guidance_scale": -1.0}, "guidance_scale must be a finite number from 0"),
        ({"temperature": 0.0}, "temperature must be a finite number .*use top_k=1"),
        ({"top_k": 0}, "top_k must be at least 1, not 0; use None for no limit"),
        ({"top_k": True}, "top_k must be int"),
        ({"top_p": 1.5}, r"top_p must be above 0 and at most 1, not 1\.5"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"seed": -1}, "seed must be from 0"),
        ({"seed": "0"}, "seed must be int"),
        ({"rank": "yes"}, "rank must be bool .*, not 'yes'"),
        ({"guidance": 3.0}, "no field 'guidance'. Did you mean 'guidance_scale'?"),
        ({"num_images": 3}, "Did you mean 'num_images_per_prompt'?"),
        ({"prompt": "a"}, "the first argument or prompts=, not prompt"),
    ],
)
def test_impossible_setting_is_refused(pipe: Pipeline, settings: Any, message: str) -> None:
    for call in (pipe, pipe.stream):
        with pytest.raises(ConfigError, match=message):
            call("a red apple", **settings)


@pytest.mark.parametrize("seeds", [[], [1], [1, 2, 3]])
def test_seeds_must_be_one_for_each_picture(pipe: Pipeline, seeds: list[int]) -> None:
    message = f"2 pictures need 2 seeds, one each, not {len(seeds)}; or give a single seed"
    with pytest.raises(InputError, match=message):
        draw(pipe, num_images_per_prompt=2, seed=seeds)


def test_a_seed_needs_room_to_count_up(pipe: Pipeline) -> None:
    assert draw(pipe, seed=2**63 - 1).seeds == (2**63 - 1,)
    with pytest.raises(InputError, match="leaves no room to count up 3 pictures"):
        draw(pipe, num_images_per_prompt=3, seed=2**63 - 2)


@pytest.mark.parametrize("sampler", [3, "greedy", TopSampler, torch.zeros(1)])
def test_a_sampler_that_cannot_be_called_is_refused(pipe: Pipeline, sampler: Any) -> None:
    with pytest.raises(InputTypeError, match=r"sampler must be callable like TopSampler\(\), not"):
        draw(pipe, sampler=sampler)


@pytest.mark.parametrize("progress", [1, "yes", 0.5])
def test_progress_is_yes_no_or_none(pipe: Pipeline, progress: Any) -> None:
    with pytest.raises(InputTypeError, match="progress must be True, False or None, not "):
        draw(pipe, progress=progress)


class WrongScores:
    """A scorer that returns whatever it was made with."""

    def __init__(self, scores: Any) -> None:
        self.scores = scores

    def score(self, images: Tensor, prompts: Sequence[str]) -> Any:
        return self.scores


@pytest.mark.slow_except("None")
@pytest.mark.parametrize("scores", [[1.0, 2.0], None, torch.zeros(3), torch.zeros(2, 1)])
def test_a_scorer_that_returns_another_shape_is_refused(pipe: Pipeline, scores: Any) -> None:
    own = Pipeline(**parts(pipe), scorer=WrongScores(scores))
    with pytest.raises(InputError, match="must return one number for each of 2 images"):
        draw(own, num_images_per_prompt=2, rank=True)


def test_a_scorer_that_returns_nan_is_refused(pipe: Pipeline) -> None:
    own = Pipeline(**parts(pipe), scorer=WrongScores(torch.tensor([0.0, float("nan")])))
    with pytest.raises(InputError, match=r"returned \[0\.0, nan\], which cannot be ranked"):
        draw(own, num_images_per_prompt=2, rank=True)


def test_ranking_without_a_scorer_is_refused_before_drawing(pipe: Pipeline) -> None:
    own = Pipeline(**parts(pipe))

    def sampler(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        raise AssertionError("nothing must be drawn")

    with pytest.raises(InputError, match="has no scorer; make it with scorer=CLIPScorer"):
        own("a red apple", rank=True, sampler=sampler)


@pytest.mark.parametrize("part", ["tokenizer", "transformer", "vqgan"])
@pytest.mark.parametrize("wrong", [None, "dalle-mini/dalle-mini", Tokenizer])
def test_a_part_of_another_kind_is_refused(pipe: Pipeline, part: str, wrong: Any) -> None:
    with pytest.raises(InputTypeError, match=rf"^{part} must be a "):
        Pipeline(**{**parts(pipe), part: wrong})


def test_parts_that_were_mixed_up_are_refused(pipe: Pipeline) -> None:
    mixed = {"tokenizer": pipe.transformer, "transformer": pipe.vqgan, "vqgan": pipe.tokenizer}
    for name, part in mixed.items():
        with pytest.raises(InputTypeError, match=rf"^{name} must be a "):
            Pipeline(**{**parts(pipe), name: part})


def test_what_an_image_tokenizer_lacks_is_named(pipe: Pipeline) -> None:
    class Half:
        codebook_size, decode = 64, None

    with pytest.raises(InputTypeError, match="Half lacks image_length, device, encode"):
        Pipeline(**{**parts(pipe), "vqgan": Half()})


@pytest.mark.parametrize("scorer", [3, "openai/clip-vit-base-patch32", tiny_clip_scorer().clip])
def test_a_scorer_that_cannot_score_is_refused(pipe: Pipeline, scorer: Any) -> None:
    with pytest.raises(InputTypeError, match="scorer must have a method `score`, such as CLIPSco"):
        Pipeline(**parts(pipe), scorer=scorer)


@pytest.mark.parametrize("config", [{"top_k": 3}, 3, TINY_VQGAN])
def test_settings_of_another_kind_are_refused(pipe: Pipeline, config: Any) -> None:
    with pytest.raises(InputTypeError, match="config must be a GenerationConfig, not "):
        Pipeline(**parts(pipe), config=config)


def smaller(**changes: Any) -> Transformer:
    return tiny_transformer(dataclasses.replace(TINY_TRANSFORMER, **changes))


@pytest.mark.parametrize(
    ("part", "make", "message"),
    [
        (
            "transformer",
            lambda: smaller(text_vocab_size=300),
            "tokenizer has 330 ids, but the transformer reads only 300; use the tokenizer that",
        ),
        (
            "transformer",
            lambda: smaller(max_text_length=32),
            "tokenizer gives 64 tokens, but the transformer reads only 32",
        ),
        (
            "transformer",
            lambda: smaller(image_length=15),
            "The transformer draws 15 tokens, which is no square picture",
        ),
        (
            "vqgan",
            lambda: tiny_vqgan(dataclasses.replace(TINY_VQGAN, n_embed=65)),
            "The VQGAN has 65 codes, but the transformer draws from 64; use the VQGAN whose",
        ),
        (
            "vqgan",
            lambda: tiny_vqgan(dataclasses.replace(TINY_VQGAN, n_embed=32)),
            "The VQGAN has 32 codes, but the transformer draws from 64",
        ),
        (
            "transformer",
            lambda: Transformer(TINY_TRANSFORMER),
            "The transformer has no weights; make it with from_pretrained or from_config",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    pipe: Pipeline, part: str, make: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Pipeline(**{**parts(pipe), part: make()})


def test_a_padded_vocabulary_fits(pipe: Pipeline) -> None:
    padded = Pipeline(**{**parts(pipe), "transformer": smaller(image_vocab_size=79)})
    assert int(draw(padded, num_images_per_prompt=4).image_tokens.max()) < 64


def test_saving_and_loading_is_identity(pipe: Pipeline, tmp_path: Path) -> None:
    config = GenerationConfig(guidance_scale=4.0, top_k=20)
    saved = Pipeline(**parts(pipe), scorer=pipe.scorer, config=config)
    saved.save_pretrained(tmp_path / "model")
    loaded = Pipeline.from_pretrained(tmp_path / "model")
    assert loaded.config == config
    assert loaded.name == str(tmp_path / "model")
    first, second = (draw(p, PROMPTS, num_images_per_prompt=2, rank=True) for p in (saved, loaded))
    assert alike(first, second)
    torch.testing.assert_close(torch.tensor(first.scores), torch.tensor(second.scores))
    names = {path.relative_to(tmp_path / "model").as_posix() for path in tmp_path.rglob("*.json")}
    assert {"model_index.json", "generation_config.json", "vqgan/config.json"} <= names
    assert (tmp_path / "model" / "README.md").read_text().startswith("---\n")


@pytest.mark.slow
def test_saving_twice_replaces(pipe: Pipeline, tmp_path: Path) -> None:
    tiny_pipeline(seed=5).save_pretrained(tmp_path)
    pipe.save_pretrained(tmp_path)
    assert alike(draw(Pipeline.from_pretrained(str(tmp_path))), draw(pipe))


def test_a_pipeline_without_scorer_stays_without(pipe: Pipeline, tmp_path: Path) -> None:
    Pipeline(**parts(pipe)).save_pretrained(tmp_path)
    assert not (tmp_path / "scorer").exists()
    loaded = Pipeline.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no scorer"):
        draw(loaded, rank=True)


def test_parts_that_are_passed_are_used(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    palette, scorer = Palette(), Brightness()
    loaded = Pipeline.from_pretrained(tmp_path, vqgan=palette, scorer=scorer)
    assert loaded.vqgan is palette
    assert loaded.scorer is scorer


def test_parts_can_be_loaded_alone(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    transformer = Transformer.from_pretrained(tmp_path, subfolder="transformer")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "tokenizer")
    scorer = CLIPScorer.from_pretrained(tmp_path, subfolder="scorer")
    whole = Pipeline(tokenizer=tokenizer, transformer=transformer, vqgan=pipe.vqgan, scorer=scorer)
    assert alike(draw(whole, rank=True), draw(pipe, rank=True))


@pytest.mark.slow_except("dtype0")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loading_casts_every_part(pipe: Pipeline, tmp_path: Path, dtype: torch.dtype) -> None:
    pipe.save_pretrained(tmp_path)
    loaded = Pipeline.from_pretrained(tmp_path, dtype=dtype)
    assert isinstance(loaded.vqgan, VQGAN)
    assert isinstance(loaded.scorer, CLIPScorer)
    assert {loaded.transformer.dtype, loaded.vqgan.dtype, loaded.scorer.clip.dtype} == {dtype}
    assert len(draw(loaded, rank=True).images) == 1


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the Hub's client
def test_publishing_and_loading_is_identity(pipe: Pipeline, hub: HubServer) -> None:
    url = pipe.push_to_hub("someone/tiny", token=TOKEN)
    assert url.startswith(f"{hub.endpoint}/someone/tiny/commit/")
    loaded = Pipeline.from_pretrained("someone/tiny")
    assert alike(draw(loaded, rank=True), draw(pipe, rank=True))
    assert loaded.name == f"someone/tiny@{url.rpartition('/')[2][:12]}"


def test_pipeline_is_found_in_a_folder_of_the_source(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "all" / "tiny")
    (tmp_path / "all" / "tiny" / "NOTICE").write_text("made in a test", encoding="utf-8")
    loaded = Pipeline.from_pretrained(tmp_path / "all", subfolder="tiny")
    assert alike(draw(loaded, rank=True), draw(pipe, rank=True))
    assert loaded.name == f"{tmp_path / 'all'}/tiny"
    loaded.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "NOTICE").read_text(encoding="utf-8") == "made in a test"
    assert str(tmp_path) not in (tmp_path / "copy" / "README.md").read_text(encoding="utf-8")


@pytest.mark.thorough
def test_pipeline_is_found_in_a_deep_folder_on_the_hub(
    pipe: Pipeline, hub: HubServer, tmp_path: Path
) -> None:
    pipe.config = GenerationConfig(top_k=3)
    pipe.save_pretrained(tmp_path / "all" / "models" / "tiny")
    pipe.config = GenerationConfig()
    commit = hub.add("someone/many", tmp_path / "all")
    first = Pipeline.from_pretrained("someone/many", subfolder="models/tiny")
    assert alike(draw(first, rank=True, top_k=50), draw(pipe, rank=True))
    assert first.name == f"someone/many/models/tiny@{commit[:12]}"
    assert first.config.top_k == 3
    hub.stop()
    again = Pipeline.from_pretrained("someone/many", subfolder="models/tiny", local_files_only=True)
    assert alike(draw(again, rank=True), draw(first, rank=True))


@pytest.mark.parametrize(
    ("subfolder", "error", "message"),
    [
        ("nowhere", MissingFileError, r"no folder .*nowhere\. Check .* subfolder="),
        ("..", InputError, r"subfolder must be a folder inside the model, not '\.\.'"),
        ("", InputError, "subfolder must be a folder inside the model, not ''"),
        (3, InputTypeError, "subfolder must be a string, not 3"),
    ],
)
def test_what_names_no_folder_of_the_source_is_refused(
    pipe: Pipeline, tmp_path: Path, subfolder: Any, error: type[Exception], message: str
) -> None:
    pipe.save_pretrained(tmp_path / "tiny")
    with pytest.raises(error, match=message):
        Pipeline.from_pretrained(tmp_path, subfolder=subfolder)


def test_a_part_of_ones_own_cannot_be_saved(pipe: Pipeline, tmp_path: Path) -> None:
    own = Pipeline(**{**parts(pipe), "vqgan": Palette()})
    with pytest.raises(InputTypeError, match=r"The vqgan is a Palette, which model_index\.json"):
        own.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("below", [True, False])
def test_saving_to_a_file_is_refused(pipe: Pipeline, tmp_path: Path, below: bool) -> None:
    (tmp_path / "file").write_text("mine")
    target = tmp_path / "file" / "folder" if below else tmp_path / "file"
    with pytest.raises(StorageError, match=rf"Could not make {re.escape(str(target))}"):
        pipe.save_pretrained(target)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("directory", [None, b"folder"])
def test_saving_refuses_what_names_no_folder(pipe: Pipeline, directory: Any) -> None:
    with pytest.raises(InputTypeError, match="folder is named by a string or a path, not "):
        pipe.save_pretrained(directory)


@pytest.mark.slow_except("os.system")
@pytest.mark.parametrize("found", ["os.system", None])
def test_class_names_outside_the_table_are_refused(
    pipe: Pipeline, tmp_path: Path, found: Any
) -> None:
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "vqgan": found}))
    message = re.escape(f"names {found!r} as vqgan, but it must be 'VQGAN'")
    with pytest.raises(CheckpointError, match=message):
        Pipeline.from_pretrained(tmp_path)


def test_a_broken_index_is_refused(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ConfigError, match=r"model_index\.json is not valid JSON"):
        Pipeline.from_pretrained(tmp_path)


def test_broken_settings_are_refused(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"topk": 3}')
    with pytest.raises(ConfigError, match=r"generation_config\.json: .*Did you mean 'top_k'"):
        Pipeline.from_pretrained(tmp_path)


def test_a_missing_part_is_named(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    (tmp_path / "vqgan" / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"no model\.safetensors"):
        Pipeline.from_pretrained(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"There is no file or folder .*nowhere"):
        Pipeline.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("source", [None, ["folder"]])
def test_a_source_that_is_no_name_is_refused(source: Any) -> None:
    with pytest.raises(InputTypeError, match="A model is named by a string or a path, not "):
        Pipeline.from_pretrained(source)


@pytest.mark.parametrize("device", ["cpux", "cuda:99", "mps" if not MPS else "cuda:x"])
def test_a_device_that_is_not_there_is_told_before_loading(tmp_path: Path, device: str) -> None:
    message = rf"The device '{device}' cannot be used here: .*Use device='cpu'"
    with pytest.raises(InputError, match=message) as caught:
        Pipeline.from_pretrained(tmp_path / "nowhere", device=device)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=message):
        tiny_pipeline().to(device)


@pytest.mark.parametrize("device", [3, b"cpu"])
def test_a_device_that_is_none_is_refused(pipe: Pipeline, tmp_path: Path, device: Any) -> None:
    with pytest.raises(InputTypeError, match="device must be a name such as 'cpu' or 'cuda', not"):
        Pipeline.from_pretrained(tmp_path, device=device)
    with pytest.raises(InputTypeError, match="device must be a name such as 'cpu' or 'cuda', not"):
        pipe.to(device)


def test_moving_changes_every_model() -> None:
    pipe = tiny_pipeline()
    assert pipe.to("cpu", dtype=torch.float64) is pipe
    assert isinstance(pipe.vqgan, VQGAN)
    assert isinstance(pipe.scorer, CLIPScorer)
    assert {pipe.transformer.dtype, pipe.vqgan.dtype, pipe.scorer.clip.dtype} == {torch.float64}


def test_a_part_that_cannot_be_moved_is_named(pipe: Pipeline) -> None:
    own = Pipeline(**{**parts(pipe), "vqgan": Palette()})
    with pytest.raises(InputTypeError, match="Palette has no method `to`; move it alone"):
        own.to("cpu", dtype=torch.float64)
    assert pipe.transformer.dtype == torch.float32


@pytest.mark.slow_except("dtype1")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_batch_size_changes_no_token_in_half_precision(dtype: torch.dtype) -> None:
    pipe = tiny_pipeline().to(dtype=dtype)
    prompts = ["a red apple", "a rocket", "an armchair in the shape of an avocado on black", "x"]
    whole = pipe(prompts, seed=0).image_tokens
    for size in (1, 3):
        parts = pipe(prompts, seed=0, batch_size=size).image_tokens
        assert torch.equal(parts, whole)


@pytest.mark.thorough
def test_scorer_follows_a_move_made_before_it_was_loaded(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    scorer = Pipeline.from_pretrained(tmp_path).to(dtype=torch.float64).scorer
    assert isinstance(scorer, CLIPScorer)
    assert scorer.clip.dtype == torch.float64


def test_nothing_that_told_of_older_weights_stays_beside_new_ones(tmp_path: Path) -> None:
    older, folder = tiny_pipeline(), tmp_path / "model"
    older.name = "first/model"
    older.save_pretrained(folder)
    for name in ("NOTICE", "LICENSE", "notes.txt", "vqgan/notes.txt", "scorer/notes.txt"):
        (folder / name).write_text("older", encoding="utf-8")
    newer = tiny_pipeline(seed=1)
    Pipeline(**parts(newer), name="second/model").save_pretrained(folder)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {
        *("README.md", "model_index.json", "generation_config.json"),
        *("tokenizer/config.json", "tokenizer/tokenizer.json"),
        *(f"{part}/{file}" for part in ("transformer", "vqgan") for file in WHOLE),
        *("notes.txt", "vqgan/notes.txt", "scorer/notes.txt"),
    }
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "second/model" in card
    assert "first/model" not in card


WHOLE = ("config.json", "model.safetensors")


@pytest.mark.thorough
def test_saving_keeps_card_and_notice_of_the_source(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "first")
    for name in ("README.md", "NOTICE"):
        (tmp_path / "first" / name).write_text(f"the {name}")
    Pipeline.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    for name in ("README.md", "NOTICE"):
        assert (tmp_path / "second" / name).read_text() == f"the {name}"


@pytest.mark.parametrize(("name", "part"), [("vqgan", VQGAN), ("scorer", CLIPScorer)])
def test_class_in_place_of_a_part_is_refused(name: str, part: Any) -> None:
    pipe = tiny_pipeline()
    parts: dict[str, Any] = {"vqgan": pipe.vqgan, name: part}
    with pytest.raises(InputTypeError, match=rf"{name} is the class {part.__name__} itself"):
        Pipeline(tokenizer=pipe.tokenizer, transformer=pipe.transformer, **parts)


@pytest.mark.thorough
def test_own_sampler_is_named_in_the_file(tmp_path: Path) -> None:
    def greedy(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return logits.argmax(dim=-1)

    out = tiny_pipeline()("a cat", seed=0, sampler=greedy)
    assert out.metadata(0)["sampler"] == "greedy"
    assert "sampler" not in tiny_pipeline()("a cat", seed=0).metadata(0)


def test_impossible_folder_name_is_refused_and_loses_nothing() -> None:
    out = tiny_pipeline()("a cat", seed=0)
    with pytest.raises(StorageError, match="Could not make"):
        out.save("a\0b")
    with pytest.raises(StorageError, match="Could not make"):
        tiny_pipeline().save_pretrained("a\0b")


def test_absurd_number_of_pictures_is_refused() -> None:
    with pytest.raises(ConfigError, match="times candidates must be at most 100000"):
        tiny_pipeline()("a cat", num_images_per_prompt=10**12)
