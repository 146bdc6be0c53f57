"""Shards of encoded pictures with random codes, written without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dallemini.data.token_shards import TokenRows, shard_name, token_dtype, write_shard

LENGTH, CODEBOOK_SIZE = 16, 64


def note(shard: int = 0, shards: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a footer."""
    common = {"codebook_size": CODEBOOK_SIZE, "image_length": LENGTH, "vqgan": "one"}
    return {**common, "shard": shard, "shards": shards, **changes}


def random_rows(
    count: int,
    *,
    seed: int = 0,
    captions: Sequence[Sequence[str]] | None = None,
    columns: Sequence[Mapping[str, object]] | None = None,
    codebook_size: int = CODEBOOK_SIZE,
) -> TokenRows:
    """Return rows whose keys and captions name their number."""
    codes = np.random.default_rng(seed).integers(0, codebook_size, (count, LENGTH))
    return TokenRows(
        keys=[f"{seed}/{row}.png" for row in range(count)],
        captions=captions or [[f"picture {row}", f"Bild {row} größer"] for row in range(count)],
        image_tokens=codes.astype(token_dtype(codebook_size)),
        columns=columns or [{}] * count,
    )


def write_set(folder: Path, *counts: int, **changes: Any) -> list[TokenRows]:
    """Write a shard of so many rows for each count."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [random_rows(count, seed=number) for number, count in enumerate(counts)]
    for number, rows in enumerate(written):
        write_shard(folder / shard_name(number), rows, note(number, len(counts), **changes))
    return written
