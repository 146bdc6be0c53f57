"""What a PNG says suffices to draw it again; numbers of numpy are numbers."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dallemini.errors import ConfigError, InputError
from dallemini.generation import GenerationConfig, TopSampler
from dallemini.models.lora import LoRAConfig, add_lora, merge_lora
from dallemini.pipeline.metadata import read_metadata
from dallemini.sheets import png_bytes
from dallemini.testing import tiny_pipeline


def test_metadata_name_one_dtype_or_that_of_each_part() -> None:
    pipe = tiny_pipeline()
    assert pipe("a cat", progress=False).metadata(0)["dtype"] == "float32"
    pipe.to(dtype=torch.bfloat16)
    assert pipe("a cat", progress=False).metadata(0)["dtype"] == "bfloat16"
    quantized = tiny_pipeline().quantize()("a cat", progress=False).metadata(0)
    assert json.loads(quantized["dtype"]) == {"transformer": "int8", "vqgan": "float32"}


def test_metadata_name_the_commit_and_merged_adapters() -> None:
    pipe = tiny_pipeline()
    plain = pipe("a cat", progress=False).metadata(0)
    assert not {"commit", "adapters", "sampler"} & plain.keys()
    pipe.name = "someone/model@0123456789ab"
    found = []
    for seed in (0, 1):
        add_lora(pipe.transformer, LoRAConfig(rank=2), seed=seed)
        attached = pipe("a cat", progress=False).metadata(0)
        merge_lora(pipe.transformer)
        found.append(pipe("a cat", progress=False).metadata(0))
        assert found[-1]["adapters"] == attached["adapters"]
    assert found[0]["commit"] == "0123456789ab"
    first, both = (json.loads(one["adapters"]) for one in found)
    assert both[:1] == first
    assert len(set(both)) == 2


def test_metadata_name_your_own_sampler() -> None:
    def coldest(logits: Any, state: Any, *, by: int = 1) -> Any:
        return logits.argmax(-1)

    for sampler in (coldest, functools.partial(coldest, by=2)):
        out = tiny_pipeline()("a cat", sampler=sampler, progress=False)
        assert out.metadata(0)["sampler"] == "coldest"
    named = tiny_pipeline()("a cat", sampler=TopSampler(top_k=1), progress=False)
    assert named.metadata(0)["sampler"] == "TopSampler"


def test_numbers_of_numpy_are_taken_and_truth_values_are_not() -> None:
    pipe = tiny_pipeline()
    usual = pipe("a cat", num_images_per_prompt=2, seed=3, temperature=0.5, top_k=9, progress=False)
    out = pipe(
        "a cat",
        num_images_per_prompt=np.int32(2),
        seed=np.int64(3),
        temperature=np.float64(0.5),
        top_k=np.uint8(9),
        progress=False,
    )
    assert torch.equal(out.image_tokens, usual.image_tokens)
    assert out.config == usual.config
    assert json.dumps(out.config.to_dict()) == json.dumps(usual.config.to_dict())
    assert GenerationConfig().override(seed=[np.int64(1), 2], top_p=np.float32(0.5)).seed == (1, 2)
    assert len(list(pipe.stream("a cat", every=np.int64(8), progress=False))) == 2  # type: ignore[arg-type]
    for wrong in (np.bool_(True), True, np.array([1]), np.float64(1.5)):
        with pytest.raises(ConfigError, match="num_images_per_prompt must be int, not"):
            pipe("a cat", num_images_per_prompt=wrong)  # type: ignore[arg-type]


def test_generator_is_answered_by_naming_the_seed() -> None:
    with pytest.raises(ConfigError, match=r"give seed=0, or a list of seeds, instead of generator"):
        tiny_pipeline()("a cat", generator=torch.Generator())  # type: ignore[call-arg]


def test_a_seed_below_0_is_answered_by_naming_none() -> None:
    with pytest.raises(ConfigError, match="not -1; None chooses one freshly"):
        tiny_pipeline()("a cat", seed=-1)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("seeds", "[Infinity]"),
        ("scores", f"[{10**400}]"),
        ("prompts", "3"),
        ("dtype", "{" * 50_000),
        ("adapters", '[{"digest": "12"}]'),
        ("config", "[]"),
    ],
)
def test_texts_that_nobody_drew_are_refused(key: str, text: str, tmp_path: Path) -> None:
    texts = {"prompts": '["a"]', "seeds": "[1]", "config": "{}", key: text}
    path = tmp_path / "grid.png"
    path.write_bytes(png_bytes(Image.new("RGB", (2, 2)), texts=texts))
    with pytest.raises(InputError, match="says of itself cannot be read") as caught:
        read_metadata(path)
    assert len(str(caught.value)) < 1000
