"""`dallemini evaluate`: a model and captions in, a report out."""

from __future__ import annotations

from dataclasses import dataclass, field
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..data.config import DataConfig
from ..evaluation.config import EvaluationConfig
from ..files import as_path
from ..generation import GenerationConfig, GenerationOverrides
from ..hub.source import BUNDLED_MODEL
from .options import Drawing, Where, drawing_type
from .words import checking_usage

_DRAWING = ("guidance_scale", "temperature", "top_k", "top_p")


if TYPE_CHECKING:
    from ..evaluation.reading import PictureSource

    Settings = GenerationOverrides
else:
    Settings = drawing_type("Settings", _DRAWING)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a model on captions and their pictures; write the report as JSON and Markdown.

    Attributes:
        data: a folder, Parquet, CSV or tar files of captioned pictures; or a .txt file with one
            caption a line, on which less can be measured.
        output: folder for report.json, report.md and their pictures.
        model: Hub id or local folder of a pipeline.
        config: of the evaluation.
        settings: of the drawing.
        crop: how pictures get the size that is drawn: the middle of them, or all of them on white.
        caption_column: where the captions are; None tries the usual names.
        image_column: where the pictures are; None tries the usual names.
        filters: such as "width >= 256" or "lang == en"; a record passes all of them or is left out;
            may be repeated.
        json: print report.json as one line instead of the table.
        drawing: of the model.
        where: of the model.
    """

    data: str
    output: Path
    model: str = BUNDLED_MODEL
    config: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(
        default_factory=EvaluationConfig
    )
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    crop: Literal["center", "pad"] = "center"
    caption_column: str | None = None
    image_column: str | None = None
    filters: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="where")] = ()
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    drawing: Drawing
    where: Where

    def run(self) -> None:
        """Measure, and print the table and the path of the report.

        Raises:
            DalleMiniError: an option, the model, the data or the folder is no good.
        """
        with checking_usage():  # what is wrong is told before the loading
            GenerationConfig().override(**self.settings)
            self.drawing.check()
        from ..evaluation import evaluate, picture_size, read_captions  # torch takes seconds

        is_text = self.data.endswith(".txt")
        # likewise the data, although the size of the pictures is not known before the model is
        data = read_captions(self.data) if is_text else self._open(None)
        pipe = self.drawing.load(self.where.open(self.model), self.where)
        report = evaluate(
            pipe,
            data if is_text else self._open(picture_size(pipe)),
            config=self.config,
            output=self.output,
            settings=pipe.config.override(**self.settings),
            name=Path(self.data).name or self.data,
            progress=True,
        )
        if self.json:
            print(dumps(report.to_dict()))
        else:
            print(report.table, end="")
            print(as_path(self.output) / "report.md")

    def _open(self, image_size: int | tuple[int, int] | None) -> PictureSource:
        from ..data.dataset import CaptionedImages

        config = DataConfig(
            image_size=image_size,
            crop=self.crop,
            caption_column=self.caption_column,
            image_column=self.image_column,
            where=self.filters,
        )
        return CaptionedImages.open(self.data, config=config)
