"""How a pipeline finds its parts, completes what a source lacks, and checks that they fit.

Holds the closed table of class names that `model_index.json` may use, and the one finder of parts:
the command line and training look for them with it, too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import checkpoints, hub
from .._version import __version__
from ..checkpoints import Component
from ..checkpoints.formats import fetch_json
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
from ..foreign import show
from ..generation import GenerationConfig
from ..models import precision
from ..models.clip import CLIP
from ..models.image_tokenizer import ImageTokenizer
from ..models.precision import Weights, read_precisions
from ..models.pretrained import PART_FILES, Loadable, PretrainedModule
from ..models.tokenizers import IMAGE_TOKENIZERS
from ..models.transformer import Transformer
from ..models.upscaler import Upscaler
from ..scorer import CLIPScorer, Scorer
from ..text.tokenizer import Tokenizer
from ..text.vocabulary import find_files
from .pixels import ImageTokenizerLike

INDEX_NAME = "model_index.json"
EVALUATION_NAME = "evaluation.json"
NOTES = ("README.md", "NOTICE", "LICENSE", EVALUATION_NAME)
GENERATION_CONFIG_NAME = "generation_config.json"
DEFAULT_VQGAN = "dalle-mini/vqgan_imagenet_f16_16384"
# OpenAI's ViT-B/32 twice: as safetensors, and where that is missing as OpenAI published it.
DEFAULT_SCORERS = ("timm/vit_base_patch32_clip_224.openai", "openai/clip-vit-base-patch32")
CLASSES: dict[str, tuple[type[Loadable], ...]] = {
    "tokenizer": (Tokenizer,),
    "transformer": (Transformer,),
    "vqgan": IMAGE_TOKENIZERS,
    "scorer": (CLIPScorer,),
    "upscaler": (Upscaler,),
}
OPTIONAL = ("scorer", "upscaler")
_MODELS: dict[str, tuple[type[PretrainedModule[Any]], ...]] = {
    "transformer": (Transformer,),
    "vqgan": IMAGE_TOKENIZERS,
    "scorer": (CLIP,),
    "upscaler": (Upscaler,),
}
COMPONENTS: dict[str, tuple[Component, ...]] = {
    part: tuple(kind.component for kind in kinds) for part, kinds in _MODELS.items()
}
MODELS: dict[Component, type[PretrainedModule[Any]]] = {
    kind.component: kind for kinds in _MODELS.values() for kind in kinds
}


# Of an older save: what would be believed of the new weights. Other files stay.
OLDER_FILES = (
    INDEX_NAME,
    GENERATION_CONFIG_NAME,
    *NOTES,
    *("SHA256SUMS", "contents.cdx.json"),
    *(f"{part}/{file}" for part in CLASSES for file in PART_FILES),
)


_IMAGE_TOKENIZER = ("codebook_size", "image_length", "device", "encode", "decode")


@dataclass(frozen=True)
class Parts:
    """Where the parts of an opened source lie; `find` and `all` load nothing.

    A saved pipeline says so in its `model_index.json`, one native part by its mark; foreign files
    are taken by formats. Weights are described only where two formats claim one file.

    Attributes:
        source: the source as a whole.

    Raises:
        UnsupportedModelError: the source holds a model of another architecture.
        CheckpointError: its files do not tell what they are, or its index is of another version.
        HubError: the Hub could not be reached or refused.
    """

    source: hub.Source

    @cached_property
    def index(self) -> Mapping[str, Any] | None:
        """The contents of `model_index.json`; None for a foreign source."""
        if INDEX_NAME not in self.source.files():
            return None
        index = read_json(self.source.fetch([INDEX_NAME])[INDEX_NAME])
        for part, known in CLASSES.items():
            found = index.get(part)
            names = [kind.__name__ for kind in known]
            if found not in names and not (part in OPTIONAL and found is None):
                raise CheckpointError(
                    f"{INDEX_NAME} of {self.source.name} names {show(found)} as {part}, but it "
                    f"must be {' or '.join(map(repr, names))}; use the version that wrote it."
                )
        return index

    def find(self, part: str) -> hub.Source | None:
        """Return where a part lies, None where the source has none.

        Raises:
            MissingFileError: the index names a part whose folder is missing.
        """
        if self.index is None:
            return self.source if part in self._held else None
        return None if self.index.get(part) is None else self.source.inside(part)

    def all(self) -> dict[str, hub.Source]:
        """Return where each part lies, in the order of `CLASSES`.

        Raises:
            MissingFileError: there is none.
        """
        places = {part: self.find(part) for part in CLASSES}
        found = {part: place for part, place in places.items() if place is not None}
        if not found:
            source = self.source
            raise MissingFileError(
                f"{source.selected or source.name} is not a pipeline, transformer, tokenizer, "
                f"VQGAN, CLIP or upscaler in a known format; {source.told_files()}."
            )
        return found

    def notes(self) -> dict[str, str]:
        """Read the card, the notices and the figures that go with a native source's weights."""
        if self.index is None:
            return {}
        names = [name for name in NOTES if name in self.source.files()]
        paths = self.source.fetch(names)
        # a licence is often older than UTF-8, and no reason not to save what it goes with
        return {name: path.read_text("utf-8-sig", errors="replace") for name, path in paths.items()}

    def generation_config(self) -> GenerationConfig:
        """Read the source's settings, or the defaults of the released models."""
        if self.index is None or GENERATION_CONFIG_NAME not in self.source.files():
            return GenerationConfig()
        path = self.source.fetch([GENERATION_CONFIG_NAME])[GENERATION_CONFIG_NAME]
        return GenerationConfig.from_file(path)

    @cached_property
    def _held(self) -> set[str]:
        """The parts of a source without an index."""
        mark = (fetch_json(self.source) or {}).get("dallemini")
        native = str(mark.get("component")) if isinstance(mark, dict) else None
        components: set[Any] = _find(self.source) if native is None else {native}
        held = {part for part, kinds in COMPONENTS.items() if components.intersection(kinds)}
        # the vocabulary beside a lone CLIP belongs to the scorer
        if native in (None, "tokenizer") and (not held or "transformer" in held):
            with contextlib.suppress(MissingFileError):
                find_files(self.source)
                held.add("tokenizer")
        return held


def _find(source: hub.Source) -> set[Component]:
    """Return which components foreign files hold."""
    known = {component: model.expected_shapes for component, model in MODELS.items()}
    return checkpoints.find_components(source, known)


def component_of(part: str, source: hub.Source) -> Component:
    """Return which of the components that a part may be lies in a source.

    Raises:
        As `checkpoints.find_components`.
    """
    first, *others = COMPONENTS[part]
    if not others:
        return first
    known = {component: MODELS[component].expected_shapes for component in (first, *others)}
    found = checkpoints.find_components(source, known)
    return next((component for component in known if component in found), first)


def describe(source: hub.Source, component: Component) -> tuple[str, checkpoints.LazyCheckpoint]:
    """Return the format of a component and its tensors, still unread.

    Raises:
        As `checkpoints.describe`.
    """
    expected = MODELS[component].expected_shapes
    return checkpoints.describe(source, component=component, expected=expected)


def choose_weights(dtype: object, quantization: object, place: torch.device) -> dict[str, Weights]:
    """Return the precision of each part with weights, before anything is opened.

    Where "int8" stands for the whole pipeline, the image tokenizer decodes in bfloat16 on
    processors that have it.

    Raises:
        InputTypeError, InputError: as `read_precisions`.
        UnsupportedOperationError: a part cannot have the precision that is asked for.
    """
    weights = read_precisions(dtype, quantization, parts=COMPONENTS, quantizable="transformer")
    whole = dtype == "int8" if dtype is not None else quantization == "int8"
    if whole and place.type == "cpu" and precision.has_native_bfloat16():
        weights["vqgan"] = Weights(torch.bfloat16)
    for part, kinds in _MODELS.items():
        kinds[0].check_weights(weights[part], place)
    return weights


@dataclass(frozen=True, kw_only=True)
class PartsLoader:
    """Loads the parts of a source, completing a foreign one from the Hub.

    Attributes:
        parts: where they lie.
        device: where models go.
        weights: the precision of each part.
    """

    parts: Parts
    device: torch.device
    weights: Mapping[str, Weights]

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer."""
        return Tokenizer.from_pretrained(self.parts.find("tokenizer") or self.parts.source)

    def transformer(self) -> Transformer:
        """Load the transformer."""
        source = self.parts.find("transformer") or self.parts.source
        return Transformer.from_pretrained(source, **self.precision("transformer"))

    def vqgan(self) -> ImageTokenizer:
        """Load the image tokenizer, that of the released models where the source has none."""
        source = self._beside("vqgan") or hub.open(DEFAULT_VQGAN, self._elsewhere)
        return ImageTokenizer.from_pretrained(source, **self.precision("vqgan"))

    def scorer(self) -> CLIPScorer | None:
        """Load the source's scorer, None if a native source has none; else CLIP ViT-B/32."""
        source = self._beside("scorer")
        if source is None:
            return self._default_scorer() if self.parts.index is None else None
        return CLIPScorer.from_pretrained(source, **self.precision("scorer"))

    def upscaler(self) -> Upscaler | None:
        """Load the source's upscaler, None if it has none."""
        source = self._beside("upscaler")
        if source is None:
            return None
        return Upscaler.from_pretrained(source, **self.precision("upscaler"))

    def _default_scorer(self) -> CLIPScorer:
        first: DalleMiniError | None = None
        for name in DEFAULT_SCORERS:
            try:
                source = hub.open(name, self._elsewhere)
                return CLIPScorer.from_pretrained(source, **self.precision("scorer"))
            except (HubError, MissingFileError) as error:
                first = first or error
        assert first is not None
        raise first

    def _beside(self, part: str) -> hub.Source | None:
        """Return where a part lies: also beside the one file of a transformer that was named."""
        source = self.parts.source
        parts = self.parts if source.selected is None else Parts(replace(source, selected=None))
        return parts.find(part)

    @property
    def _elsewhere(self) -> hub.Where:
        return replace(self.parts.source.where, revision=None)

    def precision(self, part: str) -> dict[str, Any]:
        """Return the keywords of `from_pretrained` for a part."""
        weights = self.weights[part]
        return {"device": self.device, "dtype": weights.quantization or weights.dtype}


def check_kinds(
    tokenizer: Tokenizer,
    transformer: Transformer,
    vqgan: ImageTokenizerLike,
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


def check_parts(tokenizer: Tokenizer, transformer: Transformer, vqgan: ImageTokenizerLike) -> None:
    """Compare the sizes on which the parts must agree, and whose codes the transformer draws.

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
            f"The {_kind(vqgan)} has {codes} codes, but the transformer draws from "
            f"{config.image_vocab_size}; use the {_kind(vqgan)} whose codes it was trained on."
        )
    trained = config.image_tokenizer
    if trained is not None and isinstance(vqgan, ImageTokenizer) and vqgan.fingerprint != trained:
        raise InputError(
            f"The transformer was trained on the codes of another image tokenizer (fingerprint "
            f"{trained}) than this {_kind(vqgan)} ({vqgan.fingerprint}); use that one."
        )
    _ = config.grid  # which refuses a length that is no grid


def _kind(vqgan: object) -> str:
    return type(vqgan).__name__


def check_savable(parts: Mapping[str, Any]) -> None:
    """Look whether `model_index.json` can name every part, and all could be loaded again.

    Raises:
        InputTypeError: one is of a class of the user's own.
        InputError: they do not fit each other, such as one that was set later.
        UnsupportedOperationError: one could not be loaded, such as a model with adapters.
    """
    for name, part in parts.items():
        if part is not None and type(part) not in CLASSES[name]:
            raise InputTypeError(
                f"The {name} is a {type(part).__name__}, which {INDEX_NAME} cannot name; "
                f"it must be a {' or '.join(kind.__name__ for kind in CLASSES[name])} to be saved."
            )
        if isinstance(part, Loadable):
            part._check_savable()
    check_parts(parts["tokenizer"], parts["transformer"], parts["vqgan"])


def write_index(folder: Path, classes: Mapping[str, str]) -> None:
    """Write `model_index.json` from the name of the class of each part that there is."""
    names = {part: classes.get(part) for part in CLASSES}
    text = json.dumps({"dallemini": {"version": __version__}, **names}, indent=2) + "\n"
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
