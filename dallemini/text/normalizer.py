"""The prompt clean-up that the released DALL-E Mini models were trained with.

Holds `TextNormalizer` and the hashtag splitter that it uses. Knows nothing about tokens. The rules
and their order are those of https://github.com/borisdayma/dalle-mini: a model has only ever seen
text that went through them, so oddities are kept (a hashtag with a dot in it comes out in pieces).

The packages ftfy, emoji and Unidecode (extra `text`) are needed for prompts that are not plain
ASCII. Without them such prompts are approximated with the standard library, and a warning says so.
"""

from __future__ import annotations

import html
import html.entities
import math
import os
import re
import reprlib
import unicodedata
import warnings
from collections.abc import Iterable, Mapping

from ..errors import CheckpointError, DalleMiniWarning, InputTypeError, MissingFileError

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

# To search the released file (34 MB) for the words in one hashtag takes a sixth of the time that
# holding all of it in memory takes, which pays off from the sixth hashtag on.
_SEARCHES = 6


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
        self._splitter: HashtagSplitter | None = None
        self._searches = 0

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
        if self._splitter is None and not isinstance(words, Mapping):
            self._searches += 1
            if self._searches < _SEARCHES:
                return HashtagSplitter(_read_ranks(words, within=tag))(tag)
        if self._splitter is None:
            ranks = _ranks_of(words) if isinstance(words, Mapping) else _read_ranks(words)
            self._splitter = HashtagSplitter(ranks)
        return self._splitter(tag)


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


def _read_ranks(path: str | os.PathLike[str], *, within: str | None = None) -> dict[str, int]:
    """Read the words of a frequency file with their line numbers; or only those in a text."""
    text = None if within is None else within.lower()
    ranks = {}
    try:
        with open(path, encoding="utf-8") as file:
            for rank, line in enumerate(file, start=1):
                word = line.partition(" ")[0].rstrip()
                if text is None or word in text:
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
    try:
        import emoji
        import ftfy
        from unidecode import unidecode
    except ImportError:
        return _to_ascii_without_extra(text)
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return unidecode(emoji.demojize(text))


def _to_ascii_without_extra(text: str) -> str:
    """Do the same: exactly for text that is ASCII with its HTML entities decoded, else roughly."""
    fixed = html.unescape(html.unescape(_fix_ascii(text)))
    if fixed.isascii():
        return fixed
    _warn_once(text)
    spelled = unicodedata.normalize("NFKD", fixed.translate(_TYPOGRAPHY))
    return spelled.translate(_TYPOGRAPHY).encode("ascii", errors="ignore").decode("ascii")


# A character and how Unidecode spells it, where decomposition alone would drop or misspell it; the
# three marks between colons are spelled by emoji. Enough for the languages of western Europe.
_SPELLINGS = (
    "\u2010- \u2011- \u2012- \u2013- \u2014-- \u2015-- \u2212-",
    "\u2018' \u2019' \u201a' \u201c\" \u201d\" \u201e\" \u2039< \u203a> \xab<< \xbb>> \xb4' \xa8\"",
    "\xa1! \xbf? \xb7* \u2022* \u2032' \u2033'' \u2044/ \xa6| \xac! \xaf- \xb8,",
    "\xd7x \xf7/ \xb1+- \xb5u \xb0deg \u2030%0 \xa7SS \xb6P \xa9:copyright: \xae:registered:",
    "\u2122:trade_mark: \xa2C/ \xa3PS \xa4$? \xa5Y= \u20acEUR",
    "\xc6AE \xe6ae \xd8O \xf8o \u0152OE \u0153oe \xdfss \xd0D \xf0d \xdeTh \xfeth \u0131i",
    "\u0110D \u0111d \u0126H \u0127h \u0141L \u0142l \u014aNG \u014bng \u0166T \u0167t",
)
_TYPOGRAPHY = {ord(entry[0]): entry[1:] for line in _SPELLINGS for entry in line.split()}
_TYPOGRAPHY |= {0x200B: " ", 0x2028: "\n", 0x2029: "\n"}

_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_TERMINAL_ESCAPE = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")
_CONTROLS = dict.fromkeys([*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F])


def _fix_ascii(text: str) -> str:
    """Do what ftfy's `fix_text` does to ASCII text.

    It works line by line, decodes HTML entities only until a line holds a `<`, and repeats until
    nothing changes.
    """
    lines, decode = [], True
    for line in re.split(r"(?<=\n)", text):
        decode = decode and "<" not in line
        before = None
        while line != before:
            before = line
            line = _fix_line(line, decode=decode)
        lines.append(line)
    return "".join(lines)


def _fix_line(line: str, *, decode: bool) -> str:
    if decode:
        line = _ENTITY.sub(_decode_entity, line)
    line = line.replace("\r\n", "\n").replace("\r", "\n")
    return _TERMINAL_ESCAPE.sub("", line).translate(_CONTROLS)


def _decode_entity(match: re.Match[str]) -> str:
    entity = match[0]
    name = entity[1:]
    if name in html.entities.html5:
        return html.entities.html5[name]
    if name.startswith("#"):
        decoded = html.unescape(entity)
        return entity if ";" in decoded else decoded
    # Text that was put in capitals after it was escaped: &NTILDE; for &Ntilde;.
    shouted = name == name.upper() and html.unescape(entity) == entity
    return html.entities.html5.get(name.lower(), entity).upper() if shouted else entity


_warned = False


def _warn_once(prompt: str) -> None:
    """Warn about the first prompt of this process that needs the extra."""
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        f"The prompt {reprlib.repr(prompt)} has characters beyond plain ASCII. The models were "
        "trained on text cleaned with ftfy, emoji and Unidecode; they are not all installed, so "
        'such prompts are approximated. Install them with: pip install "dallemini[text]".',
        DalleMiniWarning,
        stacklevel=2,
    )
