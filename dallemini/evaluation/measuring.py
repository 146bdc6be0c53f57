"""Measuring a pipeline: plan what can be measured, make the passes, write the report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import (
    HubError,
    InputError,
    MissingFileError,
    UnsupportedOperationError,
)
from ..files import make_folder
from ..generation import GenerationConfig
from ..images import image_to_tensor
from ..pipeline.pipeline import Pipeline
from ..pipeline.pixels import encode_pictures, token_size
from ..scorer import CLIPScorer, Scorer
from .config import MEASURES, EvaluationConfig
from .features import FeatureSpace, feature_space
from .metrics import mean_interval
from .passes import DrawnPass, Judges, OwnPass, RealPictures, galleries
from .pictures import PictureRow
from .reading import Asked, PictureSource, Reader
from .report import EvaluationReport

_OF_DRAWN = frozenset(("samples", "frechet", "retrieval", "clip_score"))
_OF_OWN = frozenset(("frechet", "retrieval", "reconstruction", "likelihood"))
_T = TypeVar("_T")


@torch.no_grad()
def evaluate(
    pipe: Pipeline,
    data: Sequence[str] | PictureSource,
    *,
    config: EvaluationConfig | None = None,
    output: str | Path | None = None,
    space: FeatureSpace | None = None,
    settings: GenerationConfig | None = None,
    name: str = "the data",
    progress: bool | None = None,
) -> EvaluationReport:
    """Measure a pipeline on captions and, where they have them, their own pictures.

    What the pipeline or the data lack is not measured, and the report says why. The same seed gives
    the same figures.

    Args:
        pipe: what is measured.
        data: captions; or captioned pictures, such as `CaptionedImages`.
        config: what is measured, and on how much.
        output: folder for `report.json`, `report.md` and their pictures.
        space: your own feature space, instead of the one that `config` names.
        settings: of the drawing; those of the pipeline when None. The numbers of pictures and seeds
            are those of `config`.
        name: of the data, for the report.
        progress: show bars; None shows them on a terminal.

    Raises:
        InputError: there is no caption, or a picture or column is not as it should be.
        InputTypeError: `data` is a single string.
        MissingDependencyError: the feature space needs the extra `eval`.
        StorageError: the report cannot be written.

    Example:
        >>> from dallemini.evaluation import EvaluationConfig, evaluate
        >>> from dallemini.testing import tiny_pipeline
        >>> report = evaluate(tiny_pipeline(), ["a red apple", "a rocket"], progress=False)
        >>> report.captions, report.not_measured["frechet"]
        (2, 'the data are captions without pictures of their own')
    """
    started, config = time.monotonic(), config or EvaluationConfig()
    if output is not None:
        make_folder(output)
    run = _Run(pipe, data, config, space, settings or pipe.config, progress)
    report = run.report(name=name, started=started)
    if output is not None:
        report.save(output)
    return report


class _Run:
    """One evaluation: the plan, the passes, and what they leave for the report."""

    def __init__(
        self,
        pipe: Pipeline,
        data: Sequence[str] | PictureSource,
        config: EvaluationConfig,
        space: FeatureSpace | None,
        settings: GenerationConfig,
        progress: bool | None,
    ) -> None:
        if callable(settings.guidance_scale) or isinstance(settings.negative_prompt, tuple):
            raise InputError(
                "A report needs a guidance_scale that is one number or two, and one "
                "negative_prompt for all captions; give such settings=."
            )
        self.pipe, self.config, self.settings = pipe, config, settings
        self.hidden = None if progress is None else not progress
        self.reader = Reader(
            data, size=picture_size(pipe), seed=config.seed, column=config.gallery_column
        )
        self.missing: dict[str, str] = {}
        self.judges = self._plan(space)
        self.asked: list[Asked] = []
        self.rows: list[PictureRow] = []

    def report(self, *, name: str, started: float) -> EvaluationReport:
        """Make the passes and put together what they found."""
        own, real = self._look_at_own()
        captions = [asked.caption for asked in self.asked[: self.config.captions]]
        drawn = self._draw(captions) if self.judges.measure & _OF_DRAWN else None
        scores, space, config = own.scores, self.judges.space, self.config
        return EvaluationReport(
            model=self.pipe.name,
            data=name,
            choice="the first ones" if self.reader.is_stream else f"seed {config.seed} chose them",
            captions=len(captions),
            references=len(self.asked) if self.reader.has_pictures else 0,
            picture_size=picture_size(self.pipe),
            images_per_prompt=self.each,
            feature_space=space.name if space else None,
            feature_size=space.size if space else None,
            score_name=_score_name(self.judges.scorer),
            settings=drawing_settings(self.settings),
            config=config.to_dict(),
            drawn=drawn.figures(real) if drawn else (),
            own_score=None if scores is None else mean_interval(scores, seed=config.seed),
            frechet_of_others=real.frechet_of_others(),
            reconstruction=own.reconstruction(real),
            likelihood=own.likelihood(),
            not_measured={name: self.missing[name] for name in MEASURES if name in self.missing},
            bad_records=self.reader.bad,
            seconds=round(time.monotonic() - started, 1),
            rows=tuple(self.rows),
        )

    @property
    def each(self) -> int:
        """Pictures drawn for a caption: one where nothing could choose among several."""
        return self.config.images_per_prompt if self.judges.scorer else 1

    def _plan(self, space: FeatureSpace | None) -> Judges:
        """Find out what can be measured, before anything takes long."""
        wanted = set(self.config.measure)
        self._refuse(set(MEASURES) - wanted, "it was not asked for")
        if not self.reader.has_pictures:
            self._refuse(_OF_OWN, "the data are captions without pictures of their own")
        elif self._wants("reconstruction") or self._wants("likelihood"):
            self._try_encoder()
        best = self.config.images_per_prompt > 1 and any(map(self._wants, _OF_DRAWN))
        scorer = self._find_scorer() if best or self._wants("clip_score") else None
        if not (self._wants("frechet") or self._wants("retrieval")):
            space = None
        elif space is None:
            device = self.pipe.transformer.device
            space = feature_space(self.config.features, scorer=scorer, device=device)
        measure = frozenset(name for name in MEASURES if self._wants(name))
        return Judges(space=space, scorer=scorer, measure=measure, seed=self.config.seed)

    def _wants(self, name: str) -> bool:
        return name not in self.missing

    def _refuse(self, names: Iterable[str], reason: str) -> None:
        for name in names:
            self.missing.setdefault(name, reason)

    def _try_encoder(self) -> None:
        (height, width), vqgan = self.reader.size, self.pipe.vqgan
        blank = torch.ones(1, 3, height, width, device=vqgan.device, dtype=torch.float32)
        try:
            found = encode_pictures(vqgan, blank).shape[1]
        except UnsupportedOperationError as error:
            self._refuse(("reconstruction", "likelihood"), str(error))
            return
        length = self.pipe.transformer.config.image_length
        if found != length:
            kind = type(vqgan).__name__
            reason = f"the {kind} gives {found} tokens per picture, the transformer reads {length}"
            self._refuse(("likelihood",), reason)

    def _find_scorer(self) -> Scorer | None:
        try:
            return self.pipe.scorer
        except (InputError, HubError, MissingFileError) as error:
            self._refuse(("clip_score",), str(error))
            return None

    def _look_at_own(self) -> tuple[OwnPass, RealPictures]:
        """Read the data; measure the pictures, where there are any to measure."""
        config, measure = self.config, self.judges.measure
        references = config.references if measure & {"frechet", "retrieval"} else 0
        total = self.reader.count(max(config.captions, references))
        own = OwnPass(self.pipe, self.judges, config.captions)
        with tqdm(total=total, unit="picture", desc="reading", disable=self.hidden) as bar:
            for batch in _batches(self.reader(total), config.batch_size):
                self._show_own(batch, own.add(batch))
                self.asked += [dataclasses.replace(asked, image=None) for asked in batch]
                bar.update(len(batch))
        return own, self._real(own)

    def _real(self, own: OwnPass) -> RealPictures:
        """Choose the galleries, and drop the measures for which there are too few pictures."""
        config, chosen = self.config, list[Tensor]()
        if self._wants("frechet") and min(config.captions, len(self.asked)) < 2:
            self._refuse(("frechet",), "it needs two captions with pictures")
        if self._wants("retrieval"):
            chosen = galleries(
                self.asked, captions=config.captions, size=config.gallery, seed=config.seed
            )
            if max(len(rows) for rows in chosen) < 2:
                self._refuse(("retrieval",), "no picture has a rival with another caption")
        measure = self.judges.measure - self.missing.keys()
        return RealPictures(
            features=own.features,
            captions=min(config.captions, len(self.asked)),
            galleries=chosen,
            measure=measure,
        )

    def _show_own(self, batch: Sequence[Asked], rebuilt: Tensor | None) -> None:
        for number, asked in enumerate(batch[: self.config.pictures - len(self.rows)]):
            if len(self.rows) < self.config.captions:
                again = None if rebuilt is None else rebuilt[number]
                row = PictureRow(caption=asked.caption, own=asked.image, reconstruction=again)
                self.rows.append(row)

    def _draw(self, captions: Sequence[str]) -> DrawnPass:
        """Draw every caption's pictures by seed and judge them."""
        config, drawn, each = self.config, DrawnPass(self.judges), self.each
        step = max(1, config.batch_size // each)
        with tqdm(
            total=len(captions) * each, unit="picture", desc="drawing", disable=self.hidden
        ) as bar:
            for start in range(0, len(captions), step):
                part = captions[start : start + step]
                images = self._draw_part(part, each, config.seed + start * each)
                best = drawn.add(part, images)
                self._show_drawn(start, images, best if each > 1 else None)
                bar.update(len(part) * each)
        return drawn

    def _draw_part(self, captions: Sequence[str], each: int, seed: int) -> Tensor:
        """Return f[B,n,3,H,W] of B captions."""
        out = self.pipe(
            captions,
            progress=False,
            **{**drawing_settings(self.settings), "num_images_per_prompt": each},
            batch_size=self.config.batch_size,
            seed=seed,
            rank=False,
            candidates=1,
        )
        pixels = torch.stack([image_to_tensor(image) for image in out.images])
        return pixels.view(len(captions), each, *pixels.shape[1:])

    def _show_drawn(self, start: int, images: Tensor, best: list[int] | None) -> None:
        for number, pixels in enumerate(images[: max(0, len(self.rows) - start)]):
            chosen = None if best is None else best[number]
            row = self.rows[start + number]
            self.rows[start + number] = dataclasses.replace(row, drawn=pixels, best=chosen)


def picture_size(pipe: Pipeline) -> int | tuple[int, int]:
    """Return the pixels along a side of what a pipeline draws, or its height and width.

    Example:
        >>> from dallemini.evaluation import picture_size
        >>> from dallemini.testing import tiny_pipeline
        >>> picture_size(tiny_pipeline())
        16
    """
    grid = pipe.transformer.config.grid
    unit = token_size(pipe.vqgan, grid)
    return grid[0] * unit if grid[0] == grid[1] else (grid[0] * unit, grid[1] * unit)


def drawing_settings(settings: GenerationConfig) -> dict[str, Any]:
    """Return the settings that change what a seed draws."""
    names = ("guidance_scale", "temperature", "top_k", "top_p", "negative_prompt")
    return {name: getattr(settings, name) for name in names}


def _score_name(scorer: Scorer | None) -> str:
    if scorer is None or isinstance(scorer, CLIPScorer):
        return "CLIP score"
    return f"score of {type(scorer).__name__}"


def _batches(records: Iterable[_T], size: int) -> Iterator[list[_T]]:
    batch: list[_T] = []
    for record in records:
        batch.append(record)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
