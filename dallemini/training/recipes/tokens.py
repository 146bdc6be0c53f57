"""The tokens that a transformer learns from: opened, or made first of pictures."""

from __future__ import annotations

import logging
import reprlib
from pathlib import Path

from ...data import EncodedImages, encode_images
from ...data.sources import split_weights
from ...data.token_shards import find_shards, is_encoded
from ...errors import InputError
from ...models.image_tokenizer import ImageTokenizer
from ...pipeline.pipeline import Pipeline
from ...text.tokenizer import Tokenizer
from ..distributed import rank, wait, world_size
from .checks import data_for
from .common import open_images
from .config import RunConfig

_COUNTED = 100_000  # pictures whose captions are measured at the start
_logger = logging.getLogger("dallemini.training")


def open_tokens(
    config: RunConfig,
    pipe: Pipeline,
    names: tuple[str, ...],
    *,
    name: str,
    prior: tuple[Path, float] | None = None,
) -> EncodedImages:
    """Open the tokens of pictures, made first where the data are pictures.

    Sources that have weights, or are partly tokens, are encoded into a folder each. `prior` is a
    folder of tokens that is mixed in, as the last set, with its share of all pictures.
    """
    folder = config.run_folder / f"tokens-{name}"
    plain, weights = split_weights(names)
    if weights is None and not any(is_encoded(Path(name)) for name in plain):
        sets = [str(_encode(config, pipe, names, folder))]
    else:
        sets = [
            source
            if is_encoded(Path(source))
            else str(_encode(config, pipe, (source,), folder.with_name(f"{folder.name}-{number}")))
            for number, source in enumerate(plain)
        ]
    if prior is not None:
        own = weights or [sum(s.rows for s in find_shards(Path(one))) for one in sets]
        sets, share = [*sets, str(prior[0])], prior[1]
        weights = (*((1 - share) * weight / sum(own) for weight in own), share)
    given = ["" if weights is None else f":{weight:.9f}" for weight in weights or sets]
    encoded = EncodedImages.open([a + b for a, b in zip(sets, given, strict=True)])
    _check_codes(encoded, pipe, names=", ".join(names))
    return encoded


def _encode(config: RunConfig, pipe: Pipeline, names: tuple[str, ...], folder: Path) -> Path:
    vqgan = pipe.vqgan
    if not isinstance(vqgan, ImageTokenizer):
        raise InputError(
            "Pictures are encoded by an ImageTokenizer; encode them before, or give vqgan."
        )
    rows, columns = pipe.transformer.config.grid
    height, width = rows * vqgan.downsample_factor, columns * vqgan.downsample_factor
    size = height if height == width else (height, width)
    encode_images(
        vqgan,
        open_images(names, data_for(config, size, multiple=size)),
        folder,
        rank=rank(),
        world_size=world_size(),
        workers=config.workers,
        progress=config.progress,
        replace=True,  # nothing else is kept in a run's own folder
    )
    wait()
    return folder


def _check_codes(encoded: EncodedImages, pipe: Pipeline, *, names: str) -> None:
    """Refuse tokens that are not those of the pipeline's image tokenizer, or of another grid."""
    vqgan, config = pipe.vqgan, pipe.transformer.config
    kind, length = type(vqgan).__name__, encoded.image_length
    if encoded.codebook_size != vqgan.codebook_size or length != config.image_length:
        raise InputError(
            f"{names} holds pictures of {length} tokens with {encoded.codebook_size} codes, but "
            f"the {kind} has {config.image_length} and {vqgan.codebook_size}: encode them with it."
        )
    if encoded.grid not in (None, config.grid):
        raise InputError(
            f"{names} holds pictures of {encoded.grid} rows and columns of tokens, but the "
            f"transformer draws {config.grid}: encode them at its size."
        )
    own = vqgan.fingerprint if isinstance(vqgan, ImageTokenizer) else None
    if own is not None and encoded.fingerprint not in (None, own):
        raise InputError(
            f"{names} was encoded by another image tokenizer (fingerprint {encoded.fingerprint}) "
            f"than this {kind} ({own}): encode the pictures with it."
        )


def tell_long_captions(encoded: EncodedImages, tokenizer: Tokenizer) -> None:
    """Count, once, the captions that the model does not read to their end."""
    rows = range(min(len(encoded), _COUNTED))
    captions = [caption for row in rows for caption in encoded.captions(row)]
    most = tokenizer.max_length
    long = [caption for caption in captions if len(tokenizer.tokenize(caption)) + 2 > most]
    if long and rank() == 0:
        _logger.warning(
            "%d of %d captions are longer than the %d tokens that the model reads, such as %s; "
            "their ends are not learnt.",
            len(long),
            len(captions),
            most,
            reprlib.repr(long[0]),
        )
