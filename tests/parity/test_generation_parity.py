"""Drawing tokens as DalleBart does in Flax: guidance, filters, greedy, recorded noise, EOS.

The original masks nothing and stops a row at EOS, so these tests ask the loop for every id
(`num_codes=None`) and let a sampler of their own do what the original does after the logits.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dallemini.generation import (
    Sampler,
    TopSampler,
    filter_logits,
    generate_tokens,
    make_generators,
)
from dallemini.models.transformer import Transformer
from dallemini.text.tokenizer import TextTokens

Arrays = Mapping[str, npt.NDArray[Any]]

FOLDERS = ["dallebart-tiny-scan", "dallebart-tiny-unscan"]
EMPTY_PROMPT = 3
NUM_CODES = 128
EOS = {"dallebart-tiny-scan": 129, "dallebart-tiny-unscan": 128}
# a token follows from those before it: a beginning shows what the rest would
LENGTHS = [48, pytest.param(256, marks=pytest.mark.slow)]
# below this distance between the two likeliest ids, the rounding of another library decides
MARGIN = 1e-3


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def arrays(fixtures: Path, folder: str) -> Arrays:
    """All arrays of a folder, those of the EOS case with the prefix `eos_`."""
    if folder == "dallebart-tiny-unscan":
        with np.load(fixtures / folder / "vectors_generated.npz") as stored:
            return dict(stored)
    found: dict[str, npt.NDArray[Any]] = {}
    for name, prefix in (("vectors", ""), ("vectors_sampled", ""), ("vectors_eos", "eos_")):
        with np.load(fixtures / folder / f"{name}.npz") as stored:
            found |= {prefix + key: value for key, value in stored.items()}
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every file is converted once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def transformer(fixtures: Path, folder: str, cache: Path) -> Transformer:
    return Transformer.from_pretrained(fixtures / folder / "model", cache_dir=cache)


class Forced:
    """Returns recorded tokens and keeps the logits that led to them."""

    def __init__(self, sequences: Tensor) -> None:
        self.sequences = sequences
        self.logits: list[Tensor] = []

    def __call__(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        self.logits.append(logits)
        return self.sequences[:, len(self.logits)]


class Noisy:
    """Top-k 50 with recorded Gumbel noise f[L,N,V]; a row that drew EOS stays there."""

    def __init__(self, gumbel: Tensor, eos: int) -> None:
        self.gumbel = iter(gumbel)
        self.eos = eos
        self.finished = torch.zeros(gumbel.shape[1], dtype=torch.bool)

    def __call__(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        tokens: Tensor = (filter_logits(logits, top_k=50) + next(self.gumbel)).argmax(-1)
        tokens = tokens.masked_fill(self.finished, self.eos)
        self.finished |= tokens == self.eos
        return tokens


class Greedy:
    """The likeliest id; a row that drew EOS stays there, or EOS is forbidden."""

    def __init__(self, eos: int, *, forbidden: bool) -> None:
        self.eos, self.forbidden = eos, forbidden
        self.finished: Tensor | None = None

    def __call__(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        if self.forbidden:
            logits = logits.index_fill(1, torch.tensor([self.eos]), -torch.inf)
        tokens = logits.argmax(-1)
        finished = tokens == self.eos
        if self.finished is not None:
            tokens = tokens.masked_fill(self.finished, self.eos)
            finished |= self.finished
        self.finished = finished
        return tokens


def draw(
    transformer: Transformer,
    arrays: Arrays,
    sampler: Sampler,
    *,
    images: int = 3,
    scale: float = 10.0,
    num_codes: int | None = None,
    length: int = 256,
) -> Tensor:
    """Draw the beginning of one image for each prompt with the library's own loop."""
    ids = torch.from_numpy(arrays["input_ids"].astype(np.int64))
    mask = torch.from_numpy(arrays["attention_mask"].astype(bool))
    empty = slice(EMPTY_PROMPT, EMPTY_PROMPT + 1)
    steps = generate_tokens(
        transformer,
        TextTokens(ids[:images], mask[:images]),
        unconditional=TextTokens(ids[empty], mask[empty]),
        prompt_of_image=torch.arange(images),
        guidance_scale=scale,
        sampler=sampler,
        generators=make_generators(range(images)),
        num_codes=num_codes,
    )
    return torch.stack(list(itertools.islice(steps, length)), dim=1)


def recorded(arrays: Arrays, name: str) -> Tensor:
    """Return i64[N,L+1], the start token first."""
    return torch.from_numpy(arrays[name].astype(np.int64))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("default", {"top_k": 50}),
        ("topk5", {"top_k": 5}),
        ("topp50", {"top_p": 0.5}),
        ("temp2", {"temperature": 2.0}),
        ("all", {"top_k": 20, "top_p": 0.9, "temperature": 0.7}),
    ],
)
def test_filters(arrays: Arrays, name: str, settings: Any) -> None:
    found = filter_logits(torch.from_numpy(arrays["warp_raw"]), **settings)
    np.testing.assert_allclose(found.numpy(), arrays[f"warp_{name}"], rtol=1e-6)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gen_super_topk1", {}),
        ("gen_super_topk1_minlen", {}),
        ("gen_greedy_cond_only", {"scale": 1.0}),
        ("gen_super_topk1_codes_only", {"num_codes": NUM_CODES}),
        ("gen_super16_topk1_codes_only", {"scale": 16.0, "num_codes": NUM_CODES}),
    ],
)
def test_greedy_tokens(
    transformer: Transformer, arrays: Arrays, name: str, settings: Any, length: int
) -> None:
    expected = recorded(arrays, name)[:, : 1 + length]
    assert bool((expected[:, 0] == transformer.config.decoder_start_token_id).all())
    forced = Forced(expected)
    draw(transformer, arrays, forced, length=length, **settings)
    logits = torch.stack(forced.logits, dim=1)
    first, second = logits.topk(2).values.unbind(-1)
    clear = first - second > MARGIN
    assert float(clear.float().mean()) > 0.99
    assert torch.equal(logits.argmax(-1)[clear], expected[:, 1:][clear])
    free = draw(transformer, arrays, TopSampler(top_k=1), length=length, **settings)
    for row in range(3):
        until = length if bool(clear[row].all()) else int(clear[row].int().argmin())
        assert torch.equal(free[row, :until], expected[row, 1 : until + 1])


@pytest.mark.parametrize("length", LENGTHS)
def test_sampling_with_recorded_noise(
    transformer: Transformer, arrays: Arrays, folder: str, length: int
) -> None:
    gumbel, expected = torch.from_numpy(arrays["gumbel"]), recorded(arrays, "sequences")
    images = gumbel.shape[1]
    found = draw(transformer, arrays, Noisy(gumbel, EOS[folder]), images=images, length=length)
    assert torch.equal(found, expected[:, 1 : 1 + length])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("forbidden", [False, True])
def test_a_head_that_draws_eos(
    transformer: Transformer, arrays: Arrays, folder: str, forbidden: bool, length: int
) -> None:
    kernel = torch.from_numpy(arrays["eos_lm_head_kernel"])
    transformer.lm_head.weight = torch.nn.Parameter(kernel.T.contiguous())
    name = "eos_gen_super_topk1_minlen" if forbidden else "eos_gen_super_topk1"
    expected = recorded(arrays, name)[:, 1 : 1 + length]
    found = draw(transformer, arrays, Greedy(EOS[folder], forbidden=forbidden), length=length)
    assert torch.equal(found, expected)
    assert bool((expected == EOS[folder]).any()) is not forbidden


def test_a_user_never_gets_an_id_without_a_code(
    transformer: Transformer, arrays: Arrays, folder: str
) -> None:
    kernel = torch.from_numpy(arrays["eos_lm_head_kernel"])
    transformer.lm_head.weight = torch.nn.Parameter(kernel.T.contiguous())
    found = draw(transformer, arrays, TopSampler(), num_codes=NUM_CODES, length=48)
    assert int(found.max()) < NUM_CODES
