"""How people ask for an emoji's picture: hand-written phrases, rules around them, split by hash.

`phrases.jsonl` holds the phrases, ten or so a concept, written one by one, and twice as many under
"more", which came later and are for training only. What a picture looks like is said only where it
is true: the caller knows the style, the ground and the colour. Knows words and not pixels.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import emoji as emoji_names

from dataset import Emoji

PHRASES = Path(__file__).parent / "phrases.jsonl"
_ARTICLES = re.compile(r"^(an?|the|some|one|two|three|my|your)\s+")
_ORDERS = re.compile(
    r"^(draw|show|can|could|give|make|paint|i |i'|please|let|would|create|get|do |is |what|where)"
)

STARTS = (
    "a picture of", "picture of", "an image of", "a drawing of", "draw", "draw me", "please draw",
    "show me", "can you draw", "can i have", "could you draw", "i want", "i want to see",
    "i would like",
    "i'd like a picture of", "give me", "make me", "paint", "a painting of", "a sketch of",
    "an illustration of", "create", "generate", "generate an image of", "an emoji of", "an icon of",
    "a simple drawing of", "a nice picture of", "can i have a picture of", "make a picture of",
    "let me see", "a clip art of", "a cartoon of", "please show me", "i need", "a close up of",
    "a photo of", "how about", "please", "a sticker of",
)  # fmt: skip
ENDS = (
    "on the table", "in the sun", "for kids", "for my birthday", "on a sunny day", "in winter",
    "in the morning", "at night", "please", "on its own", "in the middle", "up close", "at home",
    "for you", "of mine", "in the picture", "over there", "on the floor", "in summer", "today",
    "that i like", "in front of me", "for a friend", "just like that", "here", "in the garden",
    "outside", "isolated", "centered", "from the front",
)  # fmt: skip
ADJECTIVES = (
    "cute", "nice", "beautiful", "little", "funny", "lovely", "simple", "pretty", "cool",
    "typical", "great", "sweet", "single", "good", "real", "new", "old", "small", "big", "plain",
)  # fmt: skip
BEFORE_STYLE = {
    "noto emoji": ("a noto emoji of", "noto emoji of", "noto style"),
    "blob emoji": ("a blob emoji of", "blob emoji of", "blob style"),
    "flat emoji": ("a flat emoji of", "flat icon of", "a flat drawing of", "flat design of"),
    "colour emoji": ("a colour emoji of", "a color emoji of", "a glossy emoji of"),
    "3d emoji": ("a 3d emoji of", "a 3d render of", "3d model of", "3d"),
}
AFTER_STYLE = {
    "noto emoji": ("noto emoji", "noto emoji", "in noto style", "noto"),
    "blob emoji": ("blob emoji", "blob emoji", "in blob style", "as a blob emoji"),
    "flat emoji": ("flat emoji", "flat emoji", "in flat style", "flat design", "as a flat icon"),
    "colour emoji": ("colour emoji", "colour emoji", "color emoji", "in a glossy style"),
    "3d emoji": ("3d emoji", "3d emoji", "in 3d", "3d render", "as a 3d model"),
}
GROUNDS = (
    "on a {} background", "on a {} background", "on a {} background", "on {}",
    "against a {} background", "with a {} background", "{} background", "on a {} wall",
    "in front of a {} wall",
)  # fmt: skip


def key_of(text: str) -> str:
    """Return what two spellings of one phrase share: no case, no article, no punctuation."""
    plain = re.sub(r"[^a-z0-9 ]+", "", text.lower()).strip()
    return _ARTICLES.sub("", " ".join(plain.split()))


def split_of_phrase(text: str) -> str:
    """Return "train", "dev" or "test", by a hash of the wording: eight, one and one tenths."""
    share = int(hashlib.sha1(f"t{key_of(text)}".encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
    return "test" if share < 0.1 else "dev" if share < 0.2 else "train"


def read_phrases(split: str, path: Path = PHRASES) -> dict[str, list[str]]:
    """Return the phrases of a split by the concept's code points.

    What is under "more" belongs to "train", unless its wording is one of dev or test.

    Example:
        >>> read_phrases("train")["1f436"][0]
        'a puppy'
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {
        row["hex"]: [text for text in row["phrases"] if split_of_phrase(text) == split]
        for row in rows
    }
    if split == "train":
        kept = {key_of(t) for row in rows for t in row["phrases"] if split_of_phrase(t) != split}
        for row in rows:
            found[row["hex"]] += [text for text in row.get("more", []) if key_of(text) not in kept]
    return found


@dataclass(frozen=True)
class Look:
    """What a caption may say of a picture's looks, all of it true.

    Attributes:
        style: as in `Emoji.style`, or None to leave it unsaid.
        ground: name of the background's colour; "white" is mostly left unsaid.
        color: name of the object's own colour, where it has one, else None.
    """

    style: str | None = None
    ground: str = "white"
    color: str | None = None


class Speaker:
    """Says in many ways what a picture shows; wordings of dev and test are never among them.

    Args:
        rows: the pictures that may be asked for.
        phrases: code points to phrases; the training split if not given.
        extra: more names of concepts, by code points, such as the synonyms of WordNet.
    """

    def __init__(
        self,
        rows: Sequence[Emoji],
        phrases: dict[str, list[str]] | None = None,
        extra: dict[str, list[str]] | None = None,
    ) -> None:
        self.phrases = read_phrases("train") if phrases is None else phrases
        concepts = {row.hex: row for row in rows}
        uses = Counter(word for row in concepts.values() for word in set(row.keywords))
        self.labels = {code: row.label for code, row in concepts.items()}
        taken = {key_of(text) for name in ("dev", "test") for text in _all(read_phrases(name))}
        self.words = {
            code: [w for w in row.keywords if uses[w] <= 2 and key_of(w) not in taken]
            for code, row in concepts.items()
        }
        self.characters = {code: _spelled(code) for code in concepts}
        self.extra = {
            code: [w for w in words if key_of(w) not in taken]
            for code, words in (extra or {}).items()
        }

    def __call__(self, code: str, look: Look, rng: random.Random) -> str:
        """Ask for a concept, given by its code points, with a look."""
        return self.finish(self.name(code, rng, color=look.color), look, rng)

    def finish(self, text: str, look: Look, rng: random.Random) -> str:
        """Add the style and the ground to a text, and now and then a typing mistake."""
        if look.style:
            if rng.random() < 0.3 and not _ORDERS.match(text.lower()):
                text = f"{rng.choice(BEFORE_STYLE[look.style])} {text}"
            else:
                text += rng.choice((", ", ", ", ", ", " ")) + rng.choice(AFTER_STYLE[look.style])
        if look.ground != "white" or rng.random() < 0.02:
            ground = rng.choice(GROUNDS).format(look.ground)
            text += (", " if rng.random() < 0.5 else " ") + _articles_right(ground)
        return typo(text, rng) if rng.random() < 0.05 else text

    def name(self, code: str, rng: random.Random, *, color: str | None = None) -> str:
        """Name a concept: a phrase, a label, a keyword, with or without words around it."""
        chance, text = rng.random(), ""
        if chance < 0.6 and self.phrases.get(code):
            text = rng.choice(self.phrases[code])
        elif chance < 0.68 and self.words.get(code):
            text = rng.choice(self.words[code])
        elif chance < 0.75 and self.extra.get(code):
            text = rng.choice(self.extra[code])
        elif chance < 0.78:
            text = self.characters[code] or self.labels[code]
        else:
            text = self.labels[code]
            if chance > 0.88:
                text = plural(text) if chance > 0.97 else with_article(text)
        if color:
            return colored(text, color)
        return self.dressed(text, rng)

    def dressed(self, text: str, rng: random.Random) -> str:
        """Put everyday words around a name in some of the cases."""
        if rng.random() < 0.08:
            bare = _ARTICLES.sub("", text) if not _ORDERS.match(text.lower()) else ""
            if bare:
                text = with_article(f"{rng.choice(ADJECTIVES)} {bare}")
        if rng.random() < 0.22 and not _ORDERS.match(text.lower()):
            text = f"{rng.choice(STARTS)} {text}"
        if rng.random() < 0.08:
            text = f"{text.rstrip('.?!')} {rng.choice(ENDS)}"
        return text


def plural(text: str) -> str:
    """Return the regular plural of a name.

    Example:
        >>> plural("cherry")
        'cherries'
    """
    if re.search(r"[^aeiou]y$", text):
        return text[:-1] + "ies"
    return text + ("es" if re.search(r"(s|x|z|ch|sh)$", text) else "s")


def with_article(text: str) -> str:
    """Put "a" or "an" in front."""
    return f"{'an' if text[:1].lower() in 'aeiou' else 'a'} {text}"


def colored(text: str, color: str) -> str:
    """Put a colour in front of a name, behind its article.

    Example:
        >>> colored("an apple", "green")
        'a green apple'
    """
    bare = re.sub(r"^(an?|the)\s+", "", text)
    return with_article(f"{color} {bare}") if bare != text else f"{color} {bare}"


def typo(text: str, rng: random.Random) -> str:
    """Swap, drop or double one letter inside a longer word."""
    words = text.split(" ")
    long = [number for number, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long:
        return text
    number = rng.choice(long)
    word, place = words[number], rng.randrange(1, len(words[number]) - 2)
    kind = rng.randrange(3)
    middle = (word[place + 1] + word[place], word[place + 1], word[place] * 2 + word[place + 1])
    words[number] = word[:place] + middle[kind] + word[place + 2 :]
    return " ".join(words)


def _articles_right(text: str) -> str:
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _all(phrases: dict[str, list[str]]) -> list[str]:
    return [text for texts in phrases.values() for text in texts]


def _spelled(code: str) -> str:
    """Return how the prompt's clean-up spells an emoji given as a character."""
    characters = "".join(chr(int(point, 16)) for point in code.split("-"))
    spelled = emoji_names.demojize(characters)
    if not spelled.isascii():  # without its variation selector it is not an emoji to the package
        spelled = emoji_names.demojize(characters[0] + "\ufe0f" + characters[1:])
    return spelled if spelled.isascii() else ""
