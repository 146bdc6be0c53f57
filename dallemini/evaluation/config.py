"""What an evaluation measures, checked when it is made. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..config import Config, suggest
from ..errors import ConfigError

DEFAULT_SPACE = "efficientnet-lite0"
SPACES = (DEFAULT_SPACE, "clip", "inception")
Measure = Literal["samples", "frechet", "retrieval", "clip_score", "reconstruction", "likelihood"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """What is measured, and on how much.

    Attributes:
        captions: how many are measured, chosen by the seed; all when there are fewer.
        images_per_prompt: pictures drawn for each caption; of several, the first and the one that
            the scorer likes best are measured.
        seed: of the choice of captions and galleries, and of the first picture; the next ones
            count up.
        references: real pictures that are read, those of the captions first: the others are rivals
            in galleries, and show what distance other real pictures have.
        gallery: real pictures among which a caption's own must be found.
        gallery_column: rivals in a gallery have the same value in this column of the data, such as
            a style.
        batch_size: pictures looked at or drawn at once, to bound memory.
        features: space of distances: efficientnet-lite0, clip, clip:SOURCE or inception:FILE.
        measure: which measures, of samples, frechet, retrieval, clip_score, reconstruction and
            likelihood.
        pictures: captions that the report shows.

    Raises:
        ConfigError: a value has the wrong type or is out of range.
    """

    captions: int = 200
    images_per_prompt: int = 1
    seed: int = 0
    references: int = 1000
    gallery: int = 100
    gallery_column: str | None = None
    batch_size: int = 16
    features: str = DEFAULT_SPACE
    measure: tuple[Measure, ...] = MEASURES
    pictures: int = 16

    def __post_init__(self) -> None:
        self.check_types()
        least = {"captions": 1, "images_per_prompt": 1, "references": 1, "gallery": 2}
        for name, low in {**least, "seed": 0, "batch_size": 1, "pictures": 0}.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} must be at least {low}, not {getattr(self, name)}.")
        split_space(self.features)
        if not self.measure:
            raise ConfigError(f"measure must name something of {', '.join(MEASURES)}.")


def split_space(name: str) -> tuple[str, str]:
    """Return the kind of a feature space, and where it comes from; empty for its own place.

    Raises:
        ConfigError: there is no such kind, or it is written in another way.

    Example:
        >>> from dallemini.evaluation.config import split_space
        >>> split_space("clip:me/clip"), split_space("clip")
        (('clip', 'me/clip'), ('clip', ''))
    """
    kind, _, source = name.partition(":")
    if kind not in SPACES:
        raise ConfigError(
            f"There is no feature space {name!r}.{suggest(kind, SPACES)} Any object with name, "
            "size and a call can be passed in Python."
        )
    if bool(source) != (kind == "inception") and kind != "clip":
        usage = f"{kind}:FILE" if kind == "inception" else kind
        raise ConfigError(f"The feature space {kind} is written {usage!r}, not {name!r}.")
    return kind, source
