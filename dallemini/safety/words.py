"""A safety checker that reads prompts: a short list of words, which can be made longer."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Self

from ..errors import InputError, InputTypeError
from ..files import as_path
from ..foreign import check_file
from .checker import SafetyAction, SafetyFlag, check_action

if TYPE_CHECKING:
    import PIL.Image

WORDS: Mapping[str, tuple[str, ...]] = {
    "sexual": (
        *("nude", "nudity", "naked", "topless", "nsfw", "porn", "porno", "pornographic"),
        *("pornography", "erotic", "erotica", "hentai", "xxx", "explicit sex", "having sex"),
        *("sex scene", "sexual intercourse", "blowjob", "handjob", "orgy", "masturbating"),
        *("masturbation", "genital", "genitalia", "penis", "penises", "vagina", "vulva"),
    ),
    "minors": (
        *("child porn", "child pornography", "child nudity", "sexy child", "sexy children"),
        *("sexy teen", "underage sex", "loli", "lolicon", "shota", "shotacon", "pedophile"),
        *("paedophile", "pedophilia", "paedophilia"),
    ),
    "violence": (
        *("gore", "gory", "beheading", "beheaded", "decapitated", "decapitation"),
        *("dismembered", "disembowelled", "disemboweled", "mutilated", "mutilation", "torture"),
        *("tortured", "mass shooting", "rape", "raped", "raping"),
    ),
    "hate": (
        *("swastika", "nazi", "nazi salute", "hitler salute", "ku klux klan", "white power"),
        *("white supremacy", "lynching", "lynched", "blackface", "ethnic cleansing"),
    ),
    "self-harm": ("suicide", "self harm", "self mutilation", "hanging himself", "hanging herself"),
}
"""The words that are shipped, by what they are about. Each may have several words itself."""

HARMLESS: tuple[str, ...] = (
    *("naked mole rat", "naked eye", "naked flame", "naked tree", "naked branch", "naked juice"),
    *("nude lipstick", "nude heel", "nude color", "nude colour", "gore tex", "al gore"),
    *("white power bank", "white power button", "white power cable", "white power cord"),
    *("white power outlet", "white power plug", "white power socket", "white power strip"),
    *("white power supply", "white power tool", "white power adapter", "white power drill"),
    *("blackface sheep", "oilseed rape", "rape seed", "rape blossom", "suicide squad"),
    *("suicide prevention", "xxx large", "orgy of colors", "orgy of colours"),
)
"""Phrases with such a word that say nothing of the kind."""

_LISTED = "listed"
_LONGEST = 1 << 20  # bytes of a file of words


class WordSafetyChecker:
    """Flags prompts that have a word of a list; pictures pass.

    Words are compared without regard to case, accents and what stands between them; a plural "s"
    may follow; parts of longer words do not count. It is a list and no judge: it knows English
    only, misses whatever is said otherwise, and stops some harmless prompts (naked clay).

    Args:
        words: lists of words by what they are about; `{**WORDS, "brands": ["acme"]}` adds to those
            that are shipped.
        harmless: phrases that are taken out of a prompt before it is looked at, such as "naked
            eye"; `[*HARMLESS, ...]` adds to those that are shipped.
        action: what happens to pictures of such a prompt; "refuse" draws none.

    Raises:
        InputTypeError: `words` is not a mapping from names to words, or `harmless` one string.
        InputError: a word is empty, or there is no such action.

    Example:
        >>> from dallemini import WordSafetyChecker
        >>> WordSafetyChecker().check_prompt("A NAKED man")
        SafetyFlag(action='refuse', reason='the word "naked" (sexual)')
        >>> WordSafetyChecker().check_prompt("a grapefruit")
    """

    kind = "words"

    def __init__(
        self,
        words: Mapping[str, Iterable[str]] = WORDS,
        *,
        harmless: Iterable[str] = HARMLESS,
        action: SafetyAction = "refuse",
    ) -> None:
        check_action(action)
        self.action: SafetyAction = action
        self._about = dict(_read(words))
        self._pattern = _any_of(self._about)
        self._harmless = _any_of(dict(_read({"harmless": harmless})))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, action: SafetyAction = "refuse") -> Self:
        """Add the words of a text file, one a line, to those that are shipped; # begins a remark.

        Raises:
            MissingFileError: there is no such file.
            InputError: it is not a text in UTF-8.
        """
        file = as_path(path)
        check_file(file, error=InputError, largest=_LONGEST)
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is not a text in UTF-8; save it as one.") from error
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        return cls({**WORDS, _LISTED: [line for line in lines if line]}, action=action)

    def check_prompt(self, prompt: str, /) -> SafetyFlag | None:
        """Return a flag where the prompt has a word of the list."""
        text = self._harmless.sub("|", _plain(prompt))  # no word, so that no phrase spans it
        found = self._pattern.search(text)
        if not found:
            return None
        reason = f'the word "{found[0]}" ({self._about[found[1]]})'
        return SafetyFlag(action=self.action, reason=reason)

    def check_image(self, image: PIL.Image.Image, /) -> SafetyFlag | None:
        """Return None: words say nothing about a picture."""
        return None

    def __repr__(self) -> str:
        return f"WordSafetyChecker({len(self._about)} words, action={self.action!r})"


def _read(words: Mapping[str, Iterable[str]]) -> Iterable[tuple[str, str]]:
    """Yield every word with what it is about."""
    if not isinstance(words, Mapping):
        raise InputTypeError(
            'words is a mapping such as {"brands": ["acme"]}, not a '
            f"{type(words).__name__}; {{**WORDS, ...}} adds to those that are shipped."
        )
    for about, several in words.items():
        if isinstance(several, str):
            raise InputTypeError(f"The words of {about!r} are a list, not one string.")
        for word in several:
            plain = _plain(word) if isinstance(word, str) else ""
            if not plain:
                raise InputError(f"The list {about!r} has {word!r}, which is not a word.")
            yield plain, about


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern of whole words, the longest first, each perhaps in the plural."""
    longest_first = sorted(words, key=lambda word: -len(word))
    either = "|".join(re.escape(word).replace(r"\ ", " ") for word in longest_first)
    return re.compile(rf"(?<!\S)({either})(?:s|es)?(?!\S)" if either else r"(?!)")


def _plain(text: str) -> str:
    """Return a text in small letters without accents, one space between its words."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.findall(r"[^\W_]+", kept))
