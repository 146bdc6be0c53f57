"""Draws what a form asks for, one wish at a time, with looks on the way.

Knows the pipeline and files; neither pages nor sessions.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import DalleMiniWarning, InputError
from ..generation.watermark import Watermark
from ..pipeline.edits import Edit, Inpaint, Outpaint, Vary, begin
from ..pipeline.outputs import GenerationOutput, GenerationStep
from ..pipeline.pipeline import Pipeline
from ..pipeline.pixels import token_size
from ..pipeline.progress import Callback, Meter
from ..pipeline.signing import C2PASigner
from .limits import AppLimits
from .sessions import Drawn
from .watching import watch
from .wish import Wish

if TYPE_CHECKING:
    import PIL.Image

_LOOKS = 6  # on the way to a finished picture; each costs decoding those that are shown
_MANY = 12  # pictures, from which on fewer looks are taken
_FEWER_LOOKS = 4

Work = Callable[[Callback], Iterable[GenerationStep]]  # is given what to tell how far it is


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """Pictures on the way, or finished.

    Attributes:
        wish: what is drawn, with its seed.
        share: of the work that is done.
        previews: pictures that are not finished, by their seeds, one candidate for each that is
            kept; none where they are as before.
        drawn: those that are finished and saved.
        notes: what the library warns of.
        seconds: since the beginning.
    """

    wish: Wish
    share: float
    previews: Mapping[int, PIL.Image.Image] = field(default_factory=dict)
    drawn: tuple[Drawn, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


class Studio:
    """Draws with one pipeline, in any number of threads.

    Args:
        pipe: draws.
        folder: where pictures are saved; whoever drops them deletes them.
        limits: what is refused.
        watermark: a key whose mark all pictures get.
        c2pa: signs the files of all pictures.
    """

    def __init__(
        self,
        pipe: Pipeline,
        folder: Path,
        limits: AppLimits | None = None,
        *,
        watermark: Watermark | None = None,
        c2pa: C2PASigner | None = None,
    ) -> None:
        self.pipe, self.limits = pipe, limits or AppLimits()
        self.watermark, self.c2pa = watermark, c2pa
        self._folder = folder

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the model's own pictures."""
        return self._grid[1] * self.unit, self._grid[0] * self.unit

    @cached_property
    def unit(self) -> int:
        """Pixels along each side of a token."""
        with torch.no_grad():
            return token_size(self.pipe.vqgan, self._grid)

    @property
    def _grid(self) -> tuple[int, int]:
        return self.pipe.transformer.config.grid

    def draw(self, wish: Wish) -> Iterator[Look]:
        """Draw pictures of a prompt; drop the iterator to cancel.

        Raises:
            DalleMiniError: the wish is beyond the limits or no good.
        """
        wish = wish.check(self.limits)
        return self._run(wish, self._work(wish, None))

    def redraw(self, wish: Wish, image: Any, mask_image: Any) -> Iterator[Look]:
        """Redraw the white part of a mask; drop the iterator to cancel.

        Raises:
            DalleMiniError: the wish is beyond the limits, or the picture or the mask no good.
        """
        return self._edit(wish, Inpaint(image, mask_image))

    def vary(self, wish: Wish, image: Any, strength: float) -> Iterator[Look]:
        """Redraw a share of a picture; drop the iterator to cancel.

        Raises:
            DalleMiniError: the wish is beyond the limits, or the picture or the share no good.
        """
        return self._edit(wish, Vary(image, strength=strength))

    def extend(self, wish: Wish, image: Any, around: Mapping[str, int]) -> Iterator[Look]:
        """Go on beyond the edges of a picture; drop the iterator to cancel.

        Args:
            wish: what the larger picture shows.
            image: the picture.
            around: pixels that are added on each side: left, right, top, bottom.

        Raises:
            DalleMiniError: the wish is beyond the limits, or the picture or a number no good.
        """
        most = max(self.size)
        if not all(0 <= pixels <= most for pixels in around.values()):
            raise InputError(f"A side grows by 0 to {most} pixels in one go.")
        return self._edit(wish, Outpaint(image, **dict[str, Any](around)))

    def _edit(self, wish: Wish, edit: Edit) -> Iterator[Look]:
        wish = replace(wish, shape="square").check(self.limits)
        return self._run(wish, self._work(wish, edit))

    def _work(self, wish: Wish, edit: Edit | None) -> Work:
        """Return what draws a wish, looking at one candidate for each picture that is kept."""
        settings = wish.overrides(self.size)
        looks = _LOOKS if wish.number < _MANY else _FEWER_LOOKS
        every = -(-self.pipe.transformer.config.image_length // looks)

        def work(tell: Callback) -> Iterator[GenerationStep]:
            call = self.pipe._edit(
                wish.prompt,
                lambda sketcher: begin(sketcher, edit, None, None, paste=True),
                settings,
                watermark=self.watermark,
                meter=Meter(False, tell),
            )
            return call.steps(every, candidates=False)

        return work

    def _run(self, wish: Wish, work: Work) -> Iterator[Look]:
        """Look at some work, which tells how far it is."""
        start, shown = time.monotonic(), dict[int, tuple[int, Any]]()
        about: Any = {"wish": wish, "notes": self._warnings(wish)}
        for share, step in watch(work):
            about["seconds"] = time.monotonic() - start
            if step is None:
                yield Look(share=share, **about)
            elif step.output is not None:
                yield Look(share=1.0, drawn=self._save(step.output, wish), **about)
            else:
                for seed, image in zip(step.seeds, step.images, strict=True):
                    place = (seed - (wish.seed or 0)) // wish.candidates
                    if step.config.prune or shown.get(place, (seed,))[0] == seed:
                        shown[place] = (seed, image)
                yield Look(share=share, previews=dict(shown.values()), **about)

    def _warnings(self, wish: Wish) -> tuple[str, ...]:
        """Return what the tokenizer warns of; collecting it is, as `warnings` work, global."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DalleMiniWarning)
            self.pipe.tokenizer(wish.prompt)
        told = [str(w.message) for w in caught if issubclass(w.category, DalleMiniWarning)]
        return tuple(told)

    def _save(self, output: GenerationOutput, wish: Wish) -> tuple[Drawn, ...]:
        paths = output.save(self._folder, c2pa=self.c2pa)
        scores = output.scores or [None] * len(paths)
        flags = output.safety_flags or [None] * len(paths)
        return tuple(
            Drawn(path=path, wish=replace(wish, seed=seed), score=score, flag=str(flag or ""))
            for path, seed, score, flag in zip(paths, output.seeds, scores, flags, strict=True)
        )
