"""The prompt clean-up that the released DALL-E Mini models were trained with.

Holds `TextNormalizer` and the hashtag splitter that it uses. Knows nothing about tokens. The rules
and their order are those of https://github.com/borisdayma/dalle-mini: a model has only ever seen
text that went through them, so oddities are kept (a hashtag with a dot in it comes out in pieces).

The originals transliterate with Unidecode, whose licence (GPL) an ordinary dependency should not
bring along: it is in the extra `text`. Without it anyascii does so, which spells Latin letters the
same way, and some signs and other scripts differently ("\u5317\u4eac": "bei jing " and "beijing").
"""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Iterable, Mapping

from ..errors import CheckpointError, InputTypeError, MissingFileError
from ..foreign import check_file

# Words that stand in for characters which must survive the punctuation rules. Hashtags are split
# while these are in place, so their spelling is part of the result.
_DOT, _QUOTE, _SLASH = (f"xtokx{name}xtokx" for name in ("dot", "quote", "slash"))

_Rule = tuple[re.Pattern[str], str]


def _rules(*rules: tuple[str, str]) -> tuple[_Rule, ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rules)


_BEFORE_HASHTAGS = _rules(
    # Names were masked in one training set (CC12M): several in a row are "people".
    (r"<person>(?:[,\s]*(?:(?:and)+[,\s]*)?<person>)+", " people "),
    (r"<person>", " a person "),
    # Reference marks of Wikipedia (WIT), at either end only.
    (r"\A\s*\[\d+\]", ""),
    (r"\[\d+\]\s*\Z", ""),
    (r"<[^<]+?>", " "),
    (r"http\S+", ""),
    # Thousands separators; twice, since a match swallows the digit before the next one.
    (r"(\d),(\d{3})", r"\1\2"),
    (r"(\d),(\d{3})", r"\1\2"),
    # Dots inside words and numbers, the English contractions, dates and fractions stay.
    (r"(\w)\.(\w)", rf"\1{_DOT}\2"),
    (r"'(?=(?:[stdm]|ll|re|ve)\b)", _QUOTE),
    (r"(\d)/(\d)", rf"\1{_SLASH}\2"),
    (r"(\w)-(\w)", r"\1 \2"),
    (r"([%&/$*])", r" \1 "),
)
_AFTER_HASHTAGS = _rules(
    (r"[_#\\]", " "),
    (r"['\"`]", ' " '),
    (r"[()\[\].,|:;?!=+~\-/{}]", ","),
    (_DOT, "."),
    (_QUOTE, "'"),
    (_SLASH, "/"),
    # Four or more of one character become one: three would break Roman numerals such as VIII.
    (r"(\D)\1{3,}", r"\1"),
    # Not in the original: shortens what the next two rules scan, and changes no result.
    (r"\s+", " "),
    (r'\s*"[\s"]*', ' " '),
    (r"\s*,[\s,]*", ", "),
    (r"\s+", " "),
)
_HASHTAG = re.compile(r"#(\w+)")
_KEPT_TAGS = 10_000


class TextNormalizer:
    """Clean a prompt the way the training captions were cleaned.

    Args:
        word_frequencies: how often each word occurs, to split hashtags into words: a mapping, or
            the path of a text file with a word and its count on each line, most frequent first
            (the released models carry `enwiki-words-frequency.txt`). A file is read when the first
            hashtag is met. Without word frequencies a hashtag is kept as one word, less its `#`;
            the original has no such case, it always downloads the file.

    `<person>`, which the original replaces at random, always becomes "a person".

    Example:
        >>> from dallemini.text import TextNormalizer
        >>> TextNormalizer()("A cat, a dog; and 1,000 birds!")
        ' a cat, a dog, and 1000 birds'
        >>> TextNormalizer({"red": 20, "apple": 10})("#RedApple")
        ' red apple'
    """

    def __init__(
        self, word_frequencies: Mapping[str, int] | str | os.PathLike[str] | None = None
    ) -> None:
        self.word_frequencies = word_frequencies
        self._known_tags: dict[str, str] = {}

    def __call__(self, prompt: str) -> str:
        """Return the cleaned prompt: lower case, ASCII, and always with a space in front.

        Raises:
            InputTypeError: the prompt is not a string.
            MissingFileError: there is a hashtag, and the file of word frequencies is gone.
            CheckpointError: there is a hashtag, and the file of word frequencies cannot be read.
        """
        if not isinstance(prompt, str):
            raise InputTypeError(f"A prompt must be a str, not {type(prompt).__name__}.")
        text = _apply(_BEFORE_HASHTAGS, _to_ascii(prompt).lower())
        text = _HASHTAG.sub(lambda match: self._split_hashtag(match[1]), text)
        text = _apply(_AFTER_HASHTAGS, text).strip()
        text = text.removesuffix(",").removeprefix(",")
        return f" {text.strip()}"

    def _split_hashtag(self, tag: str) -> str:
        words = self.word_frequencies
        if words is None:
            return tag
        if tag not in self._known_tags:
            if len(self._known_tags) >= _KEPT_TAGS:
                self._known_tags.clear()
            # Only the words within the tag: the released file has 34 MB, in memory ten times that.
            ranks = _ranks_of(words) if isinstance(words, Mapping) else _read_ranks(words, tag)
            self._known_tags[tag] = HashtagSplitter(ranks)(tag)
        return self._known_tags[tag]


class HashtagSplitter:
    """Find the most probable words in text without spaces.

    A word costs the logarithm of its rank in the list of words (Zipf's law); dynamic programming
    finds the cheapest split. Digits stay together, and so does a word with its `'s`. What cannot be
    made of known words ends as single letters.

    Args:
        ranks: the known words in lower case; the most frequent one has rank 1.

    Example:
        >>> from dallemini.text import HashtagSplitter
        >>> HashtagSplitter({"happy": 1, "birthday": 2, "day": 3})("happybirthday2021")
        'happy birthday 2021'
    """

    def __init__(self, ranks: Mapping[str, int]) -> None:
        self._ranks = ranks
        self._longest = max(map(len, ranks), default=1)

    def __call__(self, text: str) -> str:
        """Return the words of `text`, joined by spaces; the case stays as it is."""
        parts = re.split(r"[^a-zA-Z0-9']+", text)
        return " ".join(word for part in parts for word in self._split(part))

    def _split(self, text: str) -> list[str]:
        lengths = self._last_word_lengths(text.lower())
        words: list[str] = []  # from the last to the first
        end = len(text)
        while end > 0:
            word = text[end - lengths[end] : end]
            end -= len(word)
            if words and word != "'" and _belong_together(word, words[-1]):
                words[-1] = word + words[-1]
            else:
                words.append(word)
        return words[::-1]

    def _last_word_lengths(self, text: str) -> list[int]:
        """For every prefix of `text`, the length of the last word in its cheapest split."""
        costs, lengths = [0.0], [0]
        for end in range(1, len(text) + 1):
            cost, length = min(
                (costs[end - size] + self._cost(text[end - size : end]), size)
                for size in range(1, min(end, self._longest) + 1)
            )
            costs.append(cost)
            lengths.append(length)
        return lengths

    def _cost(self, word: str) -> float:
        rank = self._ranks.get(word)
        return math.inf if rank is None else math.log(rank)


def _belong_together(word: str, following: str) -> bool:
    return following == "'s" or (word[-1].isdigit() and following[0].isdigit())


def _apply(rules: Iterable[_Rule], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _ranks_of(frequencies: Mapping[str, int]) -> dict[str, int]:
    ordered = sorted(frequencies, key=frequencies.__getitem__, reverse=True)
    return {word: rank for rank, word in enumerate(ordered, start=1)}


def _read_ranks(path: str | os.PathLike[str], text: str) -> dict[str, int]:
    """Read those words of a frequency file that occur in a text, with their line numbers."""
    text, ranks = text.lower(), {}
    try:
        check_file(path, may_be_empty=True)
        with open(path, encoding="utf-8") as file:
            for rank, line in enumerate(file, start=1):
                word = line.partition(" ")[0].rstrip()
                if word in text:
                    ranks[word] = rank
    except FileNotFoundError as error:
        raise MissingFileError(
            f"There is no file of word frequencies at {os.fspath(path)}; hashtags need it."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"Cannot read word frequencies from {path}: {error}.") from error
    return ranks


def _to_ascii(text: str) -> str:
    """Repair broken Unicode, decode HTML, name emoji, and transliterate the rest."""
    import ftfy  # here, because importing this library must be quick

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if text.isascii():
        return text
    import emoji

    return _transliterate(emoji.demojize(text))


def _transliterate(text: str) -> str:
    """Spell text in ASCII: as Unidecode does where it is installed, else nearly so."""
    try:
        from unidecode import unidecode
    except ImportError:
        from anyascii import anyascii

        return str(anyascii(text))
    return str(unidecode(text))
