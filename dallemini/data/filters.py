"""Filters by column, such as "width >= 256" or "lang == en"."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

_FILTER = re.compile(
    r"\s*(?P<column>[^=!<>]+?)\s*(?P<sign>==|!=|<=|>=|<|>)(?!=)\s*(?P<value>.*?)\s*"
)
_SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Filter:
    """A condition on one column.

    Attributes:
        column: whose value is compared.
        sign: ==, !=, <=, >=, < or >.
        value: what it is compared to: a number, or a text where the sign is == or !=.
    """

    column: str
    sign: str
    value: float | str

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, float) else self.value
        return f"{self.column} {self.sign} {value}"

    def passes(self, value: object) -> bool:
        """Tell whether a value meets the condition; none, or one of the wrong kind, does not.

        Example:
            >>> parse_filter("width >= 256").passes(300), parse_filter("lang == en").passes(None)
            (True, False)
        """
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return False
        compare = _SIGNS[self.sign]
        if isinstance(self.value, float) and (number := _number(value)) is not None:
            return bool(compare(number, self.value))
        if self.sign not in ("==", "!="):
            return False
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return bool(compare(text, self._text))

    def passes_all(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Do the same for many numbers at once."""
        found = values.astype(np.float64)
        mask: NDArray[np.bool_] = _SIGNS[self.sign](found, self.value) & ~np.isnan(found)
        return mask

    @property
    def _text(self) -> str:
        return f"{self.value:g}" if isinstance(self.value, float) else self.value


def parse_filter(text: str) -> Filter:
    """Read a filter: column, sign, value; a text may stand in quotes.

    Raises:
        ConfigError: the text is no filter, or orders by something that is no number.

    Example:
        >>> parse_filter("nsfw < 0.5")
        Filter(column='nsfw', sign='<', value=0.5)
    """
    found = _FILTER.fullmatch(text)
    if not found or not found["value"]:
        raise ConfigError(
            f"{text!r} is not a filter. Write a column, one of {' '.join(_SIGNS)}, and a value, "
            'such as "width >= 256" or "lang == en".'
        )
    column, sign, value = found["column"], found["sign"], found["value"]
    if value[0] in "\"'" and value[-1] == value[0] and len(value) > 1:
        number, value = None, value[1:-1]
    else:
        number = _number(value)
    if number is None and sign not in ("==", "!="):
        raise ConfigError(f"The filter {text!r} compares by {sign}, which needs a number.")
    return Filter(column, sign, value if number is None else number)


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]  # anything may be a number, or not
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number
