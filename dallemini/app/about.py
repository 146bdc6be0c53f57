"""The words of the app: examples, and what people should know before they use what it makes."""

from __future__ import annotations

import re

from ..safety.checker import SafetyChecker, describe_checker

BUNDLED_EXAMPLES = (
    "a slice of pizza",
    "draw me a snowman",
    "a green apple on a yellow background",
    "a rocket, 3d emoji",
    "a red apple",
    "😀",
)
EXAMPLES = (
    "an armchair in the shape of an avocado",
    "a watercolor painting of a lighthouse in a storm",
    "sunset over a lake in the mountains",
    "a bowl of noodle soup, photographed from above",
    "the Eiffel tower on the moon",
    "a cute robot that waters flowers",
)

RESPONSIBLE_USE = """
## Limits and responsible use

- **Pictures are inventions.** A model draws what its training pictures make likely. It errs about
  facts, numbers, letters and faces, and what it draws of a place, a person or an event is no
  evidence of anything.
- **Models repeat the prejudices of their data**: who is shown for a profession, a country or a
  feeling. Look at several seeds before you take a picture as typical of anything.
- **Do not use it to deceive or to hurt**: no pictures that pretend to be photographs of real people
  or events, none that demean or sexualise people, none that pass off another person's style or mark
  as yours. Say that a picture was made by a model where people would take it for something else.
- **The licence of the model holds for what you do with it.** Read its card before you publish or
  sell.
- **Nothing leaves the machine that the app runs on.** It asks no other server and counts nobody.
  Pictures are deleted when it is stopped: download what you want to keep.
- **A downloaded PNG says how it was made**: prompt, seed, settings and model are in its text
  chunks, and its XMP says that a model drew it (IPTC's Digital Source Type). Remove the chunks
  before you publish a picture whose prompt is private; leave the XMP.
"""


def safeguards(checker: SafetyChecker | None, *, has_mark: bool) -> str:
    """Say what is checked here and what mark the pictures get, as lines of Markdown.

    Example:
        >>> from dallemini.app.about import safeguards
        >>> print(safeguards(None, has_mark=False))
        - **Nothing checks what is asked for and drawn here**: whoever runs this app chose so.
        - **The pictures have no watermark.**
    """
    checked = "**Nothing checks what is asked for and drawn here**: whoever runs this app chose so."
    if checker is not None:
        checked = (
            f"**Prompts and pictures are checked: {describe_checker(checker)}.** That is a short "
            "list of words, and a small network where pictures are named: they miss things, and "
            "stop some that are harmless."
        )
    mark = "**The pictures have no watermark.**"
    if has_mark:
        mark = (
            "**The pictures have a watermark** that whoever runs this app can find again; it "
            "survives JPEG and resizing, not everything."
        )
    return f"- {checked}\n- {mark}"


def limits_of(card: str) -> str:
    r"""Return the section "Limits" of a model card, without its heading; empty without one.

    Example:
        >>> from dallemini.app.about import limits_of
        >>> limits_of("# A model\n\n## Limits\n\nNo text.\n\n## More\n")
        'No text.'
    """
    found = re.search(r"^##+ [^\n]*limit[^\n]*\n(.*?)(?=^#|\Z)", card, re.I | re.M | re.S)
    return found[1].strip() if found else ""
