"""What training and its tools put around weights, taken off in one step for every format.

Distributed and compiled modules prefix every name ("module.", "_orig_mod."), checkpoints hold the
weights under a key of their own beside the state of the optimizer, and a model that contains
another prefixes its names ("first_stage_model."). `unwrap` finds the prefix below which the names
lie that a format knows; `TRAINING` are the tensors that only training needs. Knows no format.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

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

TRAINING: Mapping[str, str] = {
    r"(optimizers?|optimizer_states?|optimizer_state_dict|opt_state|lr_schedulers?|schedulers?"
    r"|scaler|callbacks|loops|random_states?)[./].*": "the state of the optimizer",
    r"(model_ema|ema_model|ema|params_ema|params)[./].*": "an averaged copy of the weights",
}
"""Patterns of names, and what the tensors are; left out where they have no place."""


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
    counts: Counter[str] = Counter()
    for name in tensors:
        for prefix in _prefixes(name):
            if known.fullmatch(name, len(prefix)):
                counts[prefix] += 1
    best = max(counts, key=lambda prefix: (counts[prefix], *_rank(prefix)), default="")
    inside = {
        name.removeprefix(best): dataclasses.replace(tensor, name=name.removeprefix(best))
        for name, tensor in tensors.items()
        if name.startswith(best)
    }
    if others := [name for name in tensors if not name.startswith(best)]:
        _logger.info("%s: read below %s; left out: %s", origin, show(best), show_names(others))
    return best, inside


def common_prefix(names: Iterable[str]) -> str:
    """Return the wrapping words with which all names begin, "" where there are none."""
    prefixes = [_prefixes(name)[-1] for name in names]
    shortest = min(prefixes, key=len, default="")
    return shortest if all(prefix.startswith(shortest) for prefix in prefixes) else ""


def foreign_prefix(names: Collection[str], known: re.Pattern[str]) -> str:
    """Return what is in front of all names where most are known without it, "" elsewhere."""
    first = min(names)
    ends = [found.end() for found in re.finditer(r"[./]", first)][:_MOST_WORDS]
    for prefix in (first[:end] for end in ends):
        right = sum(known.fullmatch(name, len(prefix)) is not None for name in names)
        if 2 * right > len(names) and all(name.startswith(prefix) for name in names):
            return prefix
    return ""


def log_ignored(origin: str, reason: str, names: list[str]) -> None:
    """Name in the log what was left out on purpose."""
    _logger.info("%s: left out %d tensors (%s): %s", origin, len(names), reason, show_names(names))


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
