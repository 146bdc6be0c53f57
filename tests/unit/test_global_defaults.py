"""torch's global defaults change nothing: dtype, device, grad mode, autocast, threads."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import dallemini
from dallemini import Pipeline
from dallemini.testing import tiny_clip_scorer, tiny_pipeline, tiny_tokenizer, tiny_transformer

FACTORIES = {
    *("arange", "as_tensor", "empty", "eye", "full", "linspace", "logspace", "ones", "rand"),
    *("randint", "randn", "randperm", "tensor", "zeros"),
}
# what may leave one open, and why
ALLOWED = {
    ("attention.py", "device"),  # parameters are built where the model is built: on `meta`
    ("clip.py", "device"),  # likewise
    ("norms.py", "device"),  # likewise
    ("outlines.py", "device"),  # `empty_embedding`, likewise
}


def factory_calls() -> Iterator[tuple[Path, ast.Call]]:
    for path in sorted(Path(dallemini.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                named = isinstance(owner, ast.Name) and owner.id == "torch"
                if named and node.func.attr in FACTORIES:
                    yield path, node


def test_everything_made_says_its_dtype_and_device() -> None:
    calls = list(factory_calls())
    open_ones = [
        f"{path.name}:{call.lineno} lacks {name}="
        for path, call in calls
        for name in sorted({"dtype", "device"} - {keyword.arg for keyword in call.keywords})
        if (path.name, name) not in ALLOWED
    ]
    assert open_ones == []
    assert len(calls) > 30


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def several() -> Iterator[None]:
    """What does not hide what the others do; each alone is `slow`."""
    with default_dtype(torch.float64), torch.inference_mode(), torch.autocast("cpu"):
        yield


WORLDS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "with meta": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no grad": torch.no_grad,
    "two threads": lambda: threads(2),
    "several": several,
}


def everything() -> dict[str, Any]:
    """What is made, loaded, drawn and scored from nothing."""
    pipe = tiny_pipeline()
    out = pipe("a red apple", num_images_per_prompt=3, seed=3, rank=True, progress=False)
    int8 = tiny_pipeline().quantize()("a red apple", seed=3, guidance_scale=2.0, progress=False)
    steps = list(pipe.stream("a red apple", every=5, seed=3, progress=False))
    return {
        "ids": tiny_tokenizer()(["a red apple", ""]).input_ids.tolist(),
        "weights": [float(value.sum()) for value in tiny_transformer().state_dict().values()],
        "dtypes": {value.dtype for value in tiny_transformer().state_dict().values()},
        "tokens": out.image_tokens.tolist(),
        "int8": int8.image_tokens.tolist(),
        "pixels": [image.tobytes() for image in out.images],
        "scores": out.scores,
        "previews": [step.images[0].tobytes() for step in steps],
        "words": tiny_clip_scorer().encode_prompts(["a cat"]).tolist(),
    }


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    with threads(1):
        return everything()


@pytest.mark.slow_except("several", "meta", "two threads")
@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_means_one_picture(usual: dict[str, Any], world: str) -> None:
    with threads(1), WORLDS[world]():
        found = everything()
    same = {name: found[name] == value for name, value in usual.items()}
    if world == "two threads":  # the last digits of CLIP's sums are those of its threads
        assert found["scores"] == pytest.approx(usual["scores"], rel=1e-4)
        same |= {"scores": True, "words": True}
    assert same == dict.fromkeys(usual, True)


def draw_bundled() -> Any:
    pipes = [Pipeline.from_pretrained(), Pipeline.from_pretrained(quantization="int8")]
    drawn = [pipe("a red apple", seed=3, candidates=1, progress=False) for pipe in pipes]
    return [out.image_tokens.tolist() for out in drawn]


@pytest.fixture(scope="module")
def bundled() -> Any:
    return draw_bundled()


@pytest.mark.thorough
@pytest.mark.slow_except("autocast")
@pytest.mark.parametrize("world", ["float64", "meta", "autocast", "two threads"])
def test_the_bundled_model_draws_the_same(bundled: Any, world: str) -> None:
    with WORLDS[world]():
        assert draw_bundled() == bundled


@pytest.mark.thorough
def test_int8_draws_seeds_alone_as_in_a_batch_of_nine() -> None:
    pipe = Pipeline.from_pretrained(quantization="int8")
    pipe.config = pipe.config.override(candidates=1)
    together = pipe("a red apple", num_images_per_prompt=9, seed=0, progress=False).image_tokens
    for image in (0, 8):
        alone = pipe("a red apple", seed=image, progress=False).image_tokens[0]
        assert torch.equal(alone, together[image])


@pytest.mark.parametrize("int8", [False, True])
def test_a_prompt_has_the_same_states_alone_and_padded_in_a_batch(int8: bool) -> None:
    pipe = Pipeline.from_pretrained(quantization="int8" if int8 else None)
    prompts = ["a red apple", "rocket, 3d emoji, on a blue background", "cat"]
    with torch.no_grad():
        together = pipe.transformer.encode(pipe.tokenizer(prompts)).hidden_states
        for row, prompt in enumerate(prompts):
            trimmed = pipe.tokenizer(prompt).trim()
            alone = pipe.transformer.encode(trimmed).hidden_states
            end = trimmed.input_ids.shape[1]
            assert torch.equal(together[row, :end], alone[0, :end])
