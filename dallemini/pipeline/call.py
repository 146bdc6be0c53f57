"""One call that is carried out: tokens are drawn, judged, and become pictures.

Knows a checked request and the parts that do it, not where they come from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..generation.drawing import FREE
from ..generation.loop import half_length
from ..generation.request import Request
from ..generation.slot import Tally
from ..images import image_to_tensor, tensor_to_images
from ..models.transformer import Transformer
from ..safety.checker import SafetyFlag
from .enlarging import ImageUpscaler, enlarge
from .guarding import SafetyCheck, covered
from .judging import Judge, Pruner
from .outputs import GenerationOutput, GenerationStep
from .pixels import ImageTokenizerLike, decode_tokens
from .progress import Meter
from .sketch import Sketch
from .steps import draw, make_step

PIXEL_BATCH = 16  # pictures that are scored together


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Call:
    """One call of a pipeline.

    Attributes:
        request: what is to be drawn.
        sketch: what is there before; None for pictures of the model's own size.
        transformer: draws the tokens.
        vqgan: draws the pixels.
        judge: ranks or chooses; None where nothing does.
        upscaler: makes finished pictures larger; None leaves them as they are.
        safety: says which pictures may be seen.
        meter: is told how far it is.
        about: what the pictures tell of the pipeline.
        tally: counts the passes over the weights of the transformer.
    """

    request: Request
    sketch: Sketch | None
    transformer: Transformer
    vqgan: ImageTokenizerLike
    judge: Judge | None
    upscaler: ImageUpscaler | None
    safety: SafetyCheck
    meter: Meter
    about: dict[str, Any]
    tally: Tally = dataclasses.field(default_factory=Tally)

    def output(self) -> GenerationOutput:
        """Draw everything."""
        drawn: dict[int, Tensor] = {}
        for part, tokens in self._draw(every=None):
            drawn |= zip(part, tokens.cpu(), strict=True)
        return self._complete(drawn, {}, {})

    def steps(self, every: int, *, candidates: bool = True) -> Iterator[GenerationStep]:
        """Look at the pictures every so many tokens; the last look has what `output` returns.

        Args:
            every: tokens between two looks.
            candidates: look at all of them; else at the first for each picture that is kept, and
                no other is decoded before one is chosen.
        """
        drawn: dict[int, Tensor] = {}
        images: dict[int, Any] = {}
        large: dict[int, Any] = {}
        enlarges = self.upscaler is not None and (candidates or self.request.config.candidates == 1)
        for part, tokens in self._draw(every=every):
            seen = [*range(len(part))] if candidates else self._firsts(part)
            shown = [part[index] for index in seen]
            step = self._look(shown, tokens[seen])
            if tokens.shape[1] == step.length and not (tokens == FREE).any():
                drawn |= zip(part, tokens.cpu(), strict=True)
                images |= zip(shown, step.images, strict=True)
                if enlarges:
                    large |= {image: self._enlarge(images[image]) for image in shown}
                    step = dataclasses.replace(step, images=[large[image] for image in shown])
                if self._is_last(part):
                    output = self._complete(drawn, images, large)
                    step = dataclasses.replace(step, output=output)
            yield self._covered(shown, step)

    def _firsts(self, part: Sequence[int]) -> list[int]:
        """Return where in a batch the first candidate is for each picture that is kept."""
        found: dict[int, int] = {}
        for index, image in enumerate(part):
            found.setdefault(image // self.request.config.candidates, index)
        return [*found.values()]

    def look(self, part: Sequence[int], tokens: Tensor) -> GenerationStep:
        """Return a look at some pictures, not yet enlarged, from their tokens so far."""
        return self._covered(part, self._look(part, tokens))

    def _look(self, part: Sequence[int], tokens: Tensor) -> GenerationStep:
        grid = self.transformer.config.grid
        request, sketch = self.request, self.sketch
        return make_step(request, sketch, part, tokens, grid, self._decode, self.about)

    def finish(
        self,
        drawn: Mapping[int, Tensor],
        images: Mapping[int, Any],
        *,
        large: Mapping[int, Any] | None = None,
        scores: Mapping[int, float] | None = None,
    ) -> GenerationOutput:
        """Return pictures, as many of each prompt, enlarged where that is asked for.

        Args:
            drawn: i64[L] of each.
            images: in the order in which they are to come.
            large: those that are enlarged already.
            scores: of each, if there are any.

        Raises:
            SafetyError: one of them is refused.
        """
        known, kept = large or {}, list(images)
        flags = self._flags(kept, images.values())
        self.safety.refuse(flags, [*map(self.request.prompt_of, kept)])
        shown = [known.get(image) or self._enlarge(images[image]) for image in kept]
        return GenerationOutput(
            prompts=self.request.prompts,
            images=[covered(*pair) for pair in zip(shown, flags, strict=True)],
            image_tokens=torch.stack([drawn[image] for image in kept]),
            seeds=tuple(self.request.seeds[image] for image in kept),
            config=self.request.config,
            scores=tuple(scores[image] for image in kept) if scores else None,
            safety_flags=None if self.safety.checker is None else flags,
            tokens_per_pass=self.tally.tokens_per_pass,
            **self.about,
        )

    def _covered(self, part: Sequence[int], step: GenerationStep) -> GenerationStep:
        """Return a look as it may be seen."""
        if self.safety.checker is None:
            return step
        flags = self._flags(part, step.images)
        images = [covered(*pair) for pair in zip(step.images, flags, strict=True)]
        return dataclasses.replace(step, images=images, safety_flags=flags)

    def _flags(
        self, numbers: Sequence[int], images: Iterable[Any]
    ) -> tuple[SafetyFlag | None, ...]:
        """Return what the safety check says of pictures with these numbers."""
        prompts = map(self.request.prompt_of, numbers)
        return tuple(
            self.safety.see(image, prompt=prompt)
            for image, prompt in zip(images, prompts, strict=True)
        )

    def _is_last(self, part: Sequence[int]) -> bool:
        """Tell whether these pictures, without those that were pruned, are the last batch."""
        if self.sketch is not None:
            return part[-1] == len(self.request.seeds) - 1
        return part[0] >= self.request.batches[-1].start

    def _draw(self, *, every: int | None) -> Iterator[tuple[Sequence[int], Tensor]]:
        return draw(
            self.request,
            self.sketch,
            self.transformer,
            self.vqgan.codebook_size,
            every=every,
            meter=self.meter,
            prune=self._pruner() if self.request.has_whole_groups else None,
            tally=self.tally,
        )

    def _pruner(self) -> Pruner | None:
        if self.judge is None or self.sketch is not None or not self.request.prunes:
            return None
        codes = self.vqgan.codebook_size
        return Pruner(self.request, self.judge, self.transformer, codes, self._decode)

    def _complete(
        self, drawn: dict[int, Tensor], known: dict[int, Any], large: dict[int, Any]
    ) -> GenerationOutput:
        """Judge finished pictures; decode and enlarge those that are not known yet."""
        kept = self._remaining(drawn)
        scores: dict[int, float] = {}
        if self.judge is not None and not self.judge.needs_pixels:
            scores = self._score(drawn, kept, None)
            kept = self.request.choose(scores)
        images = dict(known)
        with self.meter.stage("pictures", len(kept)) as told:
            for start in range(0, len(kept), PIXEL_BATCH):
                part = kept[start : start + PIXEL_BATCH]
                for image in part:
                    if image not in images:
                        images[image] = self.picture(image, drawn[image])
                    told(1)
                if self.judge is not None and self.judge.needs_pixels:
                    pixels = torch.stack([image_to_tensor(images[image]) for image in part])
                    scores |= self._score(drawn, part, pixels)
        if self.judge is not None and self.judge.needs_pixels:
            kept = self.request.choose(scores)
        finished = {image: images[image] for image in kept}
        output = self.finish(drawn, finished, large=large, scores=scores)
        flags = output.safety_flags or [None] * len(finished)
        self.safety.warn(flags, [*map(self.request.prompt_of, finished)])
        return output

    def _remaining(self, drawn: dict[int, Tensor]) -> list[int]:
        """Return the images that were not pruned.

        Groups that are larger than a batch were drawn whole, and are pruned now, by the same halves
        as in one batch: no time is saved, but the batch changes no choice.
        """
        images = sorted(drawn)
        pruner = None if self.request.has_whole_groups else self._pruner()
        if pruner is None:
            return images
        config = self.transformer.config
        half = half_length(config.image_length, config.grid[1])
        return pruner(images, torch.stack([drawn[image] for image in images])[:, :half])

    def picture(self, image: int, tokens: Tensor) -> Any:
        """Decode i64[L] to a picture, with the pixels that are kept."""
        picture = tensor_to_images(self._decode(tokens[None]))[0]
        if self.sketch is None:
            return picture
        return self.sketch.keep_pixels(picture, self.request.seeds[image])

    def _score(
        self, drawn: dict[int, Tensor], images: Sequence[int], pixels: Tensor | None
    ) -> dict[int, float]:
        assert self.judge is not None
        tokens = torch.stack([drawn[image] for image in images])
        tiles: Sequence[Any] = [slice(None)]
        if self.sketch is not None and not self.judge.needs_pixels:
            tiles = self.sketch.canvas.tiles()  # of the size that the transformer reads
        each = [self.judge.score(self.request, images, tokens[:, tile], pixels) for tile in tiles]
        means = [sum(found) / len(each) for found in zip(*each, strict=True)]
        return dict(zip(images, means, strict=True))

    def _enlarge(self, picture: Any) -> Any:
        factor = self.request.config.upscale
        if self.upscaler is None or factor is None:
            return picture
        return enlarge(picture, self.upscaler, factor, wraps=self.request.config.tile)

    def _decode(self, tokens: Tensor) -> Tensor:
        """Decode i64[N,L] one by one: in a batch a convolution may round otherwise."""
        grid, sketch = self.transformer.config.grid, self.sketch
        pixels = (
            decode_tokens(self.vqgan, one, grid)
            if sketch is None
            else sketch.decode(self.vqgan, one)
            for one in tokens.split(1)
        )
        return torch.cat([one.cpu() for one in pixels]).clamp(0, 1)
