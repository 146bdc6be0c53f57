"""The decoding loop: from encoded prompts to image tokens, one position at a time.

Knows tokens and logits, not pictures. Source of the guidance: "Classifier-Free Diffusion Guidance"
(Ho & Salimans 2022, section 3.2), as `_sample_super_conditioning` of dalle-mini applies it to
logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..models._checks import check_ids
from ..models.decoding import DecoderCache
from ..models.transformer import Transformer
from ..tokenizer import TextTokens
from .sampling import Sampler


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
        InputError: it returned ids that it was not offered, or the logits are not numbers.
    """
    images = prompt_of_image.shape[0]
    guided = guidance_scale != 1.0
    cache = _start(transformer, prompts, unconditional if guided else None, prompt_of_image)
    tokens = transformer.start_tokens(images)
    for _ in range(transformer.config.image_length):
        rows = tokens.repeat(2) if guided else tokens
        logits = transformer.decode_step(rows, cache)[:, :num_codes].float()
        if guided:
            conditional, blank = logits.chunk(2)
            logits = blank + guidance_scale * (conditional - blank)
        tokens = _checked(sampler(logits, generators), logits)
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


def _checked(tokens: Tensor, logits: Tensor) -> Tensor:
    """Return what a sampler chose from f[N,V] as i64[N]."""
    images, width = logits.shape
    check_ids("The sampler's choice", tokens, shape=f"[{images}], one id an image", axes=1)
    if len(tokens) != images:
        raise InputError(f"The sampler chose {len(tokens)} ids for {images} images.")
    offered = (tokens >= 0) & (tokens < width)
    if bool((offered & (logits < torch.inf).all(dim=1)).all()):  # False for NaN too
        return tokens.to(logits.device, torch.int64)
    if bool(offered.all()):
        raise InputError(
            "The transformer's logits are not finite numbers: its weights are broken, or the "
            "numbers too large. Load it with dtype=torch.float32 or lower guidance_scale."
        )
    raise InputError(f"The sampler chose from {width} ids, but returned {tokens.tolist()}.")
