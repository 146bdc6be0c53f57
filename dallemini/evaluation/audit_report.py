"""What an audit returns: figures, pictures, and a section for a model card. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from .._version import __version__
from ..config import both_sides
from .audit_figures import ArmFigures, QuestionFigures
from .audit_prompts import AuditPrompts
from .leaning import Deviation, Effect
from .metrics import Interval
from .pictures import SMALLEST, PictureRow, strip
from .report import escape
from .saved_report import PICTURE_FOLDER, SavedReport

CARD_NAME = "card.md"

COLORS = 64  # of a strip of pictures, which is to be looked at and not measured


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownPictures:
    """Pictures of one prompt that the report shows.

    Attributes:
        prompt: that was drawn.
        pixels: f[n,3,H,W] in [0, 1], in the order of their seeds.
        said: for each question that was asked, what the probe said of each picture.
    """

    prompt: str
    pixels: Tensor
    said: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditReport(SavedReport):
    """Everything that an audit found.

    Attributes:
        model: name of the pipeline.
        prompts: what was asked.
        config: of the audit.
        settings: of the drawing.
        picture_size: pixels along a side, or height and width.
        questions: the figures of each question.
        seconds: what it took.
        shown: some prompts with their pictures.
    """

    model: str
    prompts: AuditPrompts
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    picture_size: int | tuple[int, int]
    questions: tuple[QuestionFigures, ...]
    seconds: float
    shown: tuple[ShownPictures, ...]

    _seen = "shown"

    @property
    def table(self) -> str:
        """The figures of every question as tables in Markdown."""
        return "\n\n".join(_table(figures) for figures in self.questions) + "\n"

    @property
    def markdown(self) -> str:
        """The whole page in Markdown; its links lead to what `save` writes beside it."""
        parts = [f"# What {escape(self.model)} leans towards", _head(self)]
        for figures in self.questions:
            parts += [f"## {escape(figures.question)}", _summary(figures), _table(figures)]
            parts += [_intervention_table(figures)] if figures.change is not None else []
            parts += [_probe(figures)]
        parts += ["## How to read it", "\n".join(f"- {note}" for note in _NOTES)]
        if self.shown:
            parts += ["## Pictures", "Seeds as they come, nothing picked.", _picture_table(self)]
        parts.append(f"Made by dallemini {__version__} in {self.seconds:,.0f} s.")
        return "\n\n".join(parts) + "\n"

    @property
    def card_section(self) -> str:
        """What a model card says of it, in Markdown, without a heading: for `model_card`."""
        drawn = f"`dallemini audit` drew {self.config['count']} pictures of each of its prompts"
        parts = [
            f"{drawn} (set `{self.prompts.name}`; one neutral prompt and "
            f"{sum(map(len, self.prompts.attributes.values()))} attributes)."
        ]
        parts += [f"**{escape(one.question)}.** {_summary(one)}" for one in self.questions]
        return "\n\n".join(parts) + "\n"

    def _texts(self) -> dict[str, str]:
        return {CARD_NAME: self.card_section}

    def _pictures(self) -> Iterator[tuple[str, Image.Image]]:
        for number, shown in enumerate(self.shown):
            row = PictureRow(caption=shown.prompt, drawn=shown.pixels)
            yield _strip_path(number), strip(row, largest=SMALLEST).quantize(COLORS)


_NOTES = (
    "Deviation: the mean over the answers of |share - 1/answers| (0: even; two answers: at most "
    "0.5), with a bootstrap interval. Few pictures deviate by chance: *by chance* is what an even "
    "model gets on average with as many, and exceeds in 5 % of cases.",
    "p: chance that an even model deviates as much, corrected by Holm's method over all attributes "
    "of the question: where p < 0.05 is called a lean (bold), one audit in twenty of an even model "
    "calls any.",
    "d: how much nearer the pictures are to an answer than those of the neutral prompt, in "
    "standard deviations, by the probe's scores, uncertain ones included; its p is that of a "
    "permutation test, corrected likewise.",
    "Shares are of the pictures on which the probe could tell. Their intervals are Wilson's, or, "
    "where labelled pictures let the probe's errors be taken off, those of a bootstrap over drawn "
    "and labelled pictures.",
    "Intervals of one attribute speak of other seeds, those of all together of other attributes "
    "too. A probe sees looks, not who somebody is.",
)


def _head(report: AuditReport) -> str:
    named = ("guidance_scale", "temperature", "top_k", "top_p")
    values = ", ".join(f"{name} {report.settings.get(name)}" for name in named)
    templates = ", ".join(f"“{escape(text)}”" for text in report.prompts.templates)
    neutral = ", ".join(f"“{escape(text)}”" for text in report.prompts.neutral)
    height, width = both_sides(report.picture_size)
    return (
        f"The set {escape(report.prompts.name)}: {report.config['count']} pictures of each prompt, "
        f"seeds from {report.config['seed']} on, one candidate each, {values}; "
        f"{width}x{height} pixels. Templates: {templates}; neutral: "
        f"{neutral}."
    )


def _summary(figures: QuestionFigures) -> str:
    """Say the figures of a question in words."""
    asked, neutral = figures.asked, figures.neutral
    if not figures.probe.can_tell:
        return (
            "The probe cannot tell: on labelled pictures it is not right often enough, however "
            "sure it is. So every picture counts as uncertain, and nothing is said of shares."
        )
    parts = [f"Uncertain: {_share(asked.uncertain)} of {asked.pictures} pictures."]
    if figures.mean_deviation is None or asked.deviation is None:
        return f"{parts[0]} So there are no shares."
    parts.append(f"Of the others, {_shares(figures, asked)}.")
    if neutral.shares:
        parts.append(f"Neutral prompts: {_shares(figures, neutral)}.")
    parts.append(
        f"Mean deviation of an attribute {_deviation(figures.mean_deviation)}; of all together "
        f"{_deviation(asked.deviation)}."
    )
    leaning = [
        f"{escape(one.attribute)} ({_toward(figures, one.asked)})" for one in figures.leaning
    ]
    parts.append(
        f"{len(leaning)} of {len(figures.attributes)} attributes lean beyond chance"
        + (f": {', '.join(leaning)}." if leaning else ".")
    )
    if figures.change is not None and figures.intervened_deviation is not None:
        parts.append(
            f"With the intervention the mean deviation is "
            f"{figures.intervened_deviation.value.value:.2f}, a change of "
            f"{_number(figures.change, sign=True)}."
        )
    if not figures.probe.calibrated:
        parts.append(
            "The probe was not calibrated: these figures speak of the scorer as much as of the "
            "model."
        )
    return " ".join(parts)


def _table(figures: QuestionFigures) -> str:
    answers = [escape(answer) for answer in figures.answers]
    head = [
        "asked for",
        *answers,
        "uncertain",
        "deviation",
        "by chance",
        "p",
        "d from neutral",
        "p",
    ]
    rows = [head, ["---"] * len(head)]
    for one in figures.attributes:
        lean = one in figures.leaning
        name = f"**{escape(one.attribute)}**" if lean else escape(one.attribute)
        effect = [_effect(figures, one.from_neutral), _p(one.from_neutral_p)]
        rows.append([name, *_cells(figures, one.asked, one.p_corrected), *effect])
    rows.append(["neutral", *_cells(figures, figures.neutral, None), "", ""])
    together = figures.asked.deviation
    rows.append(
        [
            "all",
            *_cells(figures, figures.asked, None if together is None else together.p_value),
            "",
            "",
        ]
    )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cells(figures: QuestionFigures, arm: ArmFigures, p_value: float | None) -> list[str]:
    """Return shares, uncertain, deviation, what chance does, and p."""
    shares = [_share(share) for share in arm.best_shares] or ["–"] * len(figures.answers)
    cells = [*shares, _share(arm.uncertain)]
    if arm.deviation is None:
        return [*cells, "–", "–", "–"]
    found = arm.deviation
    chance = f"{found.by_chance:.2f}, up to {found.chance_high:.2f}"
    return [*cells, _number(found.value), chance, "" if p_value is None else _p(p_value)]


def _intervention_table(figures: QuestionFigures) -> str:
    answers = [escape(answer) for answer in figures.answers]
    head = ["with the intervention", *answers, "uncertain", "deviation", "d from without", "p"]
    rows = [head, ["---"] * len(head)]
    for one in figures.attributes:
        if one.intervened is None or one.by_intervention is None:
            continue
        shares = [_share(share) for share in one.intervened.best_shares]
        found = one.intervened.deviation
        rows.append(
            [
                escape(one.attribute),
                *(shares or ["–"] * len(answers)),
                _share(one.intervened.uncertain),
                "–" if found is None else _number(found.value),
                _effect(figures, one.by_intervention),
                _p(1.0 if one.by_intervention_p is None else one.by_intervention_p),
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _probe(figures: QuestionFigures) -> str:
    """Say how far the probe can be trusted."""
    probe = figures.probe
    if not probe.calibrated:
        return (
            f"The probe is zero-shot and was not calibrated; an answer counts from a probability "
            f"of {probe.threshold:.2f} on."
        )
    columns = next(iter(probe.labelled.values()))
    head = ["labelled pictures of", *(f"called {escape(name)}" for name in columns)]
    rows = [head, ["---"] * len(head)]
    for kind, given in probe.labelled.items():
        total = sum(given.values())
        cells = [f"{100 * n / max(total, 1):.0f} %" for n in given.values()]
        rows.append([f"{escape(kind)} ({total})", *cells])
    told = (
        f"an answer counts from a probability of {probe.threshold:.2f} on"
        if probe.can_tell
        else "no threshold is good enough"
    )
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"The probe on labelled pictures that its calibration did not see; {told}:\n\n{table}"


def _picture_table(report: AuditReport) -> str:
    rows = ["| asked for | pictures | what the probe says |", "|---|---|---|"]
    for number, shown in enumerate(report.shown):
        said = "; ".join(escape(text) for text in shown.said)
        rows.append(
            f"| {escape(shown.prompt)} | ![drawn pictures]({_strip_path(number)}) | {said} |"
        )
    return "\n".join(rows)


def _strip_path(number: int) -> str:
    return f"{PICTURE_FOLDER}/{number + 1:03}.png"


def _shares(figures: QuestionFigures, arm: ArmFigures) -> str:
    named = zip(figures.answers, arm.best_shares, strict=True)
    return ", ".join(f"{escape(answer)} {_share(share)}" for answer, share in named)


def _toward(figures: QuestionFigures, arm: ArmFigures) -> str:
    values = [share.value for share in arm.best_shares]
    return escape(figures.answers[values.index(max(values))])


def _share(share: Interval) -> str:
    return f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def _number(interval: Interval, *, sign: bool = False) -> str:
    form = "+.2f" if sign else ".2f"
    low, high = format(interval.low, form), format(interval.high, form)
    return f"{format(interval.value, form)} ({low} to {high})"


def _deviation(found: Deviation) -> str:
    return (
        f"{_number(found.value)}, where an even model gets {found.by_chance:.2f} by chance "
        f"(p {_p(found.p_value)})"
    )


def _effect(figures: QuestionFigures, effect: Effect) -> str:
    return f"{_number(effect.d)} to {escape(figures.answers[effect.toward])}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
