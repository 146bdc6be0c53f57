"""What the app says before anybody uses what it makes."""

from __future__ import annotations

from dallemini import hub
from dallemini.app.about import safeguards, told_by
from dallemini.hub.source import BUNDLED_MODEL
from dallemini.pipeline.parts import Parts
from dallemini.safety import WordSafetyChecker

CARD = """# A model

## Limitations and Bias

### Limitations

Faces are not drawn well.

### Bias

The data are in English.

## Training

Long.
"""


def test_limits_and_bias_of_a_card_are_told() -> None:
    told = "### Limitations\n\nFaces are not drawn well.\n\n### Bias\n\nThe data are in English."
    assert told_by(CARD) == told
    assert told_by("# A model\n\nText.\n") == ""


def test_the_card_of_the_bundled_model_says_both() -> None:
    card = Parts(hub.open(BUNDLED_MODEL)).notes()["README.md"]
    told = told_by(card)
    assert told.startswith("### Limits\n")
    assert "\n### Bias\n" in told
    assert "skin" in told


def test_checks_marks_and_signatures_are_told() -> None:
    told = safeguards(WordSafetyChecker(), has_mark=True, is_signed=True)
    assert "**Prompts and pictures are checked: words (refuse).**" in told
    assert "**The pictures have a watermark**" in told
    assert "their files are signed with the certificate (C2PA)" in told
    plain = safeguards(None, has_mark=False)
    assert "**The pictures have no watermark**, and their files no signature (C2PA)." in plain
