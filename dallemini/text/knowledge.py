"""What a model was taught: its concepts and words, so that a prompt of strangers can be answered.

A small model knows the words of its captions and no others. `knowledge.json` beside a vocabulary
lists them. Holds the list and the search for near words; knows nothing about tokens.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from ..config import Config, read_json
from ..errors import CheckpointError, ConfigError
from ..foreign import show

KNOWLEDGE_FILE = "knowledge.json"

_LONGEST_WORD = 40  # characters; what is longer is not compared
_MOST_KNOWN = 50_000  # words, all of which are compared with a strange one
_MOST_WORDS = 8  # of a prompt that near words are looked for
_ENDINGS = ((r"ies$", "y"), (r"es$", ""), (r"s$", ""), (r"ing$", ""), (r"ing$", "e"), (r"ed$", ""))


@dataclass(frozen=True, kw_only=True)
class Knowledge(Config):
    """What captions a model was trained on.

    Attributes:
        concepts: names of what it can show.
        styles: names of the styles it can show them in.
        control: other words it was taught, such as "three" or "on a blue background".
        words: every word that means something to it; without "a", "the" and their like.

    Raises:
        ConfigError: a field is not a tuple of strings, or the words are more than 50,000.

    Example:
        >>> from dallemini.text import Knowledge
        >>> known = Knowledge(concepts=("cat", "kite"), words=("cat", "kite"))
        >>> known.knows("two kites"), known.knows("a kyte")
        (True, False)
        >>> known.near("a kyte")
        ['kite']
    """

    concepts: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.check_types()
        if len(self.words) > _MOST_KNOWN:
            raise ConfigError(f"{len(self.words):,} words are too many; {_MOST_KNOWN:,} are read.")

    def knows(self, text: str) -> bool:
        """Tell whether a cleaned prompt has a word that the model was taught, in any number."""
        return any(self._taught.intersection(_forms(word)) for word in _words(text))

    def near(self, text: str, *, count: int = 3) -> list[str]:
        """Return up to `count` known words that are spelled like those of a prompt."""
        found = dict[str, None]()
        for word in _words(text)[:_MOST_WORDS]:
            if len(word) <= _LONGEST_WORD:
                found |= dict.fromkeys(difflib.get_close_matches(word, self.words, n=2, cutoff=0.7))
        return list(found)[:count]

    @cached_property
    def _taught(self) -> frozenset[str]:
        return frozenset(self.words)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `knowledge.json`.

        Raises:
            CheckpointError: it is not one.
        """
        try:
            return cls.from_dict(read_json(path))
        except ConfigError as error:
            raise CheckpointError(f"{path} is no list of words: {show(str(error))}") from error


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _forms(word: str) -> set[str]:
    return {word} | {re.sub(ending, other, word) for ending, other in _ENDINGS if len(word) > 3}
