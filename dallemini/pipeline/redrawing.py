"""What a picture says of how it was drawn, compared with what is to draw it again."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import DalleMiniWarning, InputError
from ..foreign import show
from .metadata import PictureMetadata

_MOST_SHOWN = 5  # entries in a message


def check_redrawing(told: PictureMetadata, name: str, given: Mapping[str, object]) -> None:
    """Look whether what a file says, and what is given, suffice to draw its pictures again.

    Args:
        told: what it says.
        name: of the file.
        given: what a file cannot hold, by the keyword of `redraw`; None where it is not given.

    Raises:
        InputError: it was made from other pictures, or by a function, a sampler or a key that is
            not given; or pictures are given and it was drawn from none.
    """
    needed = {
        "image": told.edit is not None
        and f"from another picture, which it does not hold; give it as image= ({_inputs(told)})",
        "mask_image": told.edit is not None
        and "mask" in told.edit
        and f"with a mask, which it does not hold; give it as mask_image= ({_inputs(told)})",
        "sampler": told.sampler
        and f"by the sampler {show(told.sampler)}, which a file cannot hold; give it as sampler=",
        "watermark": told.watermark
        and "with a watermark, whose key a file does not hold; give it as watermark=Watermark(key)",
        "guidance_scale": told.guidance
        and f"with the function {show(told.guidance)} of guidance, which a file cannot hold; give "
        "it as guidance_scale=",
    }
    for keyword, reason in needed.items():
        if reason and given.get(keyword) is None:
            raise InputError(f"{name} was drawn {reason}.")
    for keyword in ("image", "mask_image"):
        if given.get(keyword) is not None and not needed[keyword]:
            raise InputError(f"{name} was drawn without such a picture; leave out {keyword}=.")


def _inputs(told: PictureMetadata) -> str:
    edit = list((told.edit or {}).items())[:_MOST_SHOWN]
    return ", ".join(f"{show(key)[1:-1]} {show(value, most=40)}" for key, value in edit)


def warn_of_differences(told: PictureMetadata, now: Mapping[str, Any], *, name: str) -> None:
    """Warn where a pipeline is not what drew a picture, so that it will look different.

    Args:
        told: what the picture says.
        now: what the new pictures tell of the pipeline, as `tell_of` returns it.
        name: of the picture's file.
    """
    found = []
    kinds = [_kinds(told.precision, now["precision"]), dict(now["precision"])]
    kinds[0] = {part: kind for part, kind in kinds[0].items() if part in kinds[1]}
    then, here = (
        [(one.digest, one.weight) for one in used] for used in (told.adapters, now["adapters"])
    )
    if then != here:
        names = [_list(map(str, used)) or "none" for used in (told.adapters, now["adapters"])]
        found.append(f"other LoRA adapters ({names[0]}; here {names[1]})")
    if told.precision and kinds[0] != kinds[1]:
        found.append(f"other dtype ({_join(kinds[0])}; here {_join(kinds[1])})")
    elif not found:
        known = told.weights and now["weights"]
        if told.weights != now["weights"] if known else told.model != now["model"]:
            found.append(f"other weights (of {show(told.model)}; here {show(now['model'])})")
    found += _other_upscaler(told, now)
    if found:
        warnings.warn(
            f"{name} was drawn with {' and '.join(found)}: this is another picture.",
            DalleMiniWarning,
            stacklevel=3,
        )


def _other_upscaler(told: PictureMetadata, now: Mapping[str, Any]) -> list[str]:
    """Say whether something else makes a picture larger than what did; nothing where none does."""
    if told.upscaler is None or now["upscaler"] is None:
        return []
    if told.upscaler != now["upscaler"]:
        return [f"another upscaler ({show(told.upscaler)}; here {now['upscaler']!r})"]
    kinds = _kinds(told.precision, now["precision"])
    is_cast = kinds.get("upscaler") != now["precision"].get("upscaler")
    digests = {told.upscaler_weights, now["upscaler_weights"]} - {""}
    is_other = told.upscaler_weights and len(digests) > 1 and not is_cast
    return [f"other weights of the upscaler {show(told.upscaler)}"] if is_other else []


def _kinds(told: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Spell out one dtype for all parts."""
    return dict.fromkeys(now, told[""]) if "" in told else dict(told)


def _join(kinds: Mapping[str, str]) -> str:
    same = set(kinds.values())
    return _list(same if len(same) == 1 else (f"{k} {v}" for k, v in kinds.items()))


def _list(texts: Iterable[str]) -> str:
    """Return the first few of some texts, without the middle of long ones: ends differ."""
    first = itertools.islice(texts, _MOST_SHOWN)
    return ", ".join(text if len(text) <= 60 else f"{text[:20]}...{text[-37:]}" for text in first)
