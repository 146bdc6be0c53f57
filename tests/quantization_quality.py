"""How near a quantised transformer is to the original: measures for tests, and a report.

`python tests/quantization_quality.py` prints them as JSON for the bundled model and these prompts,
with its own settings and then with guidance.
Both models predict every token of the same pictures, which the original has drawn, so that one
difference early on does not hide what comes after.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from dallemini import Pipeline, Transformer
from dallemini.generation import TopSampler, make_generators
from dallemini.text.tokenizer import TextTokens

PROMPTS = (
    "a red apple",
    "rocket",
    "a blue heart",
    "smiling face with sunglasses",
    "a green tree",
    "cat",
    "a yellow star on a white background",
    "a cup of coffee",
)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Means over all predicted positions; logits are those after guidance.

    Attributes:
        positions: how many there were.
        error: norm of the difference over the norm of the original, before guidance.
        guided_error: the same after guidance.
        top_overlap: share of the 256 likeliest tokens (or of half of all) that are the same.
        greedy: share of positions with the same likeliest token.
        sampled: share of positions where the same random number draws the same token.
    """

    positions: int
    error: float
    guided_error: float
    top_overlap: float
    greedy: float
    sampled: float


@torch.no_grad()
def compare(
    original: Transformer,
    other: Transformer,
    tokens: TextTokens,
    blank: TextTokens,
    image_tokens: Tensor,
    *,
    sampler: TopSampler,
    guidance_scale: float,
    num_codes: int,
) -> Agreement:
    """Compare two transformers on images i64[N,L] of prompts i64[N,T]."""
    both = [
        _logits(model, tokens, blank, image_tokens, guidance_scale)[..., :num_codes]
        for model in (original, other)
    ]
    (plain, guided), (plain_other, guided_other) = both
    count = min(256, num_codes // 2)
    top, top_other = (logits.topk(count).indices for logits in (guided, guided_other))
    common = (top[..., :, None] == top_other[..., None, :]).any(-1).float().mean()
    return Agreement(
        positions=image_tokens.numel(),
        error=_relative(plain, plain_other),
        guided_error=_relative(guided, guided_other),
        top_overlap=float(common),
        greedy=_share(guided.argmax(-1), guided_other.argmax(-1)),
        sampled=_share(_sample(guided, sampler), _sample(guided_other, sampler)),
    )


def compare_pipelines(
    pipe: Pipeline, other: Transformer, prompts: Sequence[str] = PROMPTS, *, images: int = 1
) -> Agreement:
    """Let a pipeline draw, with its own settings, and compare another transformer on that."""
    drawn = pipe(prompts, num_images_per_prompt=images, seed=0, progress=False)
    texts = [prompt for prompt in prompts for _ in range(images)]
    config = pipe.config
    return compare(
        pipe.transformer,
        other,
        pipe.tokenizer(texts),
        pipe.tokenizer.unconditional(),
        drawn.image_tokens,
        sampler=TopSampler(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p),
        guidance_scale=config.guidance_at(0.0),
        num_codes=pipe.vqgan.codebook_size,
    )


def _logits(
    model: Transformer, tokens: TextTokens, blank: TextTokens, image_tokens: Tensor, scale: float
) -> Tensor:
    """Return logits f[2,N,L,V], without guidance and with it."""
    conditional = model(tokens, image_tokens)
    rows = len(image_tokens)
    nothing = TextTokens(blank.input_ids.expand(rows, -1), blank.attention_mask.expand(rows, -1))
    unconditional = model(nothing, image_tokens)
    return torch.stack([conditional, unconditional + scale * (conditional - unconditional)])


def _sample(logits: Tensor, sampler: TopSampler) -> Tensor:
    """Draw i64[N,L] from f[N,L,V] with one stream for each image."""
    generators = make_generators(range(len(logits)))
    return torch.stack([sampler(step, generators) for step in logits.unbind(1)], dim=1)


def _relative(expected: Tensor, found: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _share(expected: Tensor, found: Tensor) -> float:
    return float((expected == found).float().mean())


def main() -> None:
    """Print the agreement of the bundled model with its int8 form."""
    pipe = Pipeline.from_pretrained()
    small = copy.deepcopy(pipe.transformer).quantize("int8")
    guided = pipe.config.override(guidance_scale=3.0, temperature=1.0, top_k=50)
    for config in (pipe.config, guided):
        pipe.config = config
        found = compare_pipelines(pipe, small, images=4)
        print(json.dumps({**config.to_dict(), **dataclasses.asdict(found)}, indent=2))


if __name__ == "__main__":
    main()
