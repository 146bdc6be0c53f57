"""Guess the rest of unfinished pictures in one pass, so that they can be looked at.

Drawing the rest, even greedily, would cost as much as finishing them. One pass of the transformer
over all positions costs a few steps: the rows that are missing are taken to repeat the last one
that is drawn, and every token becomes the likeliest one after those. On the bundled model CLIP
chooses by such guesses as well as by greedily finished pictures (tests/benchmarks/pruning.py).

Shapes: n pictures, P tokens so far, L tokens of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.transformer import Transformer
from ..text.tokenizer import TextTokens


@torch.no_grad()
def complete_tokens(
    transformer: Transformer,
    texts: Sequence[TextTokens],
    shares: Sequence[float],
    tokens: Tensor,
    *,
    num_codes: int | None = None,
) -> Tensor:
    """Complete pictures of one prompt by likely tokens.

    Args:
        transformer: in evaluation mode.
        texts: of the prompt, one row each.
        shares: of each text in the prompt; they add up to 1.
        tokens: i64[n,P], at least one whole row of each picture.
        num_codes: ids from here up are never chosen; None allows every id.

    Returns:
        i64[n,L] on the transformer's device.

    Example:
        >>> import torch
        >>> from dallemini.generation.completion import complete_tokens
        >>> from dallemini.testing import tiny_tokenizer, tiny_transformer
        >>> text = tiny_tokenizer()("a red apple")
        >>> half = torch.zeros(3, 8, dtype=torch.int64)
        >>> complete_tokens(tiny_transformer(), [text], [1.0], half).shape
        torch.Size([3, 16])
    """
    length = transformer.config.image_length
    tokens = tokens.to(transformer.device)
    count, drawn = tokens.shape
    columns, left = transformer.config.grid[1], length - drawn
    below = tokens[:, -columns:].repeat(1, math.ceil(left / columns))[:, :left]
    whole = torch.cat([tokens, below], dim=1)
    logits = torch.zeros((), dtype=torch.float32, device=transformer.device)
    for text, share in zip(texts, shares, strict=True):
        used = text.trim().to(transformer.device)
        rows = TextTokens(used.input_ids.expand(count, -1), used.attention_mask.expand(count, -1))
        found = transformer(rows, whole)[:, drawn:, :num_codes].float()
        logits = logits + share * found
    return torch.cat([tokens, logits.argmax(-1)], dim=1)
