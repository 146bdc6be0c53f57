"""What training and its tools put around weights, taken off in one step for every format.

Distributed and compiled modules prefix every name ("module.", "_orig_mod."), checkpoints hold the
weights under a key of their own beside the state of the optimizer, and a model that contains
another prefixes its names ("first_stage_model."). `unwrap` finds the prefix below which the names
lie that a format knows, `plain_names` does so for our own names; `TRAINING` are the tensors that
only training needs. Knows no format.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping

from ..foreign import show, show_names
from .lazy import LazyTensor

_logger = logging.getLogger("dallemini.checkpoints")

# Of two that hold the same names, the earlier is read; basicsr itself prefers "params_ema".
_WORDS: tuple[str, ...] = (
    "module",
    "_orig_mod",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "generator",
)
_WORDS += ("params_ema", "params", "first_stage_model", "ema")
_WORD = re.compile(rf"({'|'.join(_WORDS)})[./]")
_MOST_WORDS = 8
_OUTSIDE = "beside the weights"

TRAINING: Mapping[str, str] = {
    r"(optimizers?|optimizer_states?|optimizer_state_dict|opt_state|lr_schedulers?|schedulers?"
    r"|scaler|callbacks|loops|random_states?)[./].*": "the state of the optimizer",
    r"(model_ema|ema_model|ema|params_ema|params)[./].*": "an averaged copy of the weights",
}
"""Patterns of names, and what the tensors are; left out where they have no place."""

# Nothing that this library saves, model or adapter, has a name that begins like these.
_PLAIN = re.compile(rf"(?!{_WORD.pattern}|{'|'.join(TRAINING)}).*")


def unwrap(
    tensors: Mapping[str, LazyTensor], known: re.Pattern[str], *, origin: str
) -> tuple[str, dict[str, LazyTensor]]:
    """Take off the prefix below which most names are known.

    Args:
        tensors: the tensors of a file by their names there.
        known: matches the names that a format knows.
        origin: the file or folder, for the log.

    Returns:
        The prefix, "" where there is none, and the tensors below it by their names without it.
        Those that lie elsewhere are left out, and named in the log.
    """
    best = _best_prefix(tensors, known)
    inside = {
        name.removeprefix(best): dataclasses.replace(tensor, name=name.removeprefix(best))
        for name, tensor in tensors.items()
        if name.startswith(best)
    }
    if len(inside) < len(tensors):
        _logger.info("%s: read below %s", origin, show(best))
        log_left_out(origin, [name for name in tensors if not name.startswith(best)])
    return best, inside


def plain_names(names: Collection[str], *, origin: str) -> tuple[str, list[str]]:
    """Take off the prefix of names that are this library's own, as `unwrap` does for others.

    Args:
        names: of the tensors of a file.
        origin: the file, for the log.

    Returns:
        The prefix, "" where there is none, and the names below it without it. What only training
        needs is left out, and named in the log.
    """
    best = _best_prefix(names, _PLAIN)
    inside = [
        name.removeprefix(best)
        for name in names
        if name.startswith(best) and _PLAIN.fullmatch(name, len(best))
    ]
    if len(inside) < len(names):
        kept = {best + name for name in inside}
        log_left_out(origin, [name for name in names if name not in kept])
    return best, inside


def foreign_prefix(names: Collection[str], known: re.Pattern[str]) -> str:
    """Return what is in front of all names where most are known without it, "" elsewhere."""
    first = min(names)
    ends = [found.end() for found in re.finditer(r"[./]", first)][:_MOST_WORDS]
    for prefix in (first[:end] for end in ends):
        right = sum(known.fullmatch(name, len(prefix)) is not None for name in names)
        if 2 * right > len(names) and all(name.startswith(prefix) for name in names):
            return prefix
    return ""


def log_left_out(origin: str, names: Collection[str]) -> None:
    """Name in the log what lies elsewhere than the weights, by what it is."""
    reasons: dict[str, list[str]] = {}
    for name in names:
        reasons.setdefault(_reason(name), []).append(name)
    for reason, several in reasons.items():
        log_ignored(origin, reason, several)


def log_ignored(origin: str, reason: str, names: list[str]) -> None:
    """Name in the log what was left out on purpose."""
    _logger.info("%s: left out %d tensors (%s): %s", origin, len(names), reason, show_names(names))


def _best_prefix(names: Collection[str], known: re.Pattern[str]) -> str:
    """Return the wrapping words below which most names are known, "" where there are none."""
    counts: Counter[str] = Counter()
    for name in names:
        for prefix in _prefixes(name):
            if known.fullmatch(name, len(prefix)):
                counts[prefix] += 1
    return max(counts, key=lambda prefix: (counts[prefix], *_rank(prefix)), default="")


def _reason(name: str) -> str:
    """Say why a tensor is no part of the weights."""
    ends = [name.removeprefix(prefix) for prefix in _prefixes(name)]
    for pattern, reason in TRAINING.items():
        if any(re.fullmatch(pattern, end) for end in ends):
            return reason
    return _OUTSIDE


def _prefixes(name: str) -> list[str]:
    """Return the beginnings of a name that are made of wrapping words, the empty one first."""
    found, end = [""], 0
    while len(found) <= _MOST_WORDS and (word := _WORD.match(name, end)):
        end = word.end()
        found.append(name[:end])
    return found


def _rank(prefix: str) -> tuple[int, ...]:
    """Order prefixes with as many known names: fewer words first, then the earlier word."""
    words = re.split(r"[./]", prefix)[:-1]
    return (-len(words), *(-_WORDS.index(word) for word in words))
