"""dallemini: a native checkpoint, converted from min-dalle's files, and the pipeline's call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dallemini import VQGAN, Pipeline, kernels
from dallemini.generation import Drawing, Sampler, Slots, TopSampler, make_generators
from dallemini.generation.drawing import split_texts
from dallemini.kernels import int8
from dallemini.models import towers

from .breakdown import Breakdown
from .memory import with_memory
from .models import PROMPT, Size
from .stopwatch import Stopwatch, measure_call

Precision = Literal["float32", "int8"]

GUIDANCE = 16.0
TOP_K = 256


def native_folder(folder: Path, precision: Precision) -> Path:
    """Return where the converted model lies."""
    return folder / f"dallemini-{precision}"


def convert(folder: Path, size: Size, precision: Precision) -> None:
    """Read min-dalle's files and save the pipeline in the native layout."""
    cache = folder / "cache"
    source = folder / size.folder
    pipe = Pipeline.from_pretrained(
        source,
        cache_dir=cache,
        vqgan=VQGAN.from_pretrained(folder / "vqgan" / "detoker.pt", cache_dir=cache),
        quantization=None if precision == "float32" else precision,
    )
    pipe.save_pretrained(native_folder(folder, precision))


class Ours:
    """A pipeline loaded from its native folder.

    Args:
        folder: as `convert` leaves it.
        precision: which of the folders in it.
    """

    def __init__(self, folder: Path, precision: Precision) -> None:
        self._pipe = Pipeline.from_pretrained(native_folder(folder, precision), dtype=precision)

    def greedy(self, steps: int) -> list[int]:
        """Return the start token and the first tokens, drawn with top-k 1."""
        tokens = self._tokens(1, TopSampler(top_k=1))
        first = self._pipe.transformer.config.decoder_start_token_id
        return [first, *(int(next(tokens)) for _ in range(steps - 1))]

    def warm_up(self) -> None:
        """Decode one picture."""
        self._pipe.vqgan.decode(torch.zeros(1, self._pipe.vqgan.image_length, dtype=torch.int64))

    def measure(self, images: Sequence[int], *, seed: int) -> dict[str, dict[str, float]]:
        """Draw so many pictures, each number once, and tell the seconds of every part."""
        watch = Stopwatch()
        watch.watch("encoder", self._pipe.transformer, "encode")
        watch.watch("step", self._pipe.transformer, "decode_step")
        watch.watch("decode", self._pipe.vqgan, "decode")
        return {
            str(count): with_memory(
                measure_call(watch, partial(self._draw, count, seed), images=count)
            )
            for count in images
        }

    def breakdown(
        self, images: int, *, positions: Sequence[int], steps: int = 4
    ) -> dict[str, dict[str, float]]:
        """Tell for some positions where the time of a step goes, in seconds a step."""
        pipe, breakdown = self._pipe, Breakdown()
        sampler = breakdown.scoped("sampling", TopSampler(top_k=TOP_K))
        tokens = self._tokens(images, sampler, guess=1)
        head = breakdown.watching(pipe.transformer.lm_head, "lm_head")
        # called through ctypes, which the profiler does not see
        called = breakdown.watching_functions(kernels, ("linear", "_attend"))
        layers = breakdown.watching_functions(towers, ("run_layers",))
        with head, called, layers, breakdown.watching_functions(int8, ("linear_int8",)):
            return breakdown.of(tokens, positions=positions, steps=steps)

    @torch.no_grad()
    def _tokens(self, images: int, sampler: Sampler, guess: int | None = None) -> Iterator[Tensor]:
        """Generate the tokens i64[N] of each position, guessing at most `guess` of them a pass."""
        pipe = self._pipe
        slots = Slots(pipe.transformer, sampler, num_codes=pipe.vqgan.codebook_size, guess=guess)
        texts, base = split_texts(pipe.tokenizer(PROMPT)), pipe.tokenizer.unconditional()
        for generator in make_generators(range(images)):
            drawing = Drawing(texts=tuple(texts), weights=(GUIDANCE,), base=base)
            slots.add(drawing, generator=generator)
        for _ in range(pipe.vqgan.image_length):
            slots.step()
            yield slots.latest

    def _draw(self, images: int, seed: int, *, top_k: int = TOP_K) -> object:
        return self._pipe(
            PROMPT,
            num_images_per_prompt=images,
            guidance_scale=GUIDANCE,
            temperature=1.0,
            top_k=top_k,
            batch_size=images,
            seed=seed,
            progress=False,
        )
