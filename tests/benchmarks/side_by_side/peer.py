"""min-dalle, used as its README says: `MinDalle(...)` and `generate_image`.

Its one habit set aside: at every start it asks the Hub for a file that it does not read.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .memory import with_memory
from .models import PROMPT, Size
from .stopwatch import IMAGE_LENGTH, Stopwatch, first_calls, measure_call, only_at


class Peer:
    """min-dalle with the models of one folder.

    Args:
        folder: as `models.write_model` leaves it.
        size: of its transformer.
        positions: compute only these steps of a picture; None for all. Nothing in a step of
            min-dalle depends on the position.
        device: "cpu" or "cuda".
    """

    def __init__(
        self, folder: Path, size: Size, *, positions: Collection[int] | None, device: str = "cpu"
    ) -> None:
        # torch's warnings about calls that it will drop, and about there being no GPU
        warnings.filterwarnings("ignore")
        self._model = _sized(size)(
            models_root=str(folder),
            dtype=torch.float32,
            device=device,
            is_mega=size.is_mega,
            is_reusable=True,
            is_verbose=False,
        )
        self._positions = positions

    def greedy(self, steps: int) -> list[int]:
        """Return the start token and the first tokens, drawn with top-k 1."""
        return first_calls(
            self._model.decoder,
            "sample_tokens",
            steps,
            lambda: self._draw(1, 1, top_k=1),
            pick=lambda **named: int(named["prev_tokens"][0, 0]),
        )

    def warm_up(self) -> None:
        """Decode one picture."""
        tokens = torch.zeros(1, IMAGE_LENGTH, dtype=torch.int64)
        self._model.image_grid_from_tokens(tokens, is_seamless=False)

    def measure(self, images: Sequence[int], *, seed: int) -> dict[str, dict[str, float]]:
        """Draw so many pictures, each number once, and tell the seconds of every part."""
        watch = Stopwatch()
        watch.watch("encoder", self._model.encoder, "forward")
        watch.watch("step", self._model.decoder, "sample_tokens")
        watch.watch("decode", self._model.detokenizer, "forward")
        complete = self._positions is None
        if self._positions is not None:
            only_at(self._model.decoder, "sample_tokens", self._positions, _skipped)
        return {
            str(count): with_memory(
                measure_call(
                    watch, partial(self._draw, count, seed), images=count, complete=complete
                )
            )
            for count in images
        }

    def _draw(self, images: int, seed: int, *, top_k: int = 256) -> Any:
        return self._model.generate_image(
            text=PROMPT,
            seed=seed,
            grid_size=round(images**0.5),
            is_seamless=False,
            temperature=1,
            top_k=top_k,
            supercondition_factor=16,
            is_verbose=False,
        )


def import_peer() -> ModuleType:
    """Import min-dalle, which no type checker knows."""
    return importlib.import_module("min_dalle.min_dalle")


def _sized(size: Size) -> Any:
    """Return its class; for the size of our tests, which it does not have, with other numbers."""
    module: Any = import_peer()
    module.requests.get = lambda address: None
    if size.name in ("mini", "mega"):
        return module.MinDalle

    class Sized(module.MinDalle):  # type: ignore[misc]
        def init_tokenizer(self) -> None:
            self.layer_count, self.attention_head_count = size.layers, size.heads
            self.embed_count, self.glu_embed_count = size.width, size.ffn
            self.text_vocab_count, self.image_vocab_count = size.text, size.image
            super().init_tokenizer()

    return Sized


def _skipped(*, attention_state: Tensor, prev_tokens: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    return prev_tokens[:, 0], attention_state
