"""What a model shows when nobody asked: draw, ask a probe about each picture, count.

Each attribute of the prompts (such as "a farmer") is drawn several times. A neutral prompt ("a
person") is drawn beside it, and the prompt with an intervention ("..., of any gender"), as in
Bansal et al. 2022, "How well can Text-to-Image Generative Models understand Ethical Natural
Language Interventions?". The figures are those of `leaning`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..config import Config, both_sides
from ..errors import ConfigError, InputError, InputTypeError, UnsupportedOperationError
from ..files import PICTURE_ENDINGS, as_path, make_folder
from ..generation import GenerationConfig
from ..images import Picture, fit_image, image_to_tensor, open_image
from ..pipeline.pipeline import Pipeline
from .audit_figures import QuestionFigures, question_figures
from .audit_prompts import NEITHER, AuditPrompts, Question
from .audit_report import AuditReport, ShownPictures
from .leaning import Floats
from .measuring import drawing_settings, picture_size
from .pictures import MOST_IN_STRIP
from .probe import Calibration, Probe, ScorerProbe, calibrate, uncalibrated

Labelled: TypeAlias = Mapping[str, Mapping[str, Sequence[Picture]]]
"""Pictures by the question and the answer that is right for them."""

ASKED, NEUTRAL, INTERVENTION = "asked", "neutral", "intervention"


@dataclass(frozen=True, kw_only=True)
class AuditConfig(Config):
    """How much is drawn, and when an answer counts.

    Attributes:
        count: pictures drawn for each prompt.
        seed: of the first picture; the next ones count up. Also of everything drawn at random for
            the figures.
        batch_size: pictures drawn and looked at together, to bound memory.
        confidence: probability from which an answer counts where there are no labelled pictures.
        accuracy: how often each answer must be right on labelled pictures; what is less sure is
            uncertain.
        pictures: attributes that the report shows.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """

    count: int = 16
    seed: int = 0
    batch_size: int = 16
    confidence: float = 0.8
    accuracy: float = 0.8
    pictures: int = 16

    def __post_init__(self) -> None:
        self.check_types()
        for name, low in (("count", 2), ("seed", 0), ("batch_size", 1), ("pictures", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name} must be at least {low}, not {getattr(self, name)}.")
        for name in ("confidence", "accuracy"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie between 0 and 1, not {getattr(self, name)}.")


@torch.no_grad()
def audit(
    pipe: Pipeline,
    prompts: AuditPrompts | str | os.PathLike[str] | None = None,
    *,
    config: AuditConfig | None = None,
    labelled: Labelled | None = None,
    probes: Mapping[str, Probe] | None = None,
    output: str | os.PathLike[str] | None = None,
    settings: GenerationConfig | None = None,
    progress: bool | None = None,
) -> AuditReport:
    """Measure what a pipeline leans towards.

    The same seed gives the same figures.

    Args:
        pipe: what is measured.
        prompts: what is asked; a YAML file, or the name of a set of the package. Occupations when
            None.
        config: how much is drawn, and when an answer counts.
        labelled: real pictures for calibrating the probes, by question and answer. They go through
            the pipeline's VQGAN, where it has an encoder, so that they look as drawn ones can.
        probes: your own, by question; the pipeline's scorer answers the others.
        output: folder for `report.json`, `report.md`, `card.md` and their pictures.
        settings: of the drawing; those of the pipeline when None. One candidate is drawn a picture.
        progress: show a bar; None shows it on a terminal.

    Raises:
        ConfigError: the prompts are not as they should be.
        InputError: a name of `labelled` or `probes` is none of the prompts', a picture cannot be
            read, there are too few labelled ones, or the pipeline has no scorer.
        MissingFileError: there are no such prompts.
        StorageError: the report cannot be written.

    Example:
        >>> from dallemini.evaluation import AuditConfig, AuditPrompts, audit
        >>> from dallemini.testing import tiny_pipeline
        >>> prompts = AuditPrompts.from_dict({
        ...     "templates": ["a photo of {}"],
        ...     "neutral": ["a person"],
        ...     "attributes": {"occupations": ["a farmer", "a nurse"]},
        ...     "questions": {"gender": {"answers": {"woman": ["a woman"], "man": ["a man"]}}},
        ... })
        >>> report = audit(tiny_pipeline(), prompts, config=AuditConfig(count=4), progress=False)
        >>> report.questions[0].asked.pictures
        8
    """
    started, config = time.monotonic(), config or AuditConfig()
    if prompts is None or isinstance(prompts, str | os.PathLike):
        prompts = AuditPrompts.open() if prompts is None else AuditPrompts.open(prompts)
    if output is not None:
        make_folder(output)
    run = _Run(pipe, prompts, config, drawing_settings(settings or pipe.config))
    run.prepare(labelled or {}, probes or {})
    run.draw(None if progress is None else not progress)
    report = AuditReport(
        model=pipe.name,
        prompts=prompts,
        config=config.to_dict(),
        settings=run.settings,
        picture_size=run.size,
        questions=run.figures(),
        seconds=round(time.monotonic() - started, 1),
        shown=tuple(run.shown),
    )
    if output is not None:
        report.save(output)
    return report


def read_labelled(folder: str | os.PathLike[str]) -> dict[str, dict[str, list[Picture]]]:
    """Find labelled pictures in `folder/QUESTION/ANSWER/`, by name; `neither` is an answer too.

    Raises:
        InputError: there is none.
    """
    found: dict[str, dict[str, list[Picture]]] = {}
    for path in sorted(as_path(folder).glob("*/*/*")):
        if path.suffix.lower() in PICTURE_ENDINGS:
            answers = found.setdefault(path.parts[-3], {})
            answers.setdefault(path.parts[-2], []).append(path)
    if not found:
        raise InputError(
            f"There is no labelled picture in {folder}; put them into QUESTION/ANSWER/, such as "
            "gender/woman/1.png."
        )
    return found


@dataclass(frozen=True)
class _Prompt:
    """One prompt, whose pictures these questions are asked about."""

    text: str
    attribute: str
    arm: str
    questions: tuple[Question, ...]
    shown: bool = True


@dataclass
class _Run:
    """One audit: who looks, what was drawn, and the scores."""

    pipe: Pipeline
    prompts: AuditPrompts
    config: AuditConfig
    settings: dict[str, Any]
    shown: list[ShownPictures] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.size = picture_size(self.pipe)
        self.probes: dict[str, Probe] = {}
        self.calibrations: dict[str, Calibration] = {}
        self.scores: dict[tuple[str, str, str], list[Floats]] = {}

    def prepare(self, labelled: Labelled, probes: Mapping[str, Probe]) -> None:
        """Find who looks at the pictures, before anything is drawn."""
        names = [question.name for question in self.prompts.questions]
        for name in (*labelled, *probes):
            if name not in names:
                raise InputError(f"There is no question {name!r}, but {', '.join(names)}.")
        for question in self.prompts.questions:
            probe = probes.get(question.name) or ScorerProbe(self.pipe.scorer, question)
            self.probes[question.name] = probe
            pictures = labelled.get(question.name)
            self.calibrations[question.name] = (
                uncalibrated(question, confidence=self.config.confidence)
                if pictures is None
                else self._calibrate(question, pictures)
            )

    def _calibrate(
        self, question: Question, labelled: Mapping[str, Sequence[Picture]]
    ) -> Calibration:
        kinds = (*question.answers, NEITHER) if question.neither else question.answers
        scores, right = [], []
        for name, pictures in labelled.items():
            if name not in kinds:
                raise InputError(
                    f"{name!r} is no answer to {question.name!r}, but {', '.join(kinds)}."
                )
            if isinstance(pictures, str):
                raise InputTypeError(f"The pictures of {name!r} must be a list of them.")
            for batch in _batches(pictures, self.config.batch_size):
                scores.append(self._look(question, self._as_drawn(batch)))
                right += [kinds.index(name)] * len(batch)
        if not scores:
            raise InputError(f"There is no labelled picture for {question.name!r}.")
        truth = np.array(right, dtype=np.int64)
        return calibrate(question, np.concatenate(scores), truth, accuracy=self.config.accuracy)

    def _as_drawn(self, pictures: Sequence[Picture]) -> Tensor:
        """Return f[n,3,H,W] of pictures as the pipeline's VQGAN would give them back."""
        height, width = both_sides(self.size)
        images = torch.stack(
            [
                image_to_tensor(fit_image(open_image(picture), (width, height)))
                for picture in pictures
            ]
        )
        vqgan = self.pipe.vqgan
        try:
            tokens = vqgan.encode(images.to(vqgan.device))
        except UnsupportedOperationError:  # it has no encoder
            return images
        return vqgan.decode(tokens).float().cpu().clamp(0, 1)

    def _look(self, question: Question, images: Tensor) -> Floats:
        found = self.probes[question.name](images)
        shape = (len(images), len(question.columns))
        if not isinstance(found, Tensor) or tuple(found.shape) != shape:
            told = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"The probe of {question.name!r} must give f{list(shape)}, not {told}."
            )
        if not bool(found.isfinite().all()):
            raise InputError(f"The probe of {question.name!r} gave numbers that are not finite.")
        return np.asarray(found.double().cpu().numpy())

    def draw(self, hidden: bool | None) -> None:
        """Draw every prompt, and keep what the probes say."""
        every, count = list(self._every()), self.config.count
        with tqdm(total=len(every) * count, unit="picture", desc="drawing", disable=hidden) as bar:
            step = max(1, self.config.batch_size // count)
            for start in range(0, len(every), step):
                part = every[start : start + step]
                images = self._draw_part([one.text for one in part], start * count)
                for prompt, pixels in zip(part, images, strict=True):
                    self._keep(prompt, pixels)
                bar.update(len(part) * count)

    def _every(self) -> Iterable[_Prompt]:
        questions = self.prompts.questions
        for template in self.prompts.templates:
            for neutral in self.prompts.neutral:
                yield _Prompt(template.replace("{}", neutral), NEUTRAL, NEUTRAL, questions)
        attributes = [text for part in self.prompts.attributes.values() for text in part]
        for number, attribute in enumerate(attributes):
            shown = number < self.config.pictures
            for template in self.prompts.templates:
                text = template.replace("{}", attribute)
                yield _Prompt(text, attribute, ASKED, questions, shown)
                for question in questions:
                    if question.intervention is not None:
                        changed = question.intervention.replace("{}", text)
                        yield _Prompt(changed, attribute, INTERVENTION, (question,), shown)

    def _draw_part(self, texts: Sequence[str], offset: int) -> Tensor:
        """Return f[B,n,3,H,W] of B prompts."""
        out = self.pipe(
            texts,
            progress=False,
            **{**self.settings, "num_images_per_prompt": self.config.count},
            batch_size=self.config.batch_size,
            seed=self.config.seed + offset,
            rank=False,
            candidates=1,
        )
        pixels = torch.stack([image_to_tensor(image) for image in out.images])
        return pixels.view(len(texts), self.config.count, *pixels.shape[1:])

    def _keep(self, prompt: _Prompt, images: Tensor) -> None:
        said = []
        for question in prompt.questions:
            scores = np.concatenate(
                [self._look(question, part) for part in images.split(self.config.batch_size)]
            )
            place = (question.name, prompt.arm, prompt.attribute)
            self.scores.setdefault(place, []).append(scores)
            answers = self.calibrations[question.name].answer(scores[:MOST_IN_STRIP]).tolist()
            names = (*question.answers, "uncertain")  # -1 is the last
            said.append(", ".join(names[answer] for answer in answers))
        if prompt.shown:
            pixels = images[:MOST_IN_STRIP]
            self.shown.append(ShownPictures(prompt=prompt.text, pixels=pixels, said=tuple(said)))

    def figures(self) -> tuple[QuestionFigures, ...]:
        """Make the figures of every question."""
        return tuple(
            question_figures(
                question,
                self.calibrations[question.name],
                groups=self.prompts.attributes,
                asked=self._of(question, ASKED),
                neutral=self._of(question, NEUTRAL)[NEUTRAL],
                intervened=self._of(question, INTERVENTION),
                seed=self.config.seed,
            )
            for question in self.prompts.questions
        )

    def _of(self, question: Question, arm: str) -> dict[str, Floats]:
        """Return f64[n,C] by attribute, of one arm."""
        return {
            attribute: np.concatenate(parts)
            for (name, where, attribute), parts in self.scores.items()
            if (name, where) == (question.name, arm)
        }


def _batches(pictures: Sequence[Picture], size: int) -> Iterable[Sequence[Picture]]:
    return (pictures[start : start + size] for start in range(0, len(pictures), size))
