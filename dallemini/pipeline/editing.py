"""What people do with a picture that is there: redraw it or a part, vary it, go beyond its edges.

The methods of `Pipeline` that begin with a picture. A token that is known is not drawn; `sketch`
says which are, and `generation.canvas` draws the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Unpack

from ..generation import GenerationConfig, GenerationOverrides, Sampler
from ..generation.blend import Prompt
from ..generation.request import Request
from ..generation.watermark import Watermark
from ..images import Picture
from .call import Call
from .edits import Inpaint, Outpaint, Vary
from .metadata import read_metadata
from .outputs import GenerationOutput
from .progress import Callback, Meter
from .redrawing import check_redrawing, warn_of_differences
from .sketch import Sketch, Sketcher


class _Artist(Protocol):
    """What `Editing` asks of the pipeline that it is a part of."""

    def _request(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampler: Sampler | None,
        overrides: GenerationOverrides,
        watermark: Watermark | None = None,
    ) -> Request: ...

    def _sketcher(self, config: GenerationConfig) -> Sketcher: ...

    def _call(
        self,
        request: Request,
        sketch: Sketch | None,
        sampler: Sampler | None,
        meter: Meter,
        *,
        upscaler: str | None = None,
    ) -> Call: ...

    def _edit(
        self,
        prompts: Prompt | Sequence[Prompt],
        sketch: Callable[[Sketcher], Sketch | None],
        overrides: GenerationOverrides,
        *,
        sampler: Sampler | None = None,
        watermark: Watermark | None = None,
        meter: Meter,
        upscaler: str | None = None,
    ) -> Call: ...


class Editing:
    """The part of `Pipeline` that draws on pictures.

    A picture is given by its path, its content, an open file, as a PIL image, or as numbers, as
    `images.open_image` takes them. It is turned upright and fitted: scaled until its shorter side
    is the model's and the other one a multiple of a token's pixels, what is over being cut off
    evenly; `width` and `height` ask for another size. It is encoded once.
    """

    def inpaint(
        self: _Artist,
        prompts: Prompt | Sequence[Prompt],
        image: Picture,
        mask_image: Picture,
        *,
        paste: bool = True,
        sampler: Sampler | None = None,
        watermark: Watermark | None = None,
        progress: bool | None = None,
        callback: Callback | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> GenerationOutput:
        """Redraw a part of a picture.

        Every token that the white part touches is drawn; the others are kept. The model draws row
        by row: `lookahead` lets it see what is kept right of the hole and below.

        Args:
            prompts: what the whole picture shows; one prompt or several.
            image: the picture.
            mask_image: white (from the middle of gray on) where it is redrawn, black where not, of
                the picture's size; with transparent parts it is refused, since they could mean
                either.
            paste: keep the picture's own pixels outside the white part, to the last bit; what is
                drawn fades in over a quarter of a token. False shows the decoded picture.
            sampler: chooses the tokens, instead of the settings.
            watermark: a key whose mark the tokens that are drawn get.
            progress: show a bar; None shows it on a terminal and in a notebook.
            callback: as in a call.
            **overrides: fields of `GenerationConfig` for this call.

        Raises:
            InputError: the picture or the mask cannot be used, the mask has another size, or it
                leaves nothing to draw or nothing to keep; and as in a call.
            ConfigError: as in a call.
            InputTypeError: as in a call; or what is given as a picture is none.
            UnsupportedOperationError: the VQGAN has no encoder.

        Example:
            >>> from PIL import Image
            >>> from dallemini.testing import tiny_pipeline
            >>> picture, mask = Image.new("RGB", (16, 16), "red"), Image.new("L", (16, 16))
            >>> mask.paste(255, (4, 4, 12, 12))
            >>> out = tiny_pipeline().inpaint("a blue bird", picture, mask, seed=0)
            >>> out.images[0].getpixel((0, 0)), out.edit["operation"]
            ((255, 0, 0), 'inpaint')
        """
        return self._edit(
            prompts,
            Inpaint(image, mask_image, paste=paste)._sketch,
            overrides,
            sampler=sampler,
            watermark=watermark,
            meter=Meter(progress, callback),
        ).output()

    def vary(
        self: _Artist,
        image: Picture,
        prompts: Prompt | Sequence[Prompt],
        *,
        strength: float = 0.5,
        paste: bool = True,
        sampler: Sampler | None = None,
        watermark: Watermark | None = None,
        progress: bool | None = None,
        callback: Callback | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> GenerationOutput:
        """Redraw some regions of a picture, each seed its own.

        Args:
            image: the picture.
            prompts: what it shows; one prompt or several.
            strength: share of the tokens that is redrawn, above 0 and at most 1.
            paste: as in `inpaint`.
            sampler: chooses the tokens, instead of the settings.
            watermark: a key whose mark the tokens that are drawn get.
            progress: show a bar; None shows it on a terminal and in a notebook.
            callback: as in a call.
            **overrides: fields of `GenerationConfig` for this call.

        Raises:
            InputError: the picture cannot be used, or `strength` is out of range; and as in a call.
            ConfigError: as in a call.
            InputTypeError: as in a call; or what is given as a picture is none.
            UnsupportedOperationError: the VQGAN has no encoder.
        """
        return self._edit(
            prompts,
            Vary(image, strength=strength, paste=paste)._sketch,
            overrides,
            sampler=sampler,
            watermark=watermark,
            meter=Meter(progress, callback),
        ).output()

    def outpaint(
        self: _Artist,
        image: Picture,
        prompts: Prompt | Sequence[Prompt],
        *,
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        paste: bool = True,
        sampler: Sampler | None = None,
        watermark: Watermark | None = None,
        progress: bool | None = None,
        callback: Callback | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> GenerationOutput:
        """Go on beyond the edges of a picture.

        The picture is fitted first; then the pixels are added, in windows of the model's size that
        lie half over what is there already.

        Args:
            image: the picture.
            prompts: what the larger picture shows; one prompt or several.
            left: pixels that are added on this side, a multiple of a token's.
            right: likewise.
            top: likewise.
            bottom: likewise.
            paste: as in `inpaint`.
            sampler: chooses the tokens, instead of the settings.
            watermark: a key whose mark the tokens that are drawn get.
            progress: show a bar; None shows it on a terminal and in a notebook.
            callback: as in a call.
            **overrides: fields of `GenerationConfig` for this call; `width` and `height` are those
                of the picture before it grows.

        Raises:
            InputError: the picture cannot be used, or no side is given, or the numbers are not
                multiples of a token's pixels; and as in a call.
            ConfigError: as in a call.
            InputTypeError: as in a call; or what is given as a picture is none.
            UnsupportedOperationError: the VQGAN has no encoder.
        """
        edit = Outpaint(image, left=left, right=right, top=top, bottom=bottom, paste=paste)
        return self._edit(
            prompts,
            edit._sketch,
            overrides,
            sampler=sampler,
            watermark=watermark,
            meter=Meter(progress, callback),
        ).output()

    def redraw(
        self: _Artist,
        picture: str | os.PathLike[str],
        *,
        image: Picture | None = None,
        mask_image: Picture | None = None,
        sampler: Sampler | None = None,
        watermark: Watermark | None = None,
        progress: bool | None = None,
        callback: Callback | None = None,
        **overrides: Unpack[GenerationOverrides],
    ) -> GenerationOutput:
        """Draw again what the file of a picture, or of a grid, says.

        Where this pipeline has other weights, adapters, another upscaler or dtype than the one that
        drew the picture, a `DalleMiniWarning` says so. A pipeline without an upscaler takes the
        packaged one that the file names.

        Args:
            picture: the path of a file that `save` or `save_grid` wrote.
            image: the picture that it was drawn from, if it is an edit: the same pixels.
            mask_image: the mask that it was drawn with, if there was one; likewise.
            sampler: the one that the picture was drawn with, if it was your own.
            watermark: the one that it was drawn with, if there was one.
            progress: show a bar; None shows it on a terminal and in a notebook.
            callback: as in a call.
            **overrides: fields of `GenerationConfig` that are to be others than in the file.

        Raises:
            MissingFileError: there is no such file.
            InputError: it does not say how it was drawn; or it was drawn from another picture, by
                a sampler of your own, a watermark or a function of guidance that is not given; or
                other pictures are given than it was drawn from.
            ConfigError: an unknown keyword or a setting out of range.
        """
        told = read_metadata(picture)
        name = os.fspath(picture)
        given = {"image": image, "mask_image": mask_image, "sampler": sampler}
        guidance = overrides.get("guidance_scale")
        check_redrawing(told, name, {**given, "watermark": watermark, "guidance_scale": guidance})
        settings: Any = {**told.config.to_dict(), **overrides}
        call = self._edit(
            told.prompts,
            lambda sketcher: sketcher.repeat(told.edit, image, mask_image),
            settings,
            sampler=sampler,
            watermark=watermark,
            meter=Meter(progress, callback),
            upscaler=told.upscaler,
        )
        warn_of_differences(told, call.about, name=name)
        return call.output()

    def _edit(
        self: _Artist,
        prompts: Prompt | Sequence[Prompt],
        sketch: Callable[[Sketcher], Sketch | None],
        overrides: GenerationOverrides,
        *,
        sampler: Sampler | None = None,
        watermark: Watermark | None = None,
        meter: Meter,
        upscaler: str | None = None,
    ) -> Call:
        """Return an edit that is checked and not yet drawn; `sketch` says what is kept."""
        request = self._request(prompts, sampler, overrides, watermark)
        begun = sketch(self._sketcher(request.config))
        return self._call(request, begun, sampler, meter, upscaler=upscaler)
