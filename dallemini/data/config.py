"""What is done to pictures and captions between their files and a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..config import Config, both_sides
from ..errors import ConfigError

DEFAULT_SIZE = 256
MOST_PIXELS = 178_956_970  # what PIL opens at most


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """How records are read, which are taken, and how they become pictures of one size, captioned.

    Attributes:
        image_size: side S of the pictures in pixels, or height H and width W; None takes the
            model's where there is one, and 256 otherwise.
        crop: "center" scales a picture until it covers S x S (or H x W) and keeps the middle;
            "random" keeps a place drawn at random along what is over; "pad" keeps the whole
            picture, on white.
        mirror: whether half of the pictures, drawn at random, are mirrored left to right.
        caption_column: column, or field of a tar shard, with the caption or the list of captions.
            None takes the first of "caption", "captions", "text", "txt" and "TEXT" that is there.
        image_column: column with the path (relative to its file), the bytes, or both as
            `{"bytes", "path"}`. None takes the first of "image", "file", "file_name", "path",
            "jpg", "png" and other usual names that is there.
        caption_lines: "each" takes every line of a text file as a caption, "joined" all as one.
        caption_from: "files" reads captions; of a folder of pictures, "folder" takes the name of
            the folder that each lies in as its caption, and "name" that of its file.
        caption_choice: "random" draws one of several captions each time, "first" takes the first.
        caption_dropout: share of captions replaced by the empty one, from 0 to 1.
        require_captions: whether a record without a caption is bad; if not, its caption is empty.
        where: filters such as "width >= 256" or "lang == en"; a record passes all of them or is
            left out. One without a value in the column does not pass.
        min_clip_score: shorthand for a filter on `clip_score_column`.
        clip_score_column: where the scores are.
        min_side: a picture with a shorter side is bad.
        max_side: a picture with a longer side is bad.
        max_pixels: a picture with more pixels is bad.
        shuffle_buffer: how many records are held to be mixed with each other where they cannot be
            reached one by one: in tar shards, and in Parquet files that hold the pictures.

    Example:
        >>> DataConfig(image_size=128, where=("width >= 256",), caption_dropout=0.1).image_size
        128
    """

    image_size: int | tuple[int, ...] | None = None
    crop: Literal["center", "random", "pad"] = "center"
    mirror: bool = False
    caption_column: str | None = None
    image_column: str | None = None
    caption_lines: Literal["each", "joined"] = "each"
    caption_from: Literal["files", "folder", "name"] = "files"
    caption_choice: Literal["first", "random"] = "random"
    caption_dropout: float = 0.0
    require_captions: bool = True
    where: tuple[str, ...] = ()
    min_clip_score: float | None = None
    clip_score_column: str = "clip_score"
    min_side: int = 16
    max_side: int = 20_000
    max_pixels: int = 89_478_485
    shuffle_buffer: int = 1000

    def __post_init__(self) -> None:
        from .filters import parse_filter

        self.check_types()
        if isinstance(self.image_size, tuple) and len(self.image_size) != 2:
            raise ConfigError(
                f"DataConfig.image_size is a side, or height and width, not {self.image_size}."
            )
        for name in ("image_size", "min_side", "max_side", "max_pixels", "shuffle_buffer"):
            value = getattr(self, name)
            least = min(value) if isinstance(value, tuple) else value
            if least is not None and least < 1:
                raise ConfigError(f"DataConfig.{name} must be from 1, not {value}.")
        if not 0 <= self.caption_dropout <= 1:
            raise ConfigError(
                f"DataConfig.caption_dropout is a share from 0 to 1, not {self.caption_dropout}."
            )
        if self.max_pixels > MOST_PIXELS:
            raise ConfigError(
                f"DataConfig.max_pixels must be at most {MOST_PIXELS}, not {self.max_pixels}."
            )
        if self.min_side > self.max_side:
            raise ConfigError(
                f"DataConfig.min_side {self.min_side} is above max_side {self.max_side}."
            )
        if self.min_clip_score is not None and not math.isfinite(self.min_clip_score):
            raise ConfigError(
                f"DataConfig.min_clip_score must be a finite number, not {self.min_clip_score}."
            )
        for text in self.where:
            parse_filter(text)

    @property
    def side(self) -> int:
        """The side S that square pictures get, the shorter one of others."""
        return min(self.size)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that pictures get."""
        return both_sides(self.image_size or DEFAULT_SIZE)
