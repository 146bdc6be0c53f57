"""Pictures made larger by an upscaler: the one here, or any object with `scale` and `upscale`.

Holds what a pipeline asks of an upscaler, and the way of a picture through it. Knows no network.
PIL is imported inside the functions that need it, because importing this library must be quick.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

from ..config import plain_number
from ..errors import InputError, InputTypeError
from ..files import PathName, as_path, make_folder, numbered, write_beside
from ..foreign import show
from ..hub.packaged import DEFAULT_UPSCALER
from ..images import MAX_PIXELS, image_to_tensor, open_image, tensor_to_images
from ..sheets import png_bytes, texts_of
from .digests import upscaler_digest
from .origin import stamp

if TYPE_CHECKING:
    import PIL.Image

_REDRAWING = {"prompt", "seed", "config"}  # chunks without which a picture cannot be drawn again
_CARRIED = (
    *(*_REDRAWING, "blend", "model", "version", "weights", "dtype", "commit", "adapters"),
    *("sampler", "guidance", "watermark", "edit", "safety", "score"),
)
_AROUND = (
    32  # pixels of the opposite edge that an upscaler sees which does not say how many it needs
)
_BLEED = 8  # pixels over which colours spread into what is transparent


class ImageUpscaler(Protocol):
    """What the pipeline asks of a part that makes pictures larger; `Upscaler` is one."""

    @property
    def scale(self) -> int:
        """How many times larger a picture becomes along each side."""

    def upscale(self, images: Tensor) -> Tensor:
        """Map f[N,3,H,W] in [0, 1] to f[N,3,sH,sW] in [0, 1]."""


def check_upscaler(upscaler: object) -> None:
    """Look whether an object is an upscaler.

    Raises:
        InputTypeError: it is not; the message says what it lacks.
    """
    if isinstance(upscaler, type):
        raise InputTypeError(
            f"upscaler is the class {upscaler.__name__} itself; pass a loaded one, such as "
            f"Upscaler.from_pretrained({DEFAULT_UPSCALER!r})."
        )
    if lacking := [name for name in ("scale", "upscale") if not hasattr(upscaler, name)]:
        raise InputTypeError(
            f"upscaler must be an Upscaler or have its members `scale` and `upscale`; "
            f"{type(upscaler).__name__} lacks {' and '.join(lacking)}."
        )


def check_factor(upscaler: ImageUpscaler, factor: int) -> None:
    """Look whether pictures can be made so many times larger.

    Raises:
        InputError: they cannot; the message names the factors that can be had.
        InputTypeError: the upscaler's own factor is not a whole number.
    """
    scale = plain_number(upscaler.scale)
    if isinstance(scale, bool) or not isinstance(scale, int):
        raise InputTypeError(
            f"scale of a {type(upscaler).__name__} must be a whole number, not {show(scale)}."
        )
    if not 2 <= factor <= scale:
        own = ", ".join(map(str, range(2, min(scale, 16) + 1)))
        raise InputError(
            f"{upscaler_name(upscaler)} cannot make pictures {show(factor)} times larger, only "
            f"{own} times; choose one of these, or another upscaler."
            if scale >= 2
            else f"{upscaler_name(upscaler)} has the factor {scale} and enlarges nothing; choose "
            "another upscaler."
        )


def upscaler_name(upscaler: object) -> str:
    """Return what pictures record: the upscaler's name, or that of its class."""
    name = getattr(upscaler, "name", None)
    return name if isinstance(name, str) and name else type(upscaler).__name__


def enlarge(
    picture: PIL.Image.Image, upscaler: ImageUpscaler, factor: int, *, wraps: bool = False
) -> PIL.Image.Image:
    """Make a picture larger; by less than the upscaler's own factor it is shrunk afterwards.

    Transparency goes through the upscaler as a gray picture, as in Real-ESRGAN's own program;
    before that, colours spread into what cannot be seen, so that no dark rim grows around them.

    Args:
        picture: RGB or RGBA.
        upscaler: any `ImageUpscaler`.
        factor: from 2 to the upscaler's own.
        wraps: whether the picture repeats without a seam, as one drawn with `tile=True` does. The
            upscaler is shown the opposite edges around it, its `context` pixels wide or 32 where it
            has none, so that the larger one repeats, too.

    Returns:
        A picture of the same mode, `factor` times as wide and high. A factor below the upscaler's
        own is reached by Lanczos' filter.

    Raises:
        InputError: the factor cannot be had, the upscaler's result would have more than 89,478,485
            pixels, or it is of another shape or not of finite numbers.
        InputTypeError: the upscaler's own factor is not a whole number, or it returns no tensor.

    Example:
        >>> from PIL import Image
        >>> from dallemini.models import Upscaler, UpscalerConfig
        >>> from dallemini.pipeline import enlarge
        >>> upscaler = Upscaler.from_config(UpscalerConfig(width=4, num_blocks=1))
        >>> enlarge(Image.new("RGB", (6, 5)), upscaler, 2).size
        (12, 10)
    """
    from PIL import Image

    check_factor(upscaler, factor)
    scale = int(upscaler.scale)
    pixels = picture.width * picture.height * scale**2
    if pixels > MAX_PIXELS:
        raise InputError(
            f"A picture of {picture.width}x{picture.height} pixels would have {pixels:,} after "
            f"{upscaler_name(upscaler)}, more than the {MAX_PIXELS:,} that a picture can be opened "
            "with; make it smaller first."
        )
    around = int(getattr(upscaler, "context", _AROUND)) if wraps else 0
    shown = _wrap(picture, around) if wraps else picture
    if picture.mode == "RGBA":
        alpha = shown.getchannel("A")
        large = _through(upscaler, _spread(shown))
        large.putalpha(_through(upscaler, alpha.convert("RGB")).convert("L"))
    else:
        large = _through(upscaler, shown)
    size = (shown.width * factor, shown.height * factor)
    if large.size != size:
        large = large.resize(size, Image.Resampling.LANCZOS)
    edge, width, height = around * factor, picture.width * factor, picture.height * factor
    return large.crop((edge, edge, edge + width, edge + height)) if wraps else large


def enlarge_file(
    name: PathName, upscaler: ImageUpscaler, factor: int, directory: PathName = "."
) -> Path:
    """Make the picture in a file larger and write it as PNG, `apple.png` as `apple-4x.png`.

    Text chunks that draw a picture again go with it, and say how much larger it was made; not where
    it was made larger before, which no single call does. A picture that was drawn with `tile=True`,
    as these say, goes on repeating without a seam.

    Args:
        name: a file that `open_image` opens; transparency stays.
        upscaler: any `ImageUpscaler`.
        factor: from 2 to the upscaler's own.
        directory: made if missing; files there are not overwritten but numbered on.

    Returns:
        The path of the new file.

    Raises:
        MissingFileError: there is no such file.
        PictureError: an InputError: it is not a picture.
        StorageError: the folder or the file cannot be written.
        As `enlarge`.
    """
    picture = open_image(name, keep_alpha=True)
    texts = _chunks(picture.info, factor, upscaler)
    wraps = json.loads(texts.get("config", "{}")).get("tile") is True
    large = enlarge(picture, upscaler, factor, wraps=wraps)
    content = png_bytes(large, texts=texts)
    if texts.keys() >= _REDRAWING:  # a model drew it; a photograph stays one
        content = stamp(content, texts)
    path = make_folder(directory) / f"{as_path(name).stem}-{factor}x.png"
    return write_beside(numbered(path), content)


def _chunks(info: Mapping[Any, Any], factor: int, upscaler: ImageUpscaler) -> dict[str, str]:
    """Return the text chunks of an enlarged picture, with those that draw it again."""
    made = {"upscale": str(factor), "upscaler": upscaler_name(upscaler)}
    if digest := upscaler_digest(upscaler):
        made["upscaler_weights"] = digest
    known = {key: text for key, text in texts_of(info).items() if key in _CARRIED}
    if not known.keys() >= _REDRAWING:
        return made
    try:
        config = json.loads(known["config"])
    except (ValueError, RecursionError):
        return made
    if not isinstance(config, dict) or config.get("upscale") is not None:
        return made
    return known | {"config": json.dumps(config | {"upscale": factor})} | made


def _through(upscaler: ImageUpscaler, picture: PIL.Image.Image) -> PIL.Image.Image:
    """Return what an upscaler makes of an RGB picture, rounded to the nearest level."""
    made = upscaler.upscale(image_to_tensor(picture)[None])
    name = upscaler_name(upscaler)
    if not isinstance(made, Tensor) or not made.is_floating_point():
        found = made.dtype if isinstance(made, Tensor) else type(made).__name__
        raise InputTypeError(f"{name} must return a tensor of floats in [0, 1], not {found}.")
    wanted = [1, 3, picture.height * upscaler.scale, picture.width * upscaler.scale]
    if list(made.shape) != wanted:
        raise InputError(f"{name} must return the shape {wanted}, not {list(made.shape)}.")
    if not bool(made.isfinite().all()):
        raise InputError(f"{name} made numbers that are not finite; load it with dtype='float32'.")
    return tensor_to_images(made.detach().float() + 0.5 / 255)[0]


def _wrap(picture: PIL.Image.Image, around: int) -> PIL.Image.Image:
    """Return a picture with so many pixels of its repetitions on all sides."""
    from PIL import Image

    edges = ((around, around), (around, around), (0, 0))
    return Image.fromarray(np.pad(np.asarray(picture), edges, mode="wrap"))


def _spread(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Return RGBA without its transparency; what cannot be seen takes the colours around it."""
    from PIL import ImageFilter

    hidden = picture.getchannel("A").point([255] + [0] * 255)
    around = picture.convert("RGBa").filter(ImageFilter.GaussianBlur(_BLEED)).convert("RGBA")
    colours = picture.convert("RGB")
    colours.paste(around.convert("RGB"), mask=hidden)
    return colours
