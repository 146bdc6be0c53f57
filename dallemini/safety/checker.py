"""What a safety checker is, and what happens to what it flags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from ..errors import InputError, InputTypeError

if TYPE_CHECKING:
    import PIL.Image

SafetyAction = Literal["blank", "blur", "warn", "refuse"]
"""What happens to what is flagged: a black picture, a blurred one, a warning only, an error."""

_SEVERITY: tuple[SafetyAction, ...] = ("warn", "blur", "blank", "refuse")
_BLUR = 8  # the radius is this part of the shorter side


@dataclass(frozen=True, kw_only=True)
class SafetyFlag:
    """Why a prompt or a picture was flagged, and what is to happen to it.

    Attributes:
        action: "blank", "blur", "warn" or "refuse".
        reason: for people, such as 'the word "gore" (violence)'.

    Raises:
        InputError: there is no such action.

    Example:
        >>> from dallemini import SafetyFlag
        >>> str(SafetyFlag(action="blur", reason="too many cats"))
        'blur: too many cats'
    """

    action: SafetyAction
    reason: str

    def __post_init__(self) -> None:
        check_action(self.action)

    def __str__(self) -> str:
        return f"{self.action}: {self.reason}"


class SafetyChecker(Protocol):
    """What a pipeline asks before and after it draws; several threads may ask at once."""

    def check_prompt(self, prompt: str, /) -> SafetyFlag | None:
        """Return what is wrong with a prompt; None where nothing is."""

    def check_image(self, image: PIL.Image.Image, /) -> SafetyFlag | None:
        """Return what is wrong with a picture (RGB, as it would be seen); None where nothing is."""


class SafetyCheckers:
    """Several checkers as one; of several flags the most severe counts, then the first.

    Args:
        *checkers: any `SafetyChecker`.

    Raises:
        InputTypeError: one of them is not a checker.

    Example:
        >>> from dallemini import SafetyCheckers, WordSafetyChecker
        >>> both = SafetyCheckers(
        ...     WordSafetyChecker(action="warn"), WordSafetyChecker({"pets": ["cat"]})
        ... )
        >>> both.check_prompt("cats").reason
        'the word "cats" (pets)'
    """

    def __init__(self, *checkers: SafetyChecker) -> None:
        for checker in checkers:
            check_checker(checker)
        self.checkers = checkers

    def check_prompt(self, prompt: str, /) -> SafetyFlag | None:
        """As `SafetyChecker.check_prompt`."""
        return worst(checker.check_prompt(prompt) for checker in self.checkers)

    def check_image(self, image: PIL.Image.Image, /) -> SafetyFlag | None:
        """As `SafetyChecker.check_image`."""
        return worst(checker.check_image(image) for checker in self.checkers)

    def __repr__(self) -> str:
        return f"SafetyCheckers({', '.join(map(repr, self.checkers))})"


def worst(flags: Iterable[SafetyFlag | None]) -> SafetyFlag | None:
    """Return the most severe of some flags; the first of those that are alike."""
    found = [flag for flag in flags if flag is not None]
    return max(found, key=lambda flag: _SEVERITY.index(flag.action), default=None)


def check_action(action: object) -> None:
    """Look whether this is an action.

    Raises:
        InputError: it is not.
    """
    if action not in _SEVERITY:
        known = ", ".join(get_args(SafetyAction))
        raise InputError(f"What is flagged can be met by one of {known}, not by {action!r:.40}.")


def check_checker(checker: object) -> None:
    """Look whether this can be asked.

    Raises:
        InputTypeError: it cannot.
    """
    methods = ("check_prompt", "check_image")
    lacking = [name for name in methods if not callable(getattr(checker, name, None))]
    if lacking or isinstance(checker, type):
        name = checker.__name__ if isinstance(checker, type) else type(checker).__name__
        told = f"lacks {' and '.join(lacking)}" if lacking else "is the class itself"
        raise InputTypeError(
            f"safety_checker has the methods check_prompt and check_image, but {name} {told}; "
            "see SafetyChecker."
        )


def cover(image: PIL.Image.Image, action: SafetyAction) -> PIL.Image.Image:
    """Return a picture as it is shown: black, blurred, or as it is where there is only a warning.

    Example:
        >>> from PIL import Image
        >>> from dallemini.safety import cover
        >>> cover(Image.new("RGB", (8, 8), "red"), "blank").getcolors()
        [(64, (0, 0, 0))]
    """
    import PIL.Image
    import PIL.ImageFilter

    if action == "warn":
        return image
    if action == "blur":
        return image.filter(PIL.ImageFilter.GaussianBlur(max(1, min(image.size) / _BLUR)))
    return PIL.Image.new(image.mode, image.size)


def describe_checker(checker: SafetyChecker | None) -> str:
    """Say in a few words what is checked.

    Example:
        >>> from dallemini.safety import WordSafetyChecker, describe_checker
        >>> describe_checker(WordSafetyChecker()), describe_checker(None)
        ('words (refuse)', 'off')
    """
    if checker is None:
        return "off"
    if isinstance(checker, SafetyCheckers):
        return ", ".join(map(describe_checker, checker.checkers)) or "off"
    kind, action = getattr(checker, "kind", None), getattr(checker, "action", None)
    return f"{kind} ({action})" if kind and action else type(checker).__name__
