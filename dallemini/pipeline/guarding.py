"""Asking a safety checker about the prompts and pictures of one call, and doing what it says."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from ..errors import DalleMiniWarning, InputTypeError, SafetyError
from ..generation.blend import Prompt, texts_of
from ..safety.checker import SafetyChecker, SafetyFlag, check_checker, cover, worst
from ..safety.usual import usual_checker

if TYPE_CHECKING:
    import PIL.Image


class Guarded:
    """The part of a pipeline that has a safety checker, or none."""

    _safety_checker: SafetyChecker | None = None

    @property
    def safety_checker(self) -> SafetyChecker | None:
        """Asked about every prompt and picture; None lets everything pass.

        Raises:
            InputTypeError: what is set has not the methods of a `SafetyChecker`.
        """
        return self._safety_checker

    @safety_checker.setter
    def safety_checker(self, checker: SafetyChecker | None) -> None:
        if checker is not None:
            check_checker(checker)
        self._safety_checker = checker


GuardedT = TypeVar("GuardedT", bound=Guarded)


@dataclass(frozen=True, kw_only=True)
class SafetyCheck:
    """One call's check. Without a checker everything passes.

    Attributes:
        checker: is asked.
        prompts: of the call.
        flags: of each prompt.
    """

    checker: SafetyChecker | None
    prompts: Sequence[Prompt]
    flags: Sequence[SafetyFlag | None]

    @classmethod
    def of(cls, checker: SafetyChecker | None, prompts: Sequence[Prompt]) -> Self:
        """Look at the prompts of a call before it begins.

        Raises:
            SafetyError: one of them is refused.
            InputTypeError: the checker returned neither a flag nor None.
        """
        if checker is None:
            return cls(checker=None, prompts=prompts, flags=())
        flags = [
            worst(_checked(checker.check_prompt(text)) for text, _ in texts_of(prompt))
            for prompt in prompts
        ]
        for prompt, flag in zip(prompts, flags, strict=True):
            if flag is not None and flag.action == "refuse":
                raise SafetyError(
                    f"The prompt {str(prompt)!r:.80} is not drawn, because it was flagged for "
                    f"{flag.reason}; ask in other words."
                )
        return cls(checker=checker, prompts=prompts, flags=flags)

    def see(self, image: PIL.Image.Image, *, prompt: int) -> SafetyFlag | None:
        """Return the flag of a picture: its prompt's or its own, whichever is more severe.

        Args:
            image: as it would be shown.
            prompt: the number of its prompt.
        """
        if self.checker is None:
            return None
        return worst([self.flags[prompt], _checked(self.checker.check_image(image))])

    def refuse(self, flags: Sequence[SafetyFlag | None], prompts: Sequence[int]) -> None:
        """Let no finished picture pass that is refused.

        Args:
            flags: of each.
            prompts: the number of each one's prompt.

        Raises:
            SafetyError: one of them is.
        """
        for flag, told in self._flagged(flags, prompts):
            if flag.action == "refuse":
                raise SafetyError(f"{told}, and is not shown; try another seed or other words.")

    def warn(self, flags: Sequence[SafetyFlag | None], prompts: Sequence[int]) -> None:
        """Warn of finished pictures, for those who call in Python: it quotes prompts."""
        for flag, told in self._flagged(flags, prompts):
            if flag.action == "warn":
                warnings.warn(f"{told}.", DalleMiniWarning, stacklevel=2)

    def _flagged(
        self, flags: Sequence[SafetyFlag | None], prompts: Sequence[int]
    ) -> Iterator[tuple[SafetyFlag, str]]:
        for flag, number in zip(flags, prompts, strict=True):
            if flag is not None:
                prompt = str(self.prompts[number])
                yield flag, f"A picture of {prompt!r:.80} was flagged for {flag.reason}"


def guarded(pipe: GuardedT, checker: SafetyChecker | Literal["usual"] | None) -> GuardedT:
    """Return a pipeline of the same parts with a safety checker, for those who draw for others.

    Args:
        pipe: stays as it is.
        checker: "usual" is the pipeline's own where it has one, else `usual_checker()`; None is
            none.
    """
    if checker == "usual":
        checker = usual_checker() if pipe.safety_checker is None else pipe.safety_checker
    changed = copy.copy(pipe)
    changed.safety_checker = checker
    return changed


def covered(image: PIL.Image.Image, flag: SafetyFlag | None) -> PIL.Image.Image:
    """Return a picture as it is shown; one that is refused is black while it is on its way."""
    return image if flag is None else cover(image, flag.action)


def _checked(flag: object) -> SafetyFlag | None:
    if flag is None or isinstance(flag, SafetyFlag):
        return flag
    raise InputTypeError(
        f"A safety checker returns a SafetyFlag or None, not {flag!r:.40} as yours did."
    )
