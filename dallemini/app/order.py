"""What the pipeline does for one request of the service: check it, show it, finish its pictures.

Knows the pipeline from inside: its calls, cut where the batcher draws the tokens. All finished
pictures pass through `Order.finish`, which is the place for what is to be done with each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self, Unpack

from torch import Tensor

from ..generation import GenerationOverrides, Sampler
from ..generation.canvas import Canvas, CanvasPicture
from ..generation.drawing import FREE
from ..generation.request import Request
from ..generation.watermark import Watermark
from ..images import Picture
from ..pipeline.call import Call
from ..pipeline.outputs import GenerationOutput, GenerationStep
from ..pipeline.pipeline import Pipeline
from ..pipeline.progress import Meter
from ..pipeline.sketch import Sketch


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """The pictures of one prompt; a `Work` of the batcher.

    Attributes:
        pipe: draws them.
        request: what is drawn, checked.
        sketch: what is there before it is drawn; None for nothing.
        sampler: your own one, if the batcher has one.
    """

    pipe: Pipeline
    request: Request
    sketch: Sketch | None = None
    sampler: Sampler | None = None

    @classmethod
    def of(
        cls,
        pipe: Pipeline,
        prompt: str,
        *,
        sampler: Sampler | None = None,
        watermark: Watermark | None = None,
        **settings: Unpack[GenerationOverrides],
    ) -> Self:
        """Check what is asked for: pictures of a prompt.

        Args:
            pipe: draws it.
            prompt: of the pictures.
            sampler: your own one, if the batcher has one.
            watermark: whose mark the batcher's sampler gives.
            **settings: fields of `GenerationConfig`. Ranking and candidates play no part, and the
                settings of sampling should be the pipeline's, since all are drawn together.

        Raises:
            DalleMiniError: as the pipeline itself.
        """
        alone: GenerationOverrides = {"rank": False, "candidates": 1, "batch_size": None}
        request = pipe._request(prompt, sampler, {**settings, **alone}, watermark)
        sketch = pipe._sketcher(request.config).begin(None, None)
        return cls(pipe=pipe, request=request, sketch=sketch, sampler=sampler)

    @classmethod
    def inpaint(
        cls,
        pipe: Pipeline,
        prompt: str,
        image: Picture,
        mask_image: Picture,
        *,
        sampler: Sampler | None = None,
        watermark: Watermark | None = None,
        **settings: Unpack[GenerationOverrides],
    ) -> Self:
        """Check what is asked for: a part of a picture redrawn, as `Pipeline.inpaint` does.

        Raises:
            DalleMiniError: as the pipeline itself.
        """
        plain = cls.of(pipe, prompt, sampler=sampler, watermark=watermark, **settings)
        sketcher = pipe._sketcher(plain.request.config)
        return replace(plain, sketch=sketcher.inpaint(image, mask_image, paste=True))

    @classmethod
    def vary(
        cls,
        pipe: Pipeline,
        image: Picture,
        prompt: str,
        strength: float,
        *,
        sampler: Sampler | None = None,
        watermark: Watermark | None = None,
        **settings: Unpack[GenerationOverrides],
    ) -> Self:
        """Check what is asked for: regions of a picture redrawn, as `Pipeline.vary` does.

        Raises:
            DalleMiniError: as the pipeline itself.
        """
        plain = cls.of(pipe, prompt, sampler=sampler, watermark=watermark, **settings)
        sketcher = pipe._sketcher(plain.request.config)
        return replace(plain, sketch=sketcher.vary(image, strength, paste=True))

    @cached_property
    def pictures(self) -> list[CanvasPicture]:
        """All of them, to be drawn once."""
        request, sketch = self.request, self.sketch
        grid = self.pipe.transformer.config.grid
        canvas = Canvas(height=grid[0], width=grid[1], side=grid)
        canvas = canvas if sketch is None else sketch.canvas
        drawings = request.drawings
        if sketch is not None:
            drawings = tuple(sketch.draw_on(drawing) for drawing in drawings)
        lookahead = request.config.lookahead
        return [CanvasPicture(drawing, canvas, lookahead=lookahead) for drawing in drawings]

    def look(self, number: int, tokens: Tensor) -> GenerationStep:
        """Return a look at picture `number` from its tokens i64[P], -1 where there is none yet."""
        seen = tokens if self.sketch is not None else tokens[: int((tokens != FREE).sum())]
        return self.call.look([number], seen[None])

    def finish(self, number: int, tokens: Tensor) -> GenerationOutput:
        """Return picture `number`, alone, from its tokens i64[P]."""
        image = self.call.picture(number, tokens)
        return self.call.finish({number: tokens}, {number: image})

    @cached_property
    def call(self) -> Call:
        """The pipeline's call.

        Raises:
            SafetyError: the safety checker refuses the prompt.
        """
        return self.pipe._call(self.request, self.sketch, self.sampler, Meter(False))
