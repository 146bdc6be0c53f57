"""What a model is not to forget: pictures that it draws before it is trained, to be mixed in.

Source: the prior preservation of "DreamBooth" (Ruiz et al. 2022, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..._version import __version__
from ...data.encode import digest_encoder
from ...data.prompts import read_prompts
from ...data.token_shards import TokenRows, TokenShard, shard_name, token_dtype, write_shard
from ...errors import InputError
from ...files import as_path, make_folder
from ...models.image_tokenizer import ImageTokenizer
from ...pipeline.digests import fingerprint
from ...pipeline.pipeline import Pipeline
from ..distributed import rank, wait

if TYPE_CHECKING:
    from .config import TransformerTrainingConfig

PRIOR_IMAGES = 8  # of each prompt
_PROMPT_FILES = (".txt", ".csv", ".jsonl", ".parquet")


def read_listed(prompts: Sequence[str]) -> tuple[str, ...]:
    """Return prompts, which may be in a file.

    Raises:
        DalleMiniError: as `read_prompts`.
    """
    if len(prompts) == 1 and as_path(prompts[0]).suffix in _PROMPT_FILES:
        return tuple(read_prompts(prompts[0]))
    return tuple(prompts)


def draw_prior(config: TransformerTrainingConfig, pipe: Pipeline) -> Path:
    """Draw `PRIOR_IMAGES` pictures of each prompt into a set of tokens, unless they are there.

    Args:
        config: of the run, in whose folder they go.
        pipe: as it is before training; of several processes the first draws.

    Returns:
        The folder.

    Raises:
        InputError: the image tokenizer cannot tell whose codes they are.
        DalleMiniError: a file of prompts cannot be read, or the folder not written.
    """
    folder, vqgan = config.run_folder / "tokens-prior", pipe.vqgan
    if not isinstance(vqgan, ImageTokenizer):
        raise InputError("prior_prompts need an ImageTokenizer as vqgan; leave them out.")
    prompts = read_listed(config.prior_prompts)
    made_of = {"prompts": list(prompts), "seed": config.seed, "images": PRIOR_IMAGES}
    made_of["weights"] = fingerprint(pipe.transformer, vqgan)
    path = make_folder(folder) / shard_name(0)
    is_there = path.exists() and TokenShard.read(path).metadata.get("prior") == made_of
    if rank() == 0 and not is_there:
        drawn = pipe(
            prompts,
            num_images_per_prompt=PRIOR_IMAGES,
            candidates=1,
            rank=False,
            seed=config.seed,
            progress=config.progress,
        )
        tokens = drawn.image_tokens.cpu().numpy().astype(token_dtype(vqgan.codebook_size))
        metadata = {
            **{"version": __version__, "vqgan": digest_encoder(vqgan), "codes": vqgan.fingerprint},
            **{"codebook_size": vqgan.codebook_size, "image_length": tokens.shape[1]},
            **{"grid": list(pipe.transformer.config.grid), "shard": 0, "shards": 1},
            "prior": made_of,
        }
        write_shard(path, _rows(prompts, tokens), metadata)
    wait()
    return folder


def _rows(
    prompts: Sequence[str], tokens: np.ndarray[tuple[int, ...], np.dtype[np.int_]]
) -> TokenRows:
    captions = [(prompt,) for prompt in prompts for _ in range(PRIOR_IMAGES)]
    keys = [f"prior-{number:05}" for number in range(len(captions))]
    return TokenRows(keys=keys, captions=captions, image_tokens=tokens, columns=[{}] * len(keys))
