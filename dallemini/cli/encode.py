"""`dallemini encode`: pictures with captions in, shards of image tokens out."""

from __future__ import annotations

import typing
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import tyro

from ..data.config import DataConfig
from ..errors import InputError
from ..hub.source import BUNDLED_MODEL
from .options import DtypeName, Where, attribute_help
from .processes import own_device, this_process
from .words import UsageError, checking_usage

if TYPE_CHECKING:
    from ..data.encode import EncodeReport
    from ..models.image_tokenizer import ImageTokenizer

_OWN_HELP = {
    "crop": '"center" scales a picture until it covers the size and keeps the middle; "pad" keeps '
    "the whole picture, on white."
}

_SHOWN_DEFAULTS = {
    "image_size": "the VQGAN's own",
    "caption_column": "the usual names",
    "image_column": "the usual names",
}


class DataOverrides(TypedDict, total=False):
    """The settings of `DataConfig` that matter here, where nothing is random."""

    image_size: int | tuple[int, int]
    crop: Literal["center", "pad"]
    caption_column: str
    caption_lines: Literal["each", "joined"]
    caption_from: Literal["files", "folder", "name"]
    image_column: str
    require_captions: bool
    min_clip_score: float
    clip_score_column: str
    min_side: int
    max_side: int
    max_pixels: int


def _settings_type() -> Any:
    """Return `DataOverrides` with the help and the defaults of `DataConfig`."""
    help_of, defaults = attribute_help(DataConfig) | _OWN_HELP, DataConfig()
    fields = {}
    for name, hint in typing.get_type_hints(DataOverrides).items():
        default = _SHOWN_DEFAULTS.get(name, getattr(defaults, name))
        shown = "(optional)" if default is None else f"(default: {default})"
        fields[name] = Annotated[hint, tyro.conf.arg(help=help_of[name], help_behavior_hint=shown)]
    make: Any = TypedDict
    return make("Settings", fields, total=False)


if TYPE_CHECKING:
    Settings = DataOverrides
else:
    Settings = _settings_type()


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Turn pictures into image tokens with an image tokenizer, and write them with their captions.

    The result is a folder of Parquet shards, for training a transformer. Interrupted, it goes on
    when it is started again. To share the work between processes, start it with torchrun:
    torchrun --nproc-per-node 8 -m dallemini.cli encode ...

    Attributes:
        data: folder, Parquet, CSV or JSON lines files, or tar shards; may be repeated.
        output: folder for the shards.
        model: a VQGAN, a DVAE or a DiscreteVAE, or a pipeline that has one.
        filters: such as "width >= 256" or "lang == en"; a record passes all of them or is left out;
            may be repeated.
        settings: of the data.
        shard_size: records of a file; tar shards make a file each.
        batch_size: pictures that are encoded together.
        workers: processes that decode pictures ahead, for each process that encodes.
        device: where to compute: cpu, cuda, cuda:1, mps. Under torchrun, cuda is the GPU of the
            process's own rank.
        dtype: floating-point type of the weights.
        progress: whether to show a bar with pictures per second.
        json: print one line of JSON instead of a sentence.
        where: of the model.
    """

    data: tyro.conf.UseAppendAction[tuple[str, ...]]
    output: Path
    model: str = BUNDLED_MODEL
    filters: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="where")] = ()
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    shard_size: int = 10_000
    batch_size: int = 64
    workers: int = 0
    device: str = "cpu"
    dtype: DtypeName = "float32"
    progress: bool = True
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    where: Where

    def run(self) -> None:
        """Encode what is not yet there, and print what was done.

        Raises:
            DalleMiniError: the model, the data, an option or the folder is no good.
        """
        if not self.data:
            raise UsageError("There is nothing to encode; try: dallemini encode --data pictures.")
        with checking_usage():
            process = this_process()
        from ..data.dataset import CaptionedImages  # here, because torch takes seconds
        from ..data.encode import encode_images

        vqgan = self._vqgan()
        height, width = vqgan.image_size
        own = height if height == width else (height, width)
        settings: dict[str, Any] = {"image_size": own, **self.settings}
        config = DataConfig(where=self.filters, **settings)
        sources = self.data[0] if len(self.data) == 1 else self.data
        dataset = CaptionedImages.open(sources, config=config)
        if dataset.weights is not None:
            raise InputError(
                "Weights are for training: encode each source without, then mix the tokens, as in "
                "--train-data tokens-a:0.7 tokens-b:0.3."
            )
        report = encode_images(
            vqgan,
            dataset,
            self.output,
            shard_size=self.shard_size,
            batch_size=self.batch_size,
            rank=process.rank,
            world_size=process.world_size,
            workers=self.workers,
            progress=self.progress,
        )
        if self.json:
            print(dumps({"rank": process.rank, **asdict(report)}))
        else:
            print(_summary(report, f"{process}: " if process.world_size > 1 else ""))

    def _vqgan(self) -> ImageTokenizer:
        from ..models.image_tokenizer import ImageTokenizer
        from ..models.pretrained import check_device
        from ..pipeline.parts import Parts

        device = check_device(own_device(self.device))
        place = Parts(self.where.open(self.model)).all().get("vqgan")
        if place is None:
            raise InputError(
                f"{self.model} has no VQGAN; name one, such as "
                "--model dalle-mini/vqgan_imagenet_f16_16384."
            )
        return ImageTokenizer.from_pretrained(place, device=device, dtype=self.dtype)


def _summary(report: EncodeReport, process: str) -> str:
    speed = report.images / report.seconds if report.seconds else 0.0
    bad = ", ".join(f"{count} {reason}" for reason, count in sorted(report.bad.items()))
    return (
        f"{process}{report.images} pictures in {report.seconds:.1f} s ({speed:.1f} a second); "
        f"shards written: {report.shards}, there already: {report.skipped_shards}"
        + (f"; with new captions: {report.updated_shards}" if report.updated_shards else "")
        + (f"; left out: {bad}" if bad else "")
    )
