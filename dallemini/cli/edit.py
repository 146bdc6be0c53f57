"""`dallemini edit` and `dallemini extend`: a picture and prompts in, PNG files out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..generation.blend import Prompt
from .calling import Call
from .options import OptionalFloat, OptionalInt, OptionalPath
from .prompts import check_words
from .words import UsageError, checking_usage

if TYPE_CHECKING:
    from ..pipeline.outputs import GenerationOutput
    from ..pipeline.pipeline import Pipeline

_Prompts = Annotated[
    tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PROMPT [PROMPT ...]")
]
_Picture = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PICTURE")]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Redraw a part of a picture: where a mask is white, a share of it, or all below some rows.

    Attributes:
        picture: file of the picture; its shorter side becomes the model's.
        prompts: one or more, each in quotes: what the whole picture shows.
        mask: file of a picture of the same size, white where it is redrawn.
        strength: redraw this share of the picture, above 0 and at most 1, in regions that the seed
            chooses.
        rows: keep so many rows of tokens at the top, and draw the rest.
        paste: keep the picture's own pixels outside what is redrawn.
        call: how it is drawn on.
    """

    picture: _Picture
    prompts: _Prompts
    mask: OptionalPath = None
    strength: OptionalFloat = None
    rows: OptionalInt = None
    paste: bool = True
    call: Call

    def run(self) -> None:
        """Draw, save, and print the path of every file.

        Raises:
            DalleMiniError: an option, a picture, the model or a folder is no good.
        """
        if [self.mask, self.strength, self.rows].count(None) != 2:
            raise UsageError(
                "Say what is to be redrawn by one of --mask FILE, --strength SHARE and --rows N."
            )
        if self.strength is not None and not 0 < self.strength <= 1:
            raise UsageError(f"--strength is above 0 and at most 1, not {self.strength:g}.")
        _run(self, self._draw)

    def _draw(
        self, pipe: Pipeline, prompts: Sequence[Prompt], settings: dict[str, Any]
    ) -> GenerationOutput:
        if self.mask is not None:
            return pipe.inpaint(prompts, self.picture, self.mask, paste=self.paste, **settings)
        if self.strength is not None:
            return pipe.vary(
                self.picture, prompts, strength=self.strength, paste=self.paste, **settings
            )
        start: Any = {"start_image": self.picture, "rows": self.rows, "paste": self.paste}
        return pipe(prompts, **start, **settings)


@dataclass(frozen=True, kw_only=True)
class Extend:
    """Go on beyond the edges of a picture.

    Attributes:
        picture: file of the picture; its shorter side becomes the model's.
        prompts: one or more, each in quotes: what the larger picture shows.
        left: pixels that are added on this side, a multiple of a token's: 32 of the
            bundled model, 16 of mini and mega.
        right: likewise.
        top: likewise.
        bottom: likewise.
        paste: keep the picture's own pixels.
        call: how it is drawn on.
    """

    picture: _Picture
    prompts: _Prompts
    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0
    paste: bool = True
    call: Call

    def run(self) -> None:
        """Draw, save, and print the path of every file.

        Raises:
            DalleMiniError: an option, the picture, the model or a folder is no good.
        """
        if not (self.left or self.right or self.top or self.bottom):
            raise UsageError("Say how many pixels to add, by --left, --right, --top and --bottom.")
        _run(self, self._draw)

    def _draw(
        self, pipe: Pipeline, prompts: Sequence[Prompt], settings: dict[str, Any]
    ) -> GenerationOutput:
        return pipe.outpaint(
            self.picture,
            prompts,
            left=self.left,
            right=self.right,
            top=self.top,
            bottom=self.bottom,
            paste=self.paste,
            **settings,
        )


def _run(
    command: Edit | Extend,
    draw: Callable[[Pipeline, Sequence[Prompt], dict[str, Any]], GenerationOutput],
) -> None:
    """Check what can be checked, load the model, draw, save, and print the paths."""
    call = command.call
    with checking_usage():
        words = f"dallemini {_name(command)} {command.picture}"
        check_words(command.prompts, words, mixed=call.blend is not None)
        prompts, settings = call.mix(command.prompts), call.check()
        watermark, signer = call.marks.watermark(), call.marks.signer()
        checker = call.safety.checker()
    from ..images import open_image  # here, because torch takes seconds

    open_image(command.picture)  # before the model is loaded
    with call.saving(signer) as saving:
        pipe = call.load(checker)
        saving.add(draw(pipe, prompts, {**settings, "watermark": watermark}))


def _name(command: Edit | Extend) -> str:
    return type(command).__name__.lower()
