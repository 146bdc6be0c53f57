"""What a file says of its picture's origin, layer by layer: what holds, is missing, or broke.

The layers are the texts that draw a picture again, IPTC's source type in XMP, the mark in the
tokens, and a signature. The first two come with every picture that is saved, so where one of our
marks is found and they are not, somebody took them off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import InputError, MissingDependencyError
from ..foreign import show
from ..generation.watermark import Watermark
from ..images import image_to_tensor, open_picture_file
from ..models.image_tokenizer import ImageTokenizer
from ..sheets import texts_of
from .detecting import look_for
from .origin import read_source_type
from .signing import read_credentials

State = Literal["holds", "missing", "stripped", "broken", "unknown"]
FOUND = 1e-3
"""The p-value below which a mark counts as found."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a picture's origin.

    Attributes:
        name: texts, source type, watermark or signature.
        state: "holds"; "missing"; "stripped", where something else shows that it was there;
            "broken", where it is there and does not fit; "unknown", where it could not be looked
            for.
        detail: in words.
    """

    name: str
    state: State
    detail: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a file says of its picture's origin.

    Attributes:
        layers: four of them.
        verdict: all of it in a sentence.
    """

    layers: tuple[Layer, ...]
    verdict: str

    def __getitem__(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)


def inspect_picture(
    picture: str | os.PathLike[str] | bytes,
    *,
    watermark: Watermark | None = None,
    vqgan: ImageTokenizer | None = None,
) -> Inspection:
    """Say what a picture's file tells of where it comes from.

    Args:
        picture: a file, or its content.
        watermark: the key to look for, with `vqgan`.
        vqgan: of the model that may have drawn it.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is no picture, or a key is given without a VQGAN.

    Example:
        >>> from dallemini.pipeline.inspecting import inspect_picture
        >>> from dallemini.testing import tiny_pipeline
        >>> path = tiny_pipeline()("a red apple", seed=7, progress=False).save("drawn")[0]
        >>> inspect_picture(path)["source type"].detail
        'trainedAlgorithmicMedia'
    """
    if watermark is not None and vqgan is None:
        raise InputError("A key is looked for with vqgan=, the image tokenizer of the model.")
    content, image = open_picture_file(picture)
    texts = texts_of(image.info)
    layers = [_texts_layer(texts), _source_layer(image.info)]
    if watermark is None or vqgan is None:
        layers.append(_unread_mark(texts))
    else:
        found = look_for([image_to_tensor(image)], watermark, vqgan)
        layers.append(_mark_layer(texts, found.p_value, found.votes))
    layers.append(_signature_layer(content))
    ours = any(layer.state == "holds" for layer in (layers[0], layers[2])) or (
        "dallemini" in layers[3].detail or b"dallemini" in _bytes(image.info.get("xmp", b""))
    )
    for number in (0, 1):
        if ours and layers[number].state == "missing":
            detail = "not in the file, though the library writes it into every picture"
            layers[number] = replace(layers[number], state="stripped", detail=detail)
    return Inspection(layers=tuple(layers), verdict=_verdict(layers))


def _texts_layer(texts: Mapping[str, str]) -> Layer:
    if "config" not in texts or "version" not in texts:
        return Layer(name="texts", state="missing", detail="nothing says how it was drawn")
    words = texts["prompt"] if "prompt" in texts else _listed(texts.get("prompts", ""))
    detail = (
        f"dallemini {texts['version'][:20]}, model {show(texts.get('model', ''))}, {show(words)}"
    )
    if "seed" in texts:
        detail += f", seed {texts['seed'][:20]}"
    return Layer(name="texts", state="holds", detail=detail)


def _listed(prompts: str) -> str:
    """Return the prompts of a grid, which are a list in JSON, in one line."""
    try:
        found = json.loads(prompts)
    except (ValueError, RecursionError):
        return prompts
    return "; ".join(map(str, found)) if isinstance(found, list) else prompts


def _source_layer(info: Mapping[Any, Any]) -> Layer:
    name = read_source_type(_bytes(info.get("xmp", b"")))
    if name is None:
        detail = "no Digital Source Type in XMP"
        return Layer(name="source type", state="missing", detail=detail)
    return Layer(name="source type", state="holds", detail=name)


def _unread_mark(texts: Mapping[str, str]) -> Layer:
    said = f"it says that it has one ({show(texts['watermark'])}); " if "watermark" in texts else ""
    detail = f"{said}only who has a key can look for its mark"
    return Layer(name="watermark", state="unknown", detail=detail)


def _mark_layer(texts: Mapping[str, str], p_value: float, votes: int) -> Layer:
    if p_value < FOUND:
        detail = f"found, p = {p_value:.1e} by {votes} votes"
        return Layer(name="watermark", state="holds", detail=detail)
    detail = f"not found with this key, p = {p_value:.2g} by {votes} votes"
    if "watermark" in texts:
        detail += "; it says that it has one: of another key, or changed since"
        return Layer(name="watermark", state="stripped", detail=detail)
    return Layer(name="watermark", state="missing", detail=detail)


def _signature_layer(content: bytes) -> Layer:
    name = "signature"
    try:
        told = read_credentials(content)
    except MissingDependencyError as error:
        return Layer(name=name, state="unknown", detail=str(error))
    except InputError:
        return Layer(name=name, state="unknown", detail="not looked for in this kind of file")
    if told is None:
        return Layer(name=name, state="missing", detail="no Content Credentials")
    by = f"by {show(told.issuer)} with {show(told.generator)}"
    if told.state == "broken":
        problems = ", ".join(told.problems)
        detail = f"{by}; the file was changed after signing ({problems})"
        return Layer(name=name, state="broken", detail=detail)
    known = "" if told.state == "trusted" else ", a certificate that nobody vouches for here"
    return Layer(name=name, state="holds", detail=f"{by}{known}")


def _verdict(layers: list[Layer]) -> str:
    by_state: dict[str, list[str]] = {}
    for layer in layers:
        by_state.setdefault(layer.state, []).append(layer.name)
    if "broken" in by_state:
        return "The file was changed after it was signed; do not rely on what it says."
    if "holds" not in by_state:
        return (
            "Nothing that could be read says where this picture comes from, which proves nothing: "
            "marks are easy to take off."
        )
    verdict = f"What holds: {', '.join(by_state['holds'])}."
    if "stripped" in by_state:
        verdict += f" Taken off or lost: {', '.join(by_state['stripped'])}."
    return verdict


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="replace")
    return value if isinstance(value, bytes) else b""
