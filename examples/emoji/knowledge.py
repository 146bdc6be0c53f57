"""Say what the bundled model was taught: concepts, styles, words of control, and every word.

Made of what the captions of training are made of, so that it is true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from captions import AFTER_STYLE, Speaker
from control import FILTERS, RELATION_WORDS, SIZES
from dallemini.text import Knowledge
from dataset import COLORS, Emojis

# Words that say nothing about what is to be seen.
EMPTY = frozenset(
    re.findall(
        r"\S+",
        """
        a an the of in on at to with for from by and or is are it its it's this that these those i
        me my you your we our he she his her they their be been do does can could would will please
        draw drawing show picture image photo paint painting sketch make create generate give want
        need like some any one just here there what where how who which when up down out over under
        very really so too not no all get let see look looking have has had got i'd i'm as if about
        into s t m d ll re ve something someone thing things kind nice
        """,
    )
)


def knowledge_of(emojis: Emojis, speaker: Speaker) -> Knowledge:
    """Collect what captions of these pictures may say."""
    concepts = sorted({row.label for row in emojis.rows})
    styles = sorted(set(AFTER_STYLE) & {row.style for row in emojis.rows})
    control = [
        *COLORS, *(f"on a {color} background" for color in ("blue", "yellow")), "two", "three",
        "four", *dict.fromkeys(words[0] for words in RELATION_WORDS.values()), *SIZES, *FILTERS,
    ]  # fmt: skip
    sources = (speaker.phrases, speaker.words, speaker.extra)
    texts = [*concepts, *styles, *control]
    texts += [text for found in sources for words in found.values() for text in words]
    return Knowledge(
        concepts=tuple(concepts),
        styles=tuple(styles),
        control=tuple(control),
        words=tuple(sorted(_words(texts))),
    )


def _words(texts: Iterable[str]) -> set[str]:
    found = {word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())}
    return found - EMPTY
