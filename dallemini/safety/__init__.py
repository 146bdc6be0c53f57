"""Looking at prompts and finished pictures before anybody sees them.

`checker` says what a safety checker is and what happens to what it flags; `words` reads prompts,
`pictures` looks at pictures with a small network of the extra `safety`. Any class with the two
methods of `SafetyChecker` can take their place. Knows no model that draws.
"""

from __future__ import annotations

from .checker import (
    SafetyAction,
    SafetyChecker,
    SafetyCheckers,
    SafetyFlag,
    check_checker,
    cover,
    describe_checker,
)
from .pictures import PictureSafetyChecker
from .usual import usual_checker
from .words import HARMLESS, WORDS, WordSafetyChecker

__all__ = [
    "HARMLESS",
    "WORDS",
    "PictureSafetyChecker",
    "SafetyAction",
    "SafetyChecker",
    "SafetyCheckers",
    "SafetyFlag",
    "WordSafetyChecker",
    "check_checker",
    "cover",
    "describe_checker",
    "usual_checker",
]
