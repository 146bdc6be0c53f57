"""The model that comes inside the package: it is small, draws at once, and follows the prompt."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ImageOps

from dallemini import Pipeline, Watermark, kernels
from dallemini.images import image_to_tensor, open_image

GROUNDS = {
    "red": (222, 40, 40),
    "blue": (45, 95, 215),
    "green": (50, 165, 70),
    "black": (20, 20, 20),
}


@pytest.fixture(scope="module")
def bundled() -> Pipeline:
    return Pipeline.from_pretrained()


def test_bundled_model_is_at_most_60_mb() -> None:
    folder = resources.files("dallemini") / "assets" / "emoji"
    with resources.as_file(folder) as path:
        assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) <= 60_000_000


def test_bundled_model_carries_card_and_notice() -> None:
    folder = resources.files("dallemini") / "assets" / "emoji"
    assert 'license: "apache-2.0"' in (folder / "README.md").read_text(encoding="utf-8")
    assert "Noto" in (folder / "NOTICE").read_text(encoding="utf-8")


def test_pages_say_how_many_concepts_it_knows(bundled: Pipeline) -> None:
    known = f"{len(bundled.tokenizer.knowledge.concepts):,}"  # type: ignore[union-attr]
    root = Path(__file__).parents[2]
    pages = ("README.md", "docs/prompts.md", "docs/limits.md", "docs/faq.md")
    for page in (*pages, "dallemini/assets/emoji/README.md", "examples/emoji/model_card.md"):
        text = (root / page).read_text("utf-8")
        assert {*re.findall(r"([\d,]+) (?:concepts|things that have)", text)} == {known}, page


def test_same_seed_draws_the_same_picture(bundled: Pipeline) -> None:
    first, second = (bundled("red apple", seed=5, candidates=1) for _ in range(2))
    assert torch.equal(first.image_tokens, second.image_tokens)
    assert first.images[0].tobytes() == second.images[0].tobytes()


def test_picture_of_a_batch_equals_its_seed_drawn_alone(bundled: Pipeline) -> None:
    settings: dict[str, Any] = {"candidates": 1, "progress": False}
    together = bundled(["red apple", "rocket"], num_images_per_prompt=3, seed=0, **settings)
    alone = bundled("rocket", seed=together.seeds[4], **settings)
    assert alone.images[0].tobytes() == together.images[4].tobytes()


def test_marked_pictures_are_found_after_jpeg(bundled: Pipeline, fixtures: Path) -> None:
    """Real pixels, drawn earlier; four together, as 10x10 tokens may say too little."""
    marked = sorted((fixtures / "marked").glob("*.jpg"))
    assert len(marked) == 4
    mark = Watermark("key 0")
    assert bundled.detect(marked, mark, search=False).p_value < 1e-8
    assert sum(bundled.detect(one, mark, search=False).p_value < 1e-3 for one in marked) >= 2
    halves = [open_image(one).resize((160, 160)) for one in marked]
    assert bundled.detect(halves, mark, search=False).p_value < 1e-6
    for other in ("key 1", "Key 0", b"key 0\0"):
        assert bundled.detect(marked, Watermark(other), search=False).p_value > 1e-3
    mirrored = [ImageOps.mirror(open_image(one)) for one in marked]
    assert bundled.detect(mirrored, mark, search=False).p_value > 1e-3


@pytest.mark.thorough
def test_a_drawn_mark_is_found_after_jpeg(bundled: Pipeline) -> None:
    prompts, mark = ["a cat with a hat", "a red bus", "guitar", "fish"], Watermark("mine")
    out = bundled(prompts, seed=7, watermark=mark, candidates=1, progress=False)
    files = []
    for image in out.images:
        with io.BytesIO() as file:
            image.save(file, "JPEG", quality=75)
            files.append(file.getvalue())
    assert bundled.detect(files, mark).p_value < 1e-6
    assert bundled.detect(files, Watermark("yours"), search=False).p_value > 1e-3
    plain = bundled(prompts, seed=7, candidates=1, progress=False)
    assert bundled.detect(plain.images, mark, search=False).p_value > 1e-3


@pytest.mark.thorough
@pytest.mark.parametrize("guidance_scale", [pytest.param(1.0, marks=pytest.mark.slow), 3.0])
def test_kernels_draw_the_tokens_of_torch_s_own_functions(
    bundled: Pipeline, monkeypatch: pytest.MonkeyPatch, guidance_scale: float
) -> None:
    prompts = ["red apple", "rocket, 3d emoji, on a blue background"]
    settings: dict[str, Any] = {"candidates": 1, "guidance_scale": guidance_scale}
    drawn = bundled(prompts, seed=0, **settings)
    monkeypatch.setattr(kernels, "_library", lambda: None)
    assert not kernels.has_kernels()
    plain = bundled(prompts, seed=0, **settings)
    assert torch.equal(drawn.image_tokens, plain.image_tokens)


@pytest.mark.parametrize(
    "color",
    [
        "blue",
        *(pytest.param(color, marks=pytest.mark.slow) for color in ("black", "red", "green")),
    ],
)
def test_background_asked_for_is_drawn(bundled: Pipeline, color: str) -> None:
    prompts = [f"{thing}, noto emoji, on a {color} background" for thing in ("rocket", "cat face")]
    out = bundled(prompts, num_images_per_prompt=3, candidates=1, seed=0)
    table = torch.tensor([*GROUNDS.values(), (255, 255, 255)]) / 255
    edges = [image_to_tensor(image)[:, :3].flatten(1).median(dim=1).values for image in out.images]
    nearest = [int((table - edge).square().sum(1).argmin()) for edge in edges]
    assert nearest.count(list(GROUNDS).index(color)) > len(prompts) * 3 // 2


@pytest.mark.slow
def test_best_of_eight_is_nearer_to_its_prompt_than_to_others(bundled: Pipeline) -> None:
    prompts = ["red apple, noto emoji", "rocket, noto emoji", "cat face, noto emoji"]
    best = bundled(prompts, num_images_per_prompt=8, candidates=1, seed=0, rank=True).best()
    pixels = torch.stack([image_to_tensor(image) for image in best])
    for index, picture in enumerate(pixels):
        scores = bundled.scorer.score(picture.expand(3, -1, -1, -1), prompts)
        assert int(scores.argmax()) == index


@pytest.mark.benchmark
def test_first_picture_in_a_fresh_process_takes_less_than_six_seconds() -> None:
    code = "from dallemini import Pipeline; Pipeline.from_pretrained()('a red apple', seed=0)"
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert time.monotonic() - started < 6
