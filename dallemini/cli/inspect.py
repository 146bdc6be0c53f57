"""`dallemini inspect` and `dallemini detect`: where pictures come from, and the mark of a key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from .. import hub
from ..errors import InputError
from ..hub.source import BUNDLED_MODEL
from .options import OptionalPath, Pictures, Where, read_watermark
from .words import UsageError

if TYPE_CHECKING:
    from ..models.image_tokenizer import ImageTokenizer


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Say what picture files tell of their origin: what holds, what is missing, what was taken off.

    The layers are the texts that draw a picture again, IPTC's source type, the mark of a key, and
    Content Credentials (with the extra c2pa).

    Attributes:
        pictures: image files.
        watermark_key_file: a file with the key to look for.
        model: whose VQGAN may have drawn them.
        json: print one line of JSON for each picture.
        where: of the model.
    """

    pictures: Pictures
    watermark_key_file: OptionalPath = None
    model: str = BUNDLED_MODEL
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    where: Where

    def run(self) -> None:
        """Print a line for each layer, and one in words, for each picture.

        Raises:
            DalleMiniError: a file is no picture, or the key or the model is no good.
        """
        if not self.pictures:
            raise UsageError("There is no picture; try: dallemini inspect apple.png.")
        from ..pipeline.inspecting import inspect_picture  # here, because torch takes seconds

        watermark = read_watermark(self.watermark_key_file)
        vqgan = None if watermark is None else _vqgan(self.where.open(self.model))
        for path in self.pictures:
            told = inspect_picture(path, watermark=watermark, vqgan=vqgan)
            if self.json:
                layers = [asdict(layer) for layer in told.layers]
                print(dumps({"path": str(path), "layers": layers, "verdict": told.verdict}))
                continue
            print(path)
            for layer in told.layers:
                print(f"  {layer.name:<12} {layer.state:<9} {layer.detail}")
            print(f"  {told.verdict}")


@dataclass(frozen=True, kw_only=True)
class Detect:
    """Look for the mark of a key: a line for each picture, then one for all together.

    A line has p-value, score, votes, tokens and file, with tabs between them.

    A p-value is the chance that pictures without the mark do as well: below 0.001 they have it.
    Small pictures often say too little alone; several of one key say more together.

    Attributes:
        pictures: image files.
        watermark_key_file: a file with the key.
        model: whose VQGAN may have drawn them.
        search: also look for crops, which takes longer.
        width: pixels that they were drawn at, if that is not the model's own size.
        height: the same for the other side.
        json: print one line of JSON for each finding; that of all together has no path.
        where: of the model.
    """

    pictures: Pictures
    watermark_key_file: Path
    model: str = BUNDLED_MODEL
    search: bool = True
    width: int | None = None
    height: int | None = None
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    where: Where

    def run(self) -> None:
        """Print the findings.

        Raises:
            DalleMiniError: a file is no picture, or the key or the model is no good.
        """
        if not self.pictures:
            raise UsageError(
                "There is no picture; try: dallemini detect apple.png --watermark-key-file FILE."
            )
        from ..images import read_image  # here, because torch takes seconds
        from ..pipeline.detecting import drawn_side, look_for

        watermark = read_watermark(self.watermark_key_file)
        assert watermark is not None
        pictures = [read_image(path) for path in self.pictures]
        vqgan = _vqgan(self.where.open(self.model))
        side = drawn_side(self.width, self.height, vqgan.grid, vqgan.token_size)
        groups = [([one], str(path)) for one, path in zip(pictures, self.pictures, strict=True)]
        for group, name in [*groups, (pictures, "all together")][: None if groups[1:] else 1]:
            found = look_for(group, watermark, vqgan, search=self.search, side=side)
            if self.json:
                path = None if len(group) > 1 else name
                told = {"path": path, "p_value": found.p_value, "score": found.score}
                print(dumps(told | {"votes": found.votes, "tokens": found.tokens}))
            else:
                numbers = (f"{found.p_value:.3g}", f"{found.score:.3f}", found.votes, found.tokens)
                print(*numbers, name, sep="\t")


def _vqgan(source: hub.Source) -> ImageTokenizer:
    from ..models.image_tokenizer import ImageTokenizer
    from ..pipeline.parts import Parts

    place = Parts(source).all().get("vqgan")
    if place is None:
        raise InputError(
            f"{source.name} has no VQGAN; name one, such as "
            "--model dalle-mini/vqgan_imagenet_f16_16384."
        )
    return ImageTokenizer.from_pretrained(place)
