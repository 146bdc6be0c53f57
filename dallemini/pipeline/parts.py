"""How a pipeline finds its parts, completes what a source lacks, and checks that they fit.

Private to `pipeline`. Holds the closed table of class names that `model_index.json` may use.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import hub
from .._version import __version__
from ..checkpoints import refuse_older_model
from ..config import read_json
from ..errors import (
    CheckpointError,
    DalleMiniError,
    HubError,
    InputError,
    InputTypeError,
    MissingFileError,
)
from ..files import write_text
from ..generation import GenerationConfig
from ..models.int8 import Quantization
from ..models.pretrained import PART_FILES, SourceName
from ..models.transformer import Transformer
from ..models.vqgan import VQGAN
from ..scorer import CLIPScorer, Scorer
from ..text.tokenizer import Tokenizer

INDEX_NAME = "model_index.json"
NOTES = ("README.md", "NOTICE", "LICENSE")
GENERATION_CONFIG_NAME = "generation_config.json"
DEFAULT_VQGAN = "dalle-mini/vqgan_imagenet_f16_16384"
# OpenAI's ViT-B/32 twice: as safetensors, and where that is missing as OpenAI published it.
DEFAULT_SCORERS = ("timm/vit_base_patch32_clip_224.openai", "openai/clip-vit-base-patch32")
CLASSES = {
    "tokenizer": Tokenizer,
    "transformer": Transformer,
    "vqgan": VQGAN,
    "scorer": CLIPScorer,
}


# Of an older save: what would be believed of the new weights. Other files stay.
OLDER_FILES = (
    INDEX_NAME,
    GENERATION_CONFIG_NAME,
    *NOTES,
    *(f"{part}/{file}" for part in CLASSES for file in PART_FILES),
)


class ImageTokenizer(Protocol):
    """What the pipeline asks of the part that turns codes into pictures; `VQGAN` is one."""

    @property
    def codebook_size(self) -> int:
        """Number of codes."""

    @property
    def image_length(self) -> int:
        """Number of tokens of a picture at the trained resolution."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def encode(self, images: Tensor) -> Tensor:
        """Map f[N,3,H,W] in [0, 1] to i64[N,L]."""

    def decode(self, image_tokens: Tensor) -> Tensor:
        """Map i64[N,L] to f[N,3,H,W] in [0, 1]."""


_IMAGE_TOKENIZER = ("codebook_size", "image_length", "device", "encode", "decode")


@dataclasses.dataclass(frozen=True)
class PartsLoader:
    """Loads the parts of one source, native or foreign, completing it from the Hub."""

    source: SourceName
    revision: str | None
    cache_dir: SourceName | None
    local_files_only: bool
    token: str | None
    device: str | torch.device
    dtype: torch.dtype | None
    quantization: Quantization | None = None
    subfolder: str | None = None

    @property
    def name(self) -> str:
        """The name recorded in pictures: source and subfolder and, from the Hub, the commit."""
        commit, name = self.opened.revision_key, _joined(self.opened.name, self.subfolder)
        return f"{name}@{commit[:12]}" if commit else name

    @cached_property
    def opened(self) -> hub.Source:
        """The source as a whole; models that are known by name to be others are refused first."""
        refuse_older_model(str(self.source), None)
        return hub.open_source(
            self.source,
            subfolder=self.subfolder,
            revision=self.revision,
            cache_dir=self.cache_dir,
            local_files_only=self.local_files_only,
            token=self.token,
        )

    @cached_property
    def index(self) -> Mapping[str, Any] | None:
        """The contents of `model_index.json`; None for a foreign source."""
        if INDEX_NAME not in self.opened.files():
            return None
        index = read_json(self.opened.fetch([INDEX_NAME])[INDEX_NAME])
        for part, known in CLASSES.items():
            found = index.get(part)
            if found != known.__name__ and not (part == "scorer" and found is None):
                raise CheckpointError(
                    f"{INDEX_NAME} of {self.opened.name} names {found!r} as {part}, "
                    f"but it must be {known.__name__!r}; use the version that wrote it."
                )
        return index

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer."""
        return Tokenizer.from_pretrained(self.source, **self._where("tokenizer"))

    def transformer(self) -> Transformer:
        """Load the transformer."""
        return Transformer.from_pretrained(
            self.source,
            **self._where("transformer"),
            device=self.device,
            dtype=self.dtype,
            quantization=self.quantization,
        )

    def vqgan(self) -> VQGAN:
        """Load the source's VQGAN, or the one that the released models were trained with."""
        source, where = self.source, self._where("vqgan")
        if self.index is None:
            source, where = DEFAULT_VQGAN, self._elsewhere()
        return VQGAN.from_pretrained(source, **where, device=self.device, dtype=self.dtype)

    def scorer(self) -> Scorer | None:
        """Load the source's scorer, None if a native source has none; else CLIP ViT-B/32."""
        if self.index is None:
            return self._default_scorer()
        if self.index.get("scorer") is None:
            return None
        return CLIPScorer.from_pretrained(
            self.source, **self._where("scorer"), device=self.device, dtype=self.dtype
        )

    def notes(self) -> dict[str, str]:
        """Read the card and the notices that go with a native source's weights."""
        if self.index is None:
            return {}
        names = [name for name in NOTES if name in self.opened.files()]
        paths = self.opened.fetch(names)
        return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}

    def generation_config(self) -> GenerationConfig:
        """Read the source's settings, or the defaults of the released models."""
        if self.index is None or GENERATION_CONFIG_NAME not in self.opened.files():
            return GenerationConfig()
        path = self.opened.fetch([GENERATION_CONFIG_NAME])[GENERATION_CONFIG_NAME]
        return GenerationConfig.from_file(path)

    def _default_scorer(self) -> Scorer:
        first: DalleMiniError | None = None
        for source in DEFAULT_SCORERS:
            try:
                return CLIPScorer.from_pretrained(
                    source, **self._elsewhere(), device=self.device, dtype=self.dtype
                )
            except (HubError, MissingFileError) as error:
                first = first or error
        assert first is not None
        raise first

    def _where(self, part: str) -> dict[str, Any]:
        # The branch and not its commit: the cache then also knows the branch when offline.
        subfolder = self.subfolder if self.index is None else _joined(self.subfolder, part)
        return {**self._elsewhere(), "subfolder": subfolder, "revision": self.revision}

    def _elsewhere(self) -> dict[str, Any]:
        return {
            "cache_dir": self.cache_dir,
            "local_files_only": self.local_files_only,
            "token": self.token,
        }


def _joined(folder: str | None, name: str | None) -> str:
    return "/".join(filter(None, (folder, name)))


def check_kinds(
    tokenizer: Tokenizer,
    transformer: Transformer,
    vqgan: ImageTokenizer,
    scorer: Scorer | None,
    config: GenerationConfig | None,
) -> None:
    """Look whether every part is what its keyword says.

    Raises:
        InputTypeError: one is not; the message names it.
    """
    wanted: dict[str, tuple[object, type]] = {
        "tokenizer": (tokenizer, Tokenizer),
        "transformer": (transformer, Transformer),
        "config": (GenerationConfig() if config is None else config, GenerationConfig),
    }
    for name, (part, kind) in wanted.items():
        if not isinstance(part, kind):
            raise InputTypeError(f"{name} must be a {kind.__name__}, not {part!r:.80}.")
    if lacking := [name for name in _IMAGE_TOKENIZER if not hasattr(vqgan, name)]:
        raise InputTypeError(
            f"vqgan must be a VQGAN or have its members; {type(vqgan).__name__} lacks "
            f"{', '.join(lacking)}."
        )
    if scorer is not None and not hasattr(scorer, "score"):
        raise InputTypeError(
            f"scorer must have a method `score`, such as CLIPScorer; {type(scorer).__name__} "
            "has none."
        )
    for name, loaded in (("vqgan", vqgan), ("scorer", scorer)):
        if isinstance(loaded, type):
            raise InputTypeError(
                f"{name} is the class {loaded.__name__} itself; pass a loaded one, such as "
                f"{loaded.__name__}.from_pretrained(...)."
            )


def check_parts(tokenizer: Tokenizer, transformer: Transformer, vqgan: ImageTokenizer) -> None:
    """Compare the sizes on which the parts must agree.

    Raises:
        InputError: they do not fit each other, or one has no weights; the message says which.
    """
    for name, part in (("transformer", transformer), ("vqgan", vqgan)):
        if torch.device(part.device).type == "meta":
            raise InputError(
                f"The {name} has no weights; make it with from_pretrained or from_config."
            )
    config = transformer.config
    if tokenizer.vocab_size > config.text_vocab_size:
        raise InputError(
            f"The tokenizer has {tokenizer.vocab_size} ids, but the transformer reads only "
            f"{config.text_vocab_size}; use the tokenizer that belongs to this transformer."
        )
    if tokenizer.max_length > config.max_text_length:
        raise InputError(
            f"The tokenizer gives {tokenizer.max_length} tokens, but the transformer reads only "
            f"{config.max_text_length}; use the tokenizer that belongs to this transformer."
        )
    codes = vqgan.codebook_size
    # Released vocabularies are padded a little beyond the codes, never doubled.
    if codes > config.image_vocab_size or 2 * codes <= config.image_vocab_size:
        raise InputError(
            f"The VQGAN has {codes} codes, but the transformer draws from "
            f"{config.image_vocab_size}; use the VQGAN whose codes it was trained on."
        )
    side = round(config.image_length**0.5)
    if side * side != config.image_length:
        raise InputError(
            f"The transformer draws {config.image_length} tokens, which is no square picture."
        )


def check_savable(parts: Mapping[str, object]) -> None:
    """Look whether `model_index.json` can name every part.

    Raises:
        InputTypeError: one is of a class of the user's own.
    """
    for name, part in parts.items():
        if part is not None and type(part) is not CLASSES[name]:
            raise InputTypeError(
                f"The {name} is a {type(part).__name__}, which {INDEX_NAME} cannot name; "
                f"it must be a {CLASSES[name].__name__} to be saved."
            )


def write_index(folder: Path, parts: Mapping[str, object]) -> None:
    """Write `model_index.json`, which names the class of each part."""
    index = {name: None if part is None else type(part).__name__ for name, part in parts.items()}
    text = json.dumps({"dallemini": {"version": __version__}, **index}, indent=2) + "\n"
    write_text(folder / INDEX_NAME, text)


def read_scores(scores: Tensor, images: int) -> list[float]:
    """Return what a scorer said about so many images.

    Raises:
        InputError: it is not one finite number for each.
    """
    if not isinstance(scores, Tensor) or scores.shape != (images,):
        found = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(f"A scorer must return one number for each of {images} images: {found}.")
    if not bool(scores.isfinite().all()):
        raise InputError(f"The scorer returned {scores.tolist()}, which cannot be ranked.")
    return scores.tolist()
