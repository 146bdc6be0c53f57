"""The checker that the app and the service have unless told otherwise."""

from __future__ import annotations

import warnings

from ..errors import DalleMiniWarning, MissingDependencyError
from .checker import SafetyAction, SafetyCheckers
from .pictures import PictureSafetyChecker
from .words import WordSafetyChecker


def usual_checker(
    *,
    words: WordSafetyChecker | None = None,
    action: SafetyAction | None = None,
    needs_pictures: bool = False,
) -> SafetyCheckers:
    """Return what reads prompts and, where the extra `safety` is installed, looks at pictures.

    Args:
        words: reads the prompts, instead of one with the list that is shipped.
        action: what happens to what is flagged; when None prompts are refused and pictures blanked.
        needs_pictures: do not do without the extra.

    Raises:
        MissingDependencyError: the extra is missing, and it is needed. Otherwise a
            `DalleMiniWarning` says so.
    """
    reader = words or WordSafetyChecker(action=action or "refuse")
    try:
        return SafetyCheckers(reader, PictureSafetyChecker(action=action or "blank"))
    except MissingDependencyError:
        if needs_pictures:
            raise
    warnings.warn(
        "Only the words of prompts are checked, not the pictures: that needs the extra `safety`; "
        'run: pip install ".[safety]".',
        DalleMiniWarning,
        stacklevel=2,
    )
    return SafetyCheckers(reader)
