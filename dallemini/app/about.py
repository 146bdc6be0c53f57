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


def safeguards(checker: SafetyChecker | None, *, has_mark: bool, is_signed: bool = False) -> str:
    """Say what is checked here and how the pictures are marked, as lines of Markdown.

    Example:
        >>> from dallemini.app.about import safeguards
        >>> print(safeguards(None, has_mark=False))
        - **Nothing checks what is asked for and drawn here**: whoever runs this app chose so.
        - **The pictures have no watermark**, and their files no signature (C2PA).
    """
    checked = "**Nothing checks what is asked for and drawn here**: whoever runs this app chose so."
    if checker is not None:
        checked = (
            f"**Prompts and pictures are checked: {describe_checker(checker)}.** That is a short "
            "list of words, and a small network where pictures are named: they miss things, and "
            "stop some that are harmless."
        )
    mark = "**The pictures have no watermark**"
    if has_mark:
        mark = (
            "**The pictures have a watermark** that whoever runs this app can find again; it "
            "survives JPEG and resizing, not everything"
        )
    signed = "their files no signature (C2PA)"
    if is_signed:
        signed = "their files are signed with the certificate (C2PA) of whoever runs this app"
    return f"- {checked}\n- {mark}, and {signed}."


def told_by(card: str) -> str:
    r"""Return the sections of a model card on limits and bias; empty where it has none.

    Example:
        >>> from dallemini.app.about import told_by
        >>> told_by("# A model\n\n## Limits\n\nNo text.\n\n## Bias\n\nYellow.\n\n## More\n")
        '### Limits\n\nNo text.\n\n### Bias\n\nYellow.'
    """
    sections = re.findall(
        r"^##+ ([^\n]*(?:limit|bias)[^\n]*)\n(.*?)(?=^#|\Z)", card, re.I | re.M | re.S
    )
    return "\n\n".join(f"### {name}\n\n{text.strip()}" for name, text in sections if text.strip())
