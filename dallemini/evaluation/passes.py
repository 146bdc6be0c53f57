"""The two passes of an evaluation: over the captions' own pictures, and over the drawn ones.

Each takes batches, keeps features and figures instead of pictures (but a few to show), and gives
its measures at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..pipeline.parts import read_scores
from ..pipeline.pipeline import Pipeline
from ..pipeline.pixels import decode_tokens, encode_pictures
from ..scorer import Scorer
from .features import FeatureSpace, embed
from .metrics import (
    Retrieval,
    codebook_use,
    frechet_distance,
    mean_interval,
    psnr,
    retrieval,
    token_nats,
)
from .reading import Asked
from .report import DrawnFigures, LikelihoodFigures, ReconstructionFigures


@dataclass(frozen=True, kw_only=True)
class Judges:
    """What looks at pictures: a feature space, a scorer, and which measures are wanted of them.

    Attributes:
        space: for distances; None where none is measured.
        scorer: for scores and for the best of several; None without one.
        measure: names of the measures that can be made.
        seed: of galleries and intervals.
    """

    space: FeatureSpace | None
    scorer: Scorer | None
    measure: frozenset[str]
    seed: int

    def features(self, images: Tensor) -> Tensor:
        """Return f32[N,E], or f32[N,0] without a space."""
        if self.space is None:
            return torch.empty(len(images), 0, dtype=torch.float32, device="cpu")
        return embed(self.space, images)

    def scores(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Return f32[N] of images f[N,3,H,W] and their captions, zeros without a scorer.

        Raises:
            InputError: the scorer gave something else.
        """
        if self.scorer is None:
            return torch.zeros(len(images), dtype=torch.float32, device="cpu")
        return torch.tensor(
            read_scores(self.scorer.score(images, captions), len(images)),
            dtype=torch.float32,
            device="cpu",
        )


@dataclass(frozen=True, kw_only=True)
class RealPictures:
    """What drawn pictures are compared with: real ones, and the rivals of each caption.

    Attributes:
        features: f32[R,E], those of the captions' own pictures first.
        captions: how many of them are the captions' own.
        galleries: for each caption the rows of its own picture and of its rivals.
        measure: names of the measures that can be made.
    """

    features: Tensor
    captions: int
    galleries: list[Tensor]
    measure: frozenset[str]

    def frechet(self, features: Tensor) -> float | None:
        """Return the distance of f32[N,E] to the captions' own, where it is wanted."""
        if "frechet" not in self.measure:
            return None
        return frechet_distance(self.features[: self.captions], features)

    def frechet_of_others(self) -> float | None:
        """Return the distance of as many other real pictures, where they were read."""
        others = self.features[self.captions : 2 * self.captions]
        return self.frechet(others) if len(others) == self.captions else None

    def retrieval(self, features: Tensor) -> Retrieval | None:
        """Return the retrieval figures of f32[N,E], one row a caption, where they are wanted."""
        if "retrieval" not in self.measure:
            return None
        return retrieval(features, self.features, self.galleries)


@dataclass
class OwnPass:
    """Goes over the captions' own pictures, then over further ones for reference.

    Attributes:
        pipe: whose image tokenizer and transformer are measured.
        judges: what looks at the pictures.
        captions: how many of the first records are measured; the others are for reference.
    """

    pipe: Pipeline
    judges: Judges
    captions: int
    _seen: int = field(default=0, init=False)
    _tokens: list[Tensor] = field(default_factory=list, init=False)
    _found: dict[str, list[Tensor]] = field(default_factory=dict, init=False)

    def add(self, batch: Sequence[Asked]) -> Tensor | None:
        """Measure pictures; return the reconstructions f[n,3,H,W] of those that are measured."""
        pictures = [asked.image for asked in batch if asked.image is not None]
        if not pictures:
            return None
        images = torch.stack(pictures)
        self._keep("real", self.judges.features(images))
        own = max(0, min(self.captions - self._seen, len(batch)))
        self._seen += len(batch)
        if not own:
            return None
        texts = [asked.caption for asked in batch[:own]]
        if "clip_score" in self.judges.measure:
            self._keep("score", self.judges.scores(images[:own], texts))
        if not self.judges.measure & {"reconstruction", "likelihood"}:
            return None
        vqgan = self.pipe.vqgan
        tokens = encode_pictures(vqgan, images[:own].to(vqgan.device))
        if "likelihood" in self.judges.measure:
            self._foretell(texts, tokens)
        return self._rebuild(images[:own], tokens)

    @property
    def features(self) -> Tensor:
        """f32[R,E] of every picture."""
        return torch.cat(
            self._found.get("real", [torch.empty(0, 0, dtype=torch.float32, device="cpu")])
        )

    @property
    def scores(self) -> Tensor | None:
        """f32[N] of the measured pictures; None where they were not wanted."""
        return torch.cat(self._found["score"]) if "score" in self._found else None

    def reconstruction(self, real: RealPictures) -> ReconstructionFigures | None:
        """Return the image tokenizer's figures."""
        if "psnr" not in self._found:
            return None
        features = torch.cat(self._found["rebuilt"])
        return ReconstructionFigures(
            psnr=mean_interval(torch.cat(self._found["psnr"]), seed=self.judges.seed),
            codebook=codebook_use(
                torch.cat(self._tokens), codebook_size=self.pipe.vqgan.codebook_size
            ),
            frechet=real.frechet(features),
            retrieval=real.retrieval(features),
        )

    def likelihood(self) -> LikelihoodFigures | None:
        """Return the transformer's figures."""
        if "captioned" not in self._found:
            return None
        captioned, blank = (torch.cat(self._found[name]) for name in ("captioned", "blank"))
        intervals = [
            mean_interval(values, seed=self.judges.seed)
            for values in (captioned, blank, blank - captioned)
        ]
        return LikelihoodFigures(captioned=intervals[0], blank=intervals[1], text_gap=intervals[2])

    def _rebuild(self, images: Tensor, tokens: Tensor) -> Tensor | None:
        if "reconstruction" not in self.judges.measure:
            return None
        self._tokens.append(tokens.cpu())
        grid = self.pipe.transformer.config.grid
        rebuilt = decode_tokens(self.pipe.vqgan, tokens, grid).float().cpu().clamp(0, 1)
        self._keep("psnr", psnr(images, rebuilt))
        self._keep("rebuilt", self.judges.features(rebuilt))
        return rebuilt

    def _foretell(self, texts: Sequence[str], tokens: Tensor) -> None:
        pipe, tokens = self.pipe, tokens.to(self.pipe.transformer.device)
        prompts = {
            "captioned": pipe.tokenizer(texts),
            "blank": pipe.tokenizer.unconditional(len(texts)),
        }
        for name, prompt in prompts.items():
            logits = pipe.transformer(prompt, tokens)
            self._keep(name, token_nats(logits, tokens).cpu())

    def _keep(self, name: str, values: Tensor) -> None:
        self._found.setdefault(name, []).append(values)


@dataclass
class DrawnPass:
    """Goes over drawn pictures, several a caption.

    Attributes:
        judges: what looks at the pictures.
    """

    judges: Judges
    _first: list[Tensor] = field(default_factory=list, init=False)
    _best: list[Tensor] = field(default_factory=list, init=False)
    _scores: list[Tensor] = field(default_factory=list, init=False)

    def add(self, captions: Sequence[str], images: Tensor) -> list[int]:
        """Judge f[B,n,3,H,W], the pictures of B captions by seed; return the best of each."""
        each = images.shape[1]
        repeated = [caption for caption in captions for _ in range(each)]
        scores = self.judges.scores(images.flatten(0, 1), repeated).view(-1, each)
        best = scores.argmax(dim=1)
        self._scores.append(scores)
        self._first.append(self.judges.features(images[:, 0]))
        if each > 1:
            chosen = images[torch.arange(len(images), dtype=torch.int64, device="cpu"), best]
            self._best.append(self.judges.features(chosen))
        return best.tolist()

    def figures(self, real: RealPictures) -> tuple[DrawnFigures, ...]:
        """Return the figures of each caption's first picture, and of its best among several."""
        scores = torch.cat(self._scores)
        found = [self._figures("first seed", torch.cat(self._first), scores[:, 0], real)]
        if self._best:
            name = f"best of {scores.shape[1]}"
            found.append(self._figures(name, torch.cat(self._best), scores.amax(dim=1), real))
        return tuple(found)

    def _figures(
        self, selection: str, features: Tensor, scores: Tensor, real: RealPictures
    ) -> DrawnFigures:
        scored = "clip_score" in self.judges.measure
        return DrawnFigures(
            selection=selection,
            count=len(features),
            frechet=real.frechet(features),
            retrieval=real.retrieval(features),
            score=mean_interval(scores, seed=self.judges.seed) if scored else None,
        )


def galleries(asked: Sequence[Asked], *, captions: int, size: int, seed: int) -> list[Tensor]:
    """Choose the real pictures among which each caption's own must be found.

    Args:
        asked: every picture that was read.
        captions: how many of the first get a gallery.
        size: pictures in a gallery, fewer where there are not so many.
        seed: of the choice.

    Returns:
        For each caption i64[M] rows, its own first; the others are of its group and have no caption
        in common with its picture.
    """
    generator, chosen = torch.Generator().manual_seed(seed), []
    for own, record in enumerate(asked[:captions]):
        rows = [own]
        for other in torch.randperm(
            len(asked), generator=generator, dtype=torch.int64, device="cpu"
        ).tolist():
            if len(rows) == size:
                break
            rival = asked[other]
            same = other == own or not record.captions.isdisjoint(rival.captions)
            if not same and rival.group == record.group:
                rows.append(other)
        chosen.append(torch.tensor(rows, dtype=torch.int64, device="cpu"))
    return chosen
