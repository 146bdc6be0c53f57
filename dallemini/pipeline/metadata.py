"""What a picture's file says of how it was drawn: written and read.

Texts in a PNG are chunks of their own (`prompt`, `seed`, `config`, ...); a JPEG or a WebP, which
are used for grids only, have them as one JSON object in their comment.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .._version import __version__
from ..errors import InputError
from ..foreign import show
from ..generation.blend import Blend, Prompt
from ..generation.config import GenerationConfig, guidance_name
from ..generation.sampling import sampler_name
from ..models.adapters import AdapterUse
from ..models.lora import adapters_in
from ..safety.checker import SafetyFlag
from ..sheets import read_texts
from .digests import fingerprint, upscaler_digest
from .enlarging import upscaler_name
from .moving import precisions

if TYPE_CHECKING:
    import PIL.Image

# What parsing raises where something else wrote the texts.
_UNREADABLE = (
    *(ArithmeticError, AttributeError, LookupError),
    *(RecursionError, TypeError, ValueError),
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Drawn:
    """N pictures of B prompts, prompt-major, and all that was settled about them.

    Attributes:
        prompts: the B prompts; a `Blend` reads as its texts with their shares.
        images: N pictures, RGB.
        image_tokens: i64[N,P], the codes that they were decoded from, row by row. In a look at
            pictures of which a part is given, or of another size than the model's own, i64[N,L], -1
            where there is none yet.
        seeds: N seeds; each draws its picture again, alone.
        config: the settings of the call.
        scores: N scores if they were ranked or chosen among candidates, higher is better.
        model: name of the model that drew them.
        sampler: name of the caller's own sampler, if there was one; the settings of sampling in
            `config` then played no part.
        precision: of each part, the name of its dtype or "int8".
        adapters: the LoRA adapters that changed the transformer's weights.
        weights: a digest of samples of the weights: others have another one.
        edit: of pictures that were drawn from another one, the operation, its settings, and the
            SHA-256 of each picture that was given; None for others.
        upscaler: name of what made the pictures `config.upscale` times larger, if anything did.
        upscaler_weights: a digest of samples of its weights; "" where it has none that are seen.
        watermark: what kind of mark the tokens have, if any; the key is not told.
        safety_flags: what the safety checker flagged, None for each picture that passed; None
            where nothing was checked.
    """

    prompts: tuple[Prompt, ...]
    images: list[PIL.Image.Image]
    image_tokens: Tensor
    seeds: tuple[int, ...]
    config: GenerationConfig = field(default_factory=GenerationConfig)
    scores: tuple[float, ...] | None = None
    model: str = ""
    sampler: str | None = None
    precision: Mapping[str, str] = field(default_factory=dict)
    adapters: tuple[AdapterUse, ...] = ()
    weights: str = ""
    edit: Mapping[str, Any] | None = None
    upscaler: str | None = None
    upscaler_weights: str = ""
    watermark: str | None = None
    safety_flags: tuple[SafetyFlag | None, ...] | None = None

    @property
    def nsfw_content_detected(self) -> tuple[bool, ...] | None:
        """Which pictures were flagged, by the name that diffusers has; None: nothing was checked.

        A flag may be about anything that the checker looks for, such as a word of the prompt.
        """
        if self.safety_flags is None:
            return None
        return tuple(flag is not None for flag in self.safety_flags)

    @property
    def images_per_prompt(self) -> int:
        """How many pictures each prompt has."""
        return len(self.images) // len(self.prompts)


@dataclass(frozen=True, kw_only=True)
class PictureMetadata:
    """How a saved picture, or the pictures of a grid, were drawn.

    Attributes:
        prompts: one, or those of a grid.
        seeds: one for each picture.
        config: the settings that draw them again with these prompts.
        model: name of the model, with its commit where it has one.
        version: of dallemini.
        weights: a digest of samples of the weights; "" where an older version wrote the file.
        precision: of each part, the name of its dtype or "int8".
        commit: of the model on the Hub, if it came from there.
        adapters: the LoRA adapters that had a part in it.
        sampler: name of the caller's own sampler, if there was one.
        guidance: name of the function of guidance, if there was one; the scale in `config` is then
            not what was used.
        edit: of pictures that were drawn from another one, the operation, its settings, and the
            SHA-256 of each picture that was given; None for others.
        upscaler: name of what made them `config.upscale` times larger, if anything did.
        upscaler_weights: a digest of samples of its weights; "" where it has none that are seen, or
            an older version wrote the file.
        watermark: what kind of mark the tokens have, if any; the key is not told.
        safety: of each picture what was done for which reason, such as "blank: nudity, ...", ""
            where it passed; empty where none was flagged.
        scores: those that the pictures were ranked or chosen by.

    Example:
        >>> from dallemini import GenerationOutput
        >>> from dallemini.testing import tiny_pipeline
        >>> out = tiny_pipeline()("a red apple", seed=7, progress=False)
        >>> told = GenerationOutput.read_metadata(out.save("drawn")[0])
        >>> told.prompts, told.seeds, told.model
        (('a red apple',), (7,), 'tiny')
    """

    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    config: GenerationConfig
    model: str = ""
    version: str = ""
    weights: str = ""
    precision: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    adapters: tuple[AdapterUse, ...] = ()
    sampler: str | None = None
    guidance: str | None = None
    edit: Mapping[str, Any] | None = None
    upscaler: str | None = None
    upscaler_weights: str = ""
    watermark: str | None = None
    safety: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()


def describe_picture(pictures: Drawn, index: int, prompt: Prompt) -> dict[str, str]:
    """Return the texts of one picture, whose prompt this is."""
    chunks = {
        "prompt": _clean(str(prompt)),
        "seed": str(pictures.seeds[index]),
        **_shared(pictures, seed=pictures.seeds[index], num_images_per_prompt=1),
    }
    if isinstance(pictures.config.negative_prompt, tuple):
        number = range(len(pictures.images))[index] // pictures.images_per_prompt
        config = json.loads(chunks["config"])
        config["negative_prompt"] = pictures.config.negative_prompt[number]
        chunks["config"] = json.dumps(config)
    if isinstance(prompt, Blend):
        chunks["blend"] = json.dumps(prompt.weights)
    if pictures.scores is not None:
        chunks["score"] = f"{pictures.scores[index]:.4f}"
    flag = None if pictures.safety_flags is None else pictures.safety_flags[index]
    if flag is not None:
        chunks["safety"] = _clean(str(flag))
        if flag.action != "warn":
            chunks.pop("watermark", None)  # of a picture that is not seen
    return chunks


def describe_grid(pictures: Drawn) -> dict[str, str]:
    """Return the texts of a grid: `prompts`, `seeds` and `scores` are JSON lists."""
    prompts = [
        prompt.weights if isinstance(prompt, Blend) else _clean(prompt)
        for prompt in pictures.prompts
    ]
    chunks = {
        "prompts": json.dumps(prompts),
        "seeds": json.dumps(pictures.seeds),
        **_shared(pictures, seed=pictures.seeds, num_images_per_prompt=pictures.images_per_prompt),
    }
    if pictures.scores is not None:
        chunks["scores"] = json.dumps([round(score, 4) for score in pictures.scores])
    if any(flags := pictures.safety_flags or ()):
        chunks["safety"] = json.dumps([_clean(str(flag or "")) for flag in flags])
    return chunks


def _shared(pictures: Drawn, **own: Any) -> dict[str, str]:
    """Return the texts that tell of the call; `own` settings are those of what is described."""
    plain: Any = {"batch_size": "auto", "rank": False, "candidates": 1, "prune": False, **own}
    config = pictures.config.override(**plain).to_dict()
    function = guidance_name(pictures.config.guidance_scale)
    if function is not None:
        del config["guidance_scale"]
    commit = re.fullmatch(r".+@([0-9a-f]{12,64})", pictures.model)
    kinds = set(pictures.precision.values())
    chunks = {
        "config": json.dumps(config),
        "model": pictures.model,
        "version": __version__,
        "weights": pictures.weights,
        "dtype": json.dumps(dict(pictures.precision)) if len(kinds) > 1 else "".join(kinds),
        "commit": commit[1] if commit else "",
        "adapters": json.dumps([one.to_json() for one in pictures.adapters])
        if pictures.adapters
        else "",
        "sampler": pictures.sampler or "",
        "guidance": function or "",
        "watermark": pictures.watermark or "",
        "upscale": str(config["upscale"]) if pictures.upscaler else "",
        "upscaler": pictures.upscaler or "",
        "upscaler_weights": pictures.upscaler_weights,
        "edit": "" if pictures.edit is None else json.dumps(dict(pictures.edit)),
    }
    always = ("config", "model", "version")
    return {key: value for key, value in chunks.items() if value or key in always}


def _clean(text: str) -> str:
    """Return a text without half surrogate pairs, which a prompt may hold but no file."""
    return text.encode(errors="replace").decode()


def read_metadata(path: str | os.PathLike[str]) -> PictureMetadata:
    """Return what a saved picture or grid says; see `GenerationOutput.read_metadata`."""
    texts = read_texts(path)
    if "config" not in texts or not {"prompt", "prompts"} & texts.keys():
        raise InputError(
            f"{os.fspath(path)} does not say how it was drawn. Only files that this library saved "
            "do, and many programs that change pictures drop it."
        )
    try:
        return _parse(texts)
    except _UNREADABLE as error:
        raise InputError(
            f"What {os.fspath(path)} says of itself cannot be read ({show(str(error))}); it was "
            f"written by version {show(texts.get('version', 'unknown'))}, this is {__version__}."
        ) from error


def _parse(texts: Mapping[str, str]) -> PictureMetadata:
    prompts: tuple[Prompt, ...]
    if "prompts" in texts:
        prompts = tuple(_prompt(one) for one in json.loads(texts["prompts"]))
        seeds = tuple(int(seed) for seed in json.loads(texts["seeds"]))
    else:
        prompts = (_prompt(json.loads(texts["blend"]) if "blend" in texts else texts["prompt"]),)
        seeds = (int(texts["seed"]),)
    dtype = texts.get("dtype", "")
    names = json.loads(dtype) if dtype.startswith("{") else {"": dtype} if dtype else {}
    scores = [texts["score"]] if "score" in texts else json.loads(texts.get("scores", "[]"))
    return PictureMetadata(
        prompts=prompts,
        seeds=seeds,
        config=GenerationConfig.from_dict(json.loads(texts["config"])),
        model=texts.get("model", ""),
        version=texts.get("version", ""),
        weights=texts.get("weights", ""),
        precision={str(part): str(kind) for part, kind in names.items()},
        commit=texts.get("commit"),
        adapters=tuple(map(AdapterUse.from_json, json.loads(texts.get("adapters", "[]")))),
        sampler=texts.get("sampler"),
        guidance=texts.get("guidance"),
        upscaler=texts.get("upscaler"),
        upscaler_weights=texts.get("upscaler_weights", ""),
        watermark=texts.get("watermark"),
        safety=_safety(texts),
        edit=dict(json.loads(texts["edit"])) if "edit" in texts else None,
        scores=tuple(map(float, scores)),
    )


def _safety(texts: Mapping[str, str]) -> tuple[str, ...]:
    if "safety" not in texts:
        return ()
    several = "prompts" in texts
    return tuple(map(str, json.loads(texts["safety"]))) if several else (texts["safety"],)


def _prompt(value: object) -> Prompt:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return Blend(value)
    raise ValueError(f"{show(value)} is no prompt")


def tell_of(
    name: str, transformer: nn.Module, vqgan: object, sampler: object, upscaler: object
) -> dict[str, Any]:
    """Return the fields of `Drawn` that tell of a pipeline and of what a call passes.

    Args:
        name: of the pipeline.
        transformer: of the pipeline.
        vqgan: of the pipeline.
        sampler: the caller's, or None.
        upscaler: what makes the pictures larger, or None.
    """
    return {
        "model": name,
        "sampler": None if sampler is None else sampler_name(sampler),
        "precision": precisions(transformer=transformer, vqgan=vqgan, upscaler=upscaler),
        "upscaler": None if upscaler is None else upscaler_name(upscaler),
        "upscaler_weights": upscaler_digest(upscaler),
        "adapters": adapters_in(transformer),
        "weights": fingerprint(transformer, vqgan),
    }
