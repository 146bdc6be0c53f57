"""`dallemini audit`: what a model leans towards when nobody asked."""

from __future__ import annotations

from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Annotated

import tyro

from ..files import as_path
from ..hub.source import BUNDLED_MODEL
from .options import Drawing, OptionalPath, Where


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Draw people, places or meals of whom nothing was said, and count what a probe sees in them.

    Writes report.json, report.md with pictures, and card.md, a section for a model card.

    Attributes:
        model: Hub id or local folder of a pipeline.
        prompts: a YAML file with templates, attributes and questions, or a set of the package:
            occupations, traits, places or foods.
        output: folder for the report.
        count: pictures drawn for each prompt.
        labelled: folder with real pictures in QUESTION/ANSWER/, on which the probe is calibrated.
        confidence: probability from which an answer counts, where there are no such pictures.
        accuracy: how often each answer must be right on such pictures.
        pictures: attributes that the report shows.
        seed: of the first picture; the next ones count up.
        batch_size: pictures drawn together, to bound memory.
        json: print report.json as one line instead of the table.
        drawing: of the model.
        where: of the model.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = BUNDLED_MODEL
    prompts: str = "occupations"
    output: Path
    count: int = 16
    labelled: OptionalPath = None
    confidence: float = 0.8
    accuracy: float = 0.8
    pictures: int = 16
    seed: int = 0
    batch_size: int = 16
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    drawing: Drawing
    where: Where

    def run(self) -> None:
        """Measure, and print the tables and the path of the report.

        Raises:
            DalleMiniError: an option, the prompts, the pictures, the model or the folder is no
                good.
        """
        from ..evaluation import AuditConfig, AuditPrompts, audit, read_labelled

        self.drawing.check()
        config = AuditConfig(
            count=self.count,
            seed=self.seed,
            batch_size=self.batch_size,
            confidence=self.confidence,
            accuracy=self.accuracy,
            pictures=self.pictures,
        )
        prompts = AuditPrompts.open(self.prompts)  # a wrong one is told before the loading
        labelled = None if self.labelled is None else read_labelled(self.labelled)
        pipe = self.drawing.load(self.where.open(self.model), self.where)
        report = audit(
            pipe, prompts, config=config, labelled=labelled, output=self.output, progress=True
        )
        if self.json:
            print(dumps(report.to_dict()))
        else:
            print(report.table, end="")
            print(as_path(self.output) / "report.md")
