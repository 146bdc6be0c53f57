"""Parts that a pipeline loads when they are first asked for: what ranks, and what enlarges."""

from __future__ import annotations

import threading
from typing import Any

from ..generation import GenerationConfig
from ..hub.packaged import DEFAULT_UPSCALER, PACKAGED
from ..models.transformer import Transformer
from ..models.upscaler import Upscaler
from ..scorer import Scorer
from .enlarging import ImageUpscaler, check_factor
from .judging import needed_scorer
from .parts import PartsLoader

_LOADING = threading.RLock()  # one for all, since a pipeline that holds one cannot be pickled


class LateParts:
    """The part of `Pipeline` that loads a scorer and upscalers when they are needed."""

    transformer: Transformer
    _scorer: Scorer | None
    _upscaler: ImageUpscaler | None
    _packaged: dict[str, Upscaler]  # those that are not its own, by name
    _moved: dict[str, Any]
    _origin: PartsLoader | None

    @property
    def scorer(self) -> Scorer:
        """The scorer, loaded when it is first asked for.

        Raises:
            InputError: this pipeline has none.
        """
        return needed_scorer(self._find_scorer())

    @property
    def upscaler(self) -> ImageUpscaler:
        """What makes pictures larger, loaded when it is first asked for.

        Raises:
            MissingDependencyError: this pipeline has none, and the extra `upscale` is missing.
        """
        return self._upscaler_named(None)

    def _find_scorer(self) -> Scorer | None:
        with _LOADING:  # one thread loads it, the others wait
            if self._scorer is None and self._origin is not None:
                self._scorer = self._follow(self._origin.scorer())
            return self._scorer

    def _find_upscaler(self) -> ImageUpscaler | None:
        with _LOADING:
            if self._upscaler is None and self._origin is not None:
                self._upscaler = self._follow(self._origin.upscaler())
            return self._upscaler

    def _upscaler_named(self, name: str | None) -> ImageUpscaler:
        """Return the pipeline's own; without one the packaged one of this name, or the default."""
        if (found := self._find_upscaler()) is not None:
            return found
        name = name if name in PACKAGED else DEFAULT_UPSCALER
        with _LOADING:
            if name not in self._packaged:
                precision = {} if self._origin is None else self._origin.precision("upscaler")
                place = {"device": self.transformer.device}
                loaded = Upscaler.from_pretrained(name, **precision | place)
                self._packaged[name] = self._follow(loaded)
            return self._packaged[name]

    def _follow(self, part: Any) -> Any:
        """Move a part that was loaded late to where the others went meanwhile."""
        return part.to(**self._moved) if part is not None and self._moved else part

    def _enlarger(self, config: GenerationConfig, name: str | None) -> ImageUpscaler | None:
        """Return the upscaler of a call that asks for larger pictures, having checked it."""
        if config.upscale is None:
            return None
        upscaler = self._upscaler_named(name)
        check_factor(upscaler, config.upscale)
        return upscaler
