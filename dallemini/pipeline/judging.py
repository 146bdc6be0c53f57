"""Which of several pictures fit their prompts best: by a scorer, or by the likelihood of the text.

A blend fits as well as its texts do on average, each with its share. Scores of pictures are taken
from the pixels as they are saved, which are whole levels of 256. `Pruner` judges halves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import DalleMiniWarning, InputError
from ..generation import GenerationConfig, text_likelihood
from ..generation.blend import texts_of
from ..generation.completion import complete_tokens
from ..generation.drawing import stack_texts
from ..generation.request import Request
from ..models.transformer import Transformer
from ..scorer import Scorer
from .parts import read_scores


class Judge(Protocol):
    """Scores pictures of a request; higher is better."""

    @property
    def needs_pixels(self) -> bool:
        """Whether it looks at whole pictures, or at tokens, of which a beginning will do."""

    def score(
        self, request: Request, images: Sequence[int], tokens: Tensor, pixels: Tensor | None
    ) -> list[float]:
        """Score n pictures.

        Args:
            request: what they are drawn for.
            images: their n indices in the request.
            tokens: i64[n,P], P from 1 to L.
            pixels: f[n,3,H,W] in [0, 1], whole levels of 256, where they are needed.
        """


@dataclass(frozen=True, eq=False)
class ScorerJudge:
    """Asks a scorer, such as CLIP."""

    scorer: Scorer
    needs_pixels: bool = True

    def score(
        self, request: Request, images: Sequence[int], tokens: Tensor, pixels: Tensor | None
    ) -> list[float]:
        """As `Judge.score`."""
        assert pixels is not None
        asked = [texts_of(request.prompts[request.prompt_of(image)]) for image in images]
        rows = _rows(asked)
        if len(rows) != len(images):
            pixels = pixels[_index(rows)]
        texts = [text for pairs in asked for text, _ in pairs]
        found = read_scores(self.scorer.score(pixels, texts), len(texts))
        return _weigh(found, rows, [share for pairs in asked for _, share in pairs], len(images))


@dataclass(frozen=True, eq=False)
class LikelihoodJudge:
    """Asks the transformer how much likelier the text makes the tokens than the base does."""

    transformer: Transformer
    num_codes: int
    needs_pixels: bool = False

    def score(
        self, request: Request, images: Sequence[int], tokens: Tensor, pixels: Tensor | None
    ) -> list[float]:
        """As `Judge.score`; a beginning of the tokens will do."""
        drawings = [request.drawings[image] for image in images]
        rows = _rows([drawing.texts for drawing in drawings])
        bases = [drawings[row].base for row in rows]
        found = text_likelihood(
            self.transformer,
            stack_texts([text for drawing in drawings for text in drawing.texts]),
            stack_texts([base for base in bases if base is not None]),
            tokens[_index(rows)],
            num_codes=self.num_codes,
        )
        prompts = [request.prompts[request.prompt_of(image)] for image in images]
        shares = [share for prompt in prompts for _, share in texts_of(prompt)]
        return _weigh(read_scores(found, len(rows)), rows, shares, len(images))


def find_judge(
    config: GenerationConfig,
    find_scorer: Callable[[], Scorer | None],
    transformer: Transformer,
    num_codes: int,
) -> Judge | None:
    """Return what ranks or chooses: a scorer, or the likelihood where there is none.

    Args:
        config: of the call.
        find_scorer: the pipeline's, which may have to be loaded.
        transformer: of the pipeline.
        num_codes: of its image tokenizer.

    Raises:
        InputError: it is to be ranked by a scorer, and there is none.
    """
    if not config.rank and config.candidates == 1:
        return None
    scorer = None if config.rank == "likelihood" else find_scorer()
    if config.rank and config.rank != "likelihood":
        scorer = needed_scorer(scorer)
    return LikelihoodJudge(transformer, num_codes) if scorer is None else ScorerJudge(scorer)


def needed_scorer(scorer: Scorer | None) -> Scorer:
    """Return a scorer that there is.

    Raises:
        InputError: there is none.
    """
    if scorer is None:
        raise InputError(
            "This pipeline has no scorer; make it with "
            "scorer=CLIPScorer.from_pretrained('openai/clip-vit-base-patch32'), or rank by "
            "rank='likelihood'."
        )
    return scorer


def warn_of_pruning() -> None:
    """Say that nothing is pruned where windows are drawn or a part is kept.

    There, half of the rows are no half of the work, and no beginning that could be judged alone.
    """
    warnings.warn(
        "prune=True plays no part in edits, tiles and pictures of another size than the model's: "
        "all candidates are finished.",
        DalleMiniWarning,
        stacklevel=4,
    )


@dataclass(frozen=True, eq=False)
class Pruner:
    """Drops the weaker half of each group of candidates when half of their rows are drawn.

    Where the judge looks at pictures, unfinished ones are completed in one pass (see
    `generation.completion`); the likelihood of the text judges the beginning as it is. Each group
    is judged alone, so that the other pictures of a batch have no part in it.
    """

    request: Request
    judge: Judge
    transformer: Transformer
    num_codes: int
    decode: Callable[[Tensor], Tensor]

    def __call__(self, images: Sequence[int], tokens: Tensor) -> list[int]:
        """Return those of n images, whole groups, that are to be finished.

        Args:
            images: their indices.
            tokens: i64[n,P], the first tokens.
        """
        size, kept = self.request.config.candidates, []
        for start in range(0, len(images), size):
            group = images[start : start + size]
            scores = self._score(group, tokens[start : start + size])
            order = sorted(range(len(group)), key=lambda place: -scores[place])
            kept += sorted(group[place] for place in order[: (size + 1) // 2])
        return kept

    def _score(self, group: Sequence[int], tokens: Tensor) -> list[float]:
        if not self.judge.needs_pixels:
            return self.judge.score(self.request, group, tokens.cpu(), None)
        drawings = [self.request.drawings[image] for image in group]
        prompt = self.request.prompts[self.request.prompt_of(group[0])]
        whole = complete_tokens(
            self.transformer,
            drawings[0].texts,
            [share for _, share in texts_of(prompt)],
            tokens,
            num_codes=self.num_codes,
        )
        pixels = (self.decode(whole).float() * 255).floor() / 255
        return self.judge.score(self.request, group, whole.cpu(), pixels)


def _rows(texts: Sequence[Sequence[object]]) -> list[int]:
    """Return for each text of each picture the number of the picture."""
    return [row for row, several in enumerate(texts) for _ in several]


def _index(rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device="cpu")


def _weigh(
    scores: Sequence[float], rows: Sequence[int], shares: Sequence[float], count: int
) -> list[float]:
    """Return the sum of each picture's scores, weighed by the shares of its texts."""
    sums = [0.0] * count
    for score, row, share in zip(scores, rows, shares, strict=True):
        sums[row] += share * score
    return sums
