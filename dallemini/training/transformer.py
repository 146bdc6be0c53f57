"""Training the transformer: cross-entropy on image tokens, with corrupted decoder inputs.

The inputs are corrupted because of teacher forcing: on a small data set the tokens before a
position already tell which picture it is, and the text would be ignored. The measure of that is
the text gap, the loss with a blank caption less the loss with the caption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.transformer import Transformer
from ..sheets import Sheet
from ..text.tokenizer import TextTokens
from .distributed import own_rows, world_size
from .memory import pinned, send
from .task import Task

EVALUATED_TOGETHER = 32  # their logits take 0.5 GB with 256 tokens of 16,384 codes


@dataclass(frozen=True)
class TransformerBatch:
    """Captions and the codes of their pictures.

    Attributes:
        tokens: input_ids i64[B,T] and attention_mask bool[B,T].
        image_tokens: i64[B,L].
    """

    tokens: TextTokens
    image_tokens: Tensor


class TransformerTask(Task):
    """Loss of the transformer on batches of captions and codes.

    Args:
        transformer: trained in place.
        batches: batch number to this process's batch, with captions dropped as the caller likes.
        evaluation: name to batch, for `evaluate`; those called "train" and "held_out" also give the
            text gap.
        blank: tokens of the empty prompt, one row.
        codebook_size: corrupted inputs are drawn below it.
        corruption: highest share of decoder inputs replaced by random codes; each row draws its
            own share between 0 and this.
        seed: of the corruption.
        draw: gives samples to look at, at every evaluation.
    """

    def __init__(
        self,
        transformer: Transformer,
        *,
        batches: Callable[[int], TransformerBatch],
        evaluation: dict[str, TransformerBatch],
        blank: TextTokens,
        codebook_size: int,
        corruption: float = 0.8,
        seed: int = 0,
        draw: Callable[[], Tensor | Sheet] | None = None,
    ) -> None:
        self.transformer, self.batches, self.evaluation = transformer, batches, evaluation
        self.blank, self.codebook_size = blank, codebook_size
        self.corruption, self.seed, self.draw = corruption, seed, draw

    @property
    def module(self) -> nn.Module:
        """The transformer."""
        return self.transformer

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The layers of the encoder and the decoder."""
        return [*self.transformer.encoder.layers, *self.transformer.decoder.layers]

    @property
    def can_split(self) -> bool:
        """True: DALL-E Mega with its optimiser does not fit into one GPU."""
        return True

    def losses(self, index: int) -> dict[str, Tensor]:
        """Compute the losses of a batch."""
        batch = self.batches(index)
        generator = torch.Generator("cpu").manual_seed(self.seed * 1_000_003 + index)
        inputs = corrupt(
            batch.image_tokens, self.codebook_size, highest=self.corruption, generator=generator
        )
        # ids are checked where they are, so the network moves them itself
        tokens = TextTokens(
            pinned(batch.tokens.input_ids, self.device),
            pinned(batch.tokens.attention_mask, self.device),
        )
        logits = self.transformer(tokens, pinned(inputs, self.device))
        return {"loss": token_loss(logits, send(batch.image_tokens, logits.device))}

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the loss per token on each evaluation batch, and the text gaps."""
        measured = {
            f"{name}_loss": self._clean_loss(batch.tokens, batch.image_tokens)
            for name, batch in self.evaluation.items()
        }
        gaps = {"train": "text_gap", "held_out": "held_out_text_gap"}
        for name in (name for name in gaps if name in self.evaluation):
            batch = self.evaluation[name]
            rows = batch.image_tokens.shape[0]
            blank = TextTokens(
                self.blank.input_ids.expand(rows, -1), self.blank.attention_mask.expand(rows, -1)
            )
            without = self._clean_loss(blank, batch.image_tokens)
            measured[gaps[name]] = without - measured[f"{name}_loss"]
        return measured

    def pictures(self, step: int) -> dict[str, Tensor | Sheet]:
        """Return samples, if the task was told how to draw them."""
        return {} if self.draw is None else {"samples": self.draw()}

    def _clean_loss(self, tokens: TextTokens, image_tokens: Tensor) -> float:
        total, parts = 0.0, range(0, image_tokens.shape[0], EVALUATED_TOGETHER)
        for part in (slice(start, start + EVALUATED_TOGETHER) for start in parts):
            codes = image_tokens[part]
            text = TextTokens(tokens.input_ids[part], tokens.attention_mask[part])
            logits = self.transformer(text, codes)
            total += float(token_loss(logits, codes.to(logits.device))) * len(codes)
        return total / image_tokens.shape[0]


def token_loss(logits: Tensor, image_tokens: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token of f[B,L,V] against i64[B,L]."""
    return F.cross_entropy(logits.float().flatten(0, 1), image_tokens.flatten())


def corrupt(
    image_tokens: Tensor, codebook_size: int, *, highest: float, generator: torch.Generator
) -> Tensor:
    """Replace a random share of i64[B,L] by random codes; each row's share is its own."""
    rows, length = image_tokens.shape
    every = rows * world_size()  # each process draws the noise of all, and takes its own rows
    share = torch.rand(every, 1, generator=generator, dtype=torch.float32, device="cpu") * highest
    hit = torch.rand(every, length, generator=generator, dtype=torch.float32, device="cpu") < share
    noise = torch.randint(
        codebook_size, (every, length), generator=generator, dtype=torch.int64, device="cpu"
    )
    device = image_tokens.device
    return torch.where(own_rows(hit).to(device), own_rows(noise).to(device), image_tokens)
