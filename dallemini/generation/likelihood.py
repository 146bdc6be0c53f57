"""How much more likely a text makes the tokens of a picture: a scorer without a second model.

log p(tokens | text) - log p(tokens | blank), in nats a token, by teacher forcing. It is what
classifier-free guidance adds up (Ho & Salimans 2022, section 3.2).

Shapes: N pictures, P image tokens, T text tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..models.transformer import Transformer
from ..text.tokenizer import TextTokens

_AT_ONCE = 16  # pictures


@torch.no_grad()
def text_likelihood(
    transformer: Transformer,
    texts: TextTokens,
    blank: TextTokens,
    image_tokens: Tensor,
    *,
    num_codes: int | None = None,
) -> Tensor:
    """Compare pictures with their texts by what the transformer makes of both.

    Args:
        transformer: in evaluation mode.
        texts: N tokenized prompts, one for each picture.
        blank: the tokenized empty prompt, or what else to compare with: one row, or one for each
            picture.
        image_tokens: i64[N,P], the pictures, or their first P tokens.
        num_codes: ids from here up are left out of the probabilities; None keeps every id.

    Returns:
        f32[N] on the CPU, nats a token; higher is better.

    Raises:
        InputError: there is not one text for each picture, or not one blank for all or each.

    Example:
        >>> from dallemini.generation import text_likelihood
        >>> from dallemini.testing import tiny_pipeline
        >>> pipe = tiny_pipeline()
        >>> out = pipe("a red apple", num_images_per_prompt=2, seed=0, progress=False)
        >>> texts, blank = pipe.tokenizer(["a red apple"] * 2), pipe.tokenizer.unconditional()
        >>> text_likelihood(pipe.transformer, texts, blank, out.image_tokens).shape
        torch.Size([2])
    """
    count = len(image_tokens)
    if len(texts.input_ids) != count:
        raise InputError(
            f"Each of the {count} pictures needs one text, not {len(texts.input_ids)} in all."
        )
    if len(blank.input_ids) not in (1, count):
        raise InputError(
            f"There must be one blank text, or one for each of the {count} pictures, not "
            f"{len(blank.input_ids)}."
        )
    scores = []
    for start in range(0, count, _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, count))
        tokens = image_tokens[part].to(transformer.device)
        asked = TextTokens(texts.input_ids[part], texts.attention_mask[part])
        empty = TextTokens(
            blank.input_ids.expand(count, -1)[part], blank.attention_mask.expand(count, -1)[part]
        )
        means = [
            _mean_log_probability(transformer, text.to(transformer.device), tokens, num_codes)
            for text in (asked.trim(), empty.trim())
        ]
        scores.append(means[0] - means[1])
    return torch.cat(scores).cpu()


def _mean_log_probability(
    transformer: Transformer, texts: TextTokens, tokens: Tensor, num_codes: int | None
) -> Tensor:
    """Map N texts and i64[N,P] to f32[N]."""
    logits = transformer(texts, tokens)[..., :num_codes].float()
    means: Tensor = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0].mean(-1)
    return means
