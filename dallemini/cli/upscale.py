"""`dallemini upscale`: picture files in, larger ones out."""

from __future__ import annotations

from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..errors import InputError
from ..hub.packaged import DEFAULT_UPSCALER
from .options import DtypeName, OptionalInt, Pictures, SourceOptions, Where
from .words import UsageError, checking_usage

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.upscaler import Upscaler


@dataclass(frozen=True, kw_only=True)
class Upscale:
    """Make pictures larger, and save them as PNG beside what is there: apple.png as apple-4x.png.

    Photographs are turned upright, transparency stays, of a moving picture the first frame counts.

    Attributes:
        pictures: image files.
        factor: how many times larger, from 2; the model's own when not given.
        model: realesr-animevideov3, RealESRGAN_x4plus_anime_6B or RealESRGAN_x4plus (for
            photographs), of the extra `upscale`; or a file of Real-ESRGAN, a Hub id, a local
            folder.
        output: folder for the PNG files.
        tile: side in pixels of the squares that larger pictures are cut into, which bounds the
            memory; 256 when not given.
        device: where to compute: cpu, cuda, cuda:1, mps.
        dtype: floating-point type of the weights.
        json: print one line of JSON for each file instead of its path.
        where: of the model.
    """

    pictures: Pictures
    factor: OptionalInt = None
    model: str = DEFAULT_UPSCALER
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path()
    tile: OptionalInt = None
    device: str = "cpu"
    dtype: DtypeName = "float32"
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    where: Where

    def run(self) -> None:
        """Enlarge the pictures one by one, and print the path of every new file.

        Raises:
            DalleMiniError: a file is no picture or too large, or the model has no such factor.
        """
        if not self.pictures:
            raise UsageError("There is no picture; try: dallemini upscale apple.png.")
        from ..images import open_image  # here, because torch takes seconds
        from ..models.pretrained import check_device
        from ..models.upscaler import TILE
        from ..pipeline.enlarging import check_factor, enlarge_file

        with checking_usage():
            check_device(self.device)
        for path in self.pictures:
            open_image(path)  # before any work is done
        model = load_upscaler(self.model, self.where, device=self.device, dtype=self.dtype)
        factor = model.scale if self.factor is None else self.factor
        check_factor(model, factor)
        upscaler = _Tiled(model, TILE if self.tile is None else self.tile)
        for path in self.pictures:
            made = enlarge_file(path, upscaler, factor, self.output)
            told = {"path": str(made), "picture": str(path), "factor": factor, "model": model.name}
            print(dumps(told) if self.json else made, flush=True)


def load_upscaler(
    name: str, where: SourceOptions, *, device: str, dtype: DtypeName = "float32"
) -> Upscaler:
    """Load an upscaler that is named by itself, or by a pipeline that has one.

    Raises:
        InputError: the model has none.
        DalleMiniError: it cannot be loaded.
    """
    from ..models.upscaler import Upscaler
    from ..pipeline.parts import Parts

    place = Parts(where.open(name)).all().get("upscaler")
    if place is None:
        raise InputError(f"{name} has no upscaler; name one, such as {DEFAULT_UPSCALER}.")
    return Upscaler.from_pretrained(place, device=device, dtype=dtype)


@dataclass(frozen=True)
class _Tiled:
    """An upscaler with a size of its tiles."""

    upscaler: Upscaler
    tile: int

    @property
    def name(self) -> str:
        return self.upscaler.name

    @property
    def scale(self) -> int:
        return self.upscaler.scale

    @property
    def context(self) -> int:
        return self.upscaler.context

    def upscale(self, images: Tensor) -> Tensor:
        return self.upscaler.upscale(images, tile=self.tile)
