"""The decoding loop: from encoded prompts to image tokens, one position at a time.

Knows tokens and logits, not pictures. Source of the guidance: "Classifier-Free Diffusion Guidance"
(Ho & Salimans 2022, section 3.2), as `_sample_super_conditioning` of dalle-mini applies it to
logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..kernels import few_rows
from ..models.cache import DecoderCache
from ..models.transformer import Transformer
from ..text.tokenizer import TextTokens
from .sampling import Choices, Sampler

# Tokens between two looks at what the sampler chose, by kind of device. On a GPU a look makes the
# processor wait, so that it cannot prepare the next step meanwhile.
LOOK_EVERY = {"cpu": 1}
LOOK_EVERY_ELSEWHERE = 32


@torch.no_grad()
def generate_tokens(
    transformer: Transformer,
    prompts: TextTokens,
    *,
    unconditional: TextTokens,
    prompt_of_image: Tensor,
    guidance_scale: float,
    sampler: Sampler,
    generators: Sequence[torch.Generator],
    num_codes: int | None,
) -> Iterator[Tensor]:
    """Draw the tokens of N images, yielding one position after the other.

    Dropping the iterator cancels the drawing and frees its cache. Gradients are off inside and
    as before outside (which is why this is a decorated generator and not a `with` block).

    Args:
        transformer: in evaluation mode.
        prompts: B tokenized prompts.
        unconditional: the tokenized empty prompt, one row; read only when guidance is not 1.
        prompt_of_image: i64[N], which prompt each image belongs to.
        guidance_scale: s in `uncond + s * (cond - uncond)`.
        sampler: chooses tokens from the guided logits.
        generators: one random stream for each image.
        num_codes: ids from here up are never drawn; None leaves every id to the sampler.

    Yields:
        i64[N] on the transformer's device, `image_length` times.

    Raises:
        InputTypeError: the sampler did not return a tensor of integers.
        InputError: it returned ids that it was not offered, or the logits are not numbers. On a
            GPU this is told some tokens late, but before the last one is yielded.
    """
    images = prompt_of_image.shape[0]
    guided = guidance_scale != 1.0
    cache = _start(transformer, prompts, unconditional if guided else None, prompt_of_image)
    tokens = transformer.start_tokens(images)
    choices, length = Choices(), transformer.config.image_length
    every = LOOK_EVERY.get(tokens.device.type, LOOK_EVERY_ELSEWHERE)
    for position in range(1, length + 1):
        rows = tokens.repeat(2) if guided else tokens
        with few_rows(len(rows), transformer.dtype, transformer.device):
            logits = transformer.decode_step(rows, cache)[:, :num_codes].float()
            if guided:
                conditional, blank = logits.chunk(2)
                logits = blank + guidance_scale * (conditional - blank)
            tokens = choices.take(sampler(logits, generators), logits)
            if position % every == 0 or position == length:
                choices.check()
        yield tokens


def _start(
    transformer: Transformer,
    prompts: TextTokens,
    unconditional: TextTokens | None,
    prompt_of_image: Tensor,
) -> DecoderCache:
    """Encode the prompts, the empty one as a last row, in one batch."""
    rows = prompt_of_image
    if unconditional is not None:
        rows = torch.cat([rows, torch.full_like(rows, prompts.input_ids.shape[0])])
        prompts = TextTokens(
            torch.cat([prompts.input_ids, unconditional.input_ids]),
            torch.cat([prompts.attention_mask, unconditional.attention_mask]),
        )
    if transformer.dtype == torch.float32:
        prompts = prompts.trim()  # in half precision the padding shows in the rounding
    return transformer.init_cache(transformer.encode(prompts), rows=rows)
