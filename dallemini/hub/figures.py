"""What was measured of a model, from the file that says so into its card.

Reads the `report.json` of `dallemini evaluate` and any JSON like it, such as an `evaluation.json`:
every object with `value`, `low`, `high` and `count` is a figure, and the keys on the way to it are
its name. Nothing else becomes one, so that a card says what was measured and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..foreign import is_finite, show

_NAMES = ("selection", "name")  # of an entry of a list
_DEEPEST = 32  # keys on the way to a figure


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what was measured, from the general to the special, such as ("bare_names", "first").
        value: what was found.
        low: lower end of the 95 % interval.
        high: upper end.
        count: on how many it was measured.
        data: name of the data; "" where the file does not say.
    """

    name: tuple[str, ...]
    value: float
    low: float
    high: float
    count: int
    data: str = ""

    @property
    def title(self) -> str:
        """The name for people.

        Example:
            >>> from dallemini.hub.figures import Figure
            >>> Figure(name=("bare_names", "first"), value=1, low=0, high=1, count=9).title
            'bare names, first'
        """
        return ", ".join(part.replace("_", " ") for part in self.name)


def read_figures(evaluation: Mapping[str, Any]) -> list[Figure]:
    """Return every figure of an evaluation.

    Args:
        evaluation: JSON values, such as those of `report.json`.

    Example:
        >>> from dallemini.hub.figures import read_figures
        >>> found = {"value": 23.4, "low": 23.0, "high": 23.8, "count": 100}
        >>> [figure.name for figure in read_figures({"reconstruction": {"psnr": found}, "n": 1})]
        [('reconstruction', 'psnr')]
    """
    found = evaluation.get("data") or ""
    data = found if isinstance(found, str) else show(found)
    return [Figure(name=name, data=data, **figure) for name, figure in _find(evaluation, ())]


def _find(values: Any, name: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield the name and the fields of every figure."""
    if len(name) > _DEEPEST:
        return
    if isinstance(values, Mapping):
        figure = {key: values.get(key) for key in ("value", "low", "high", "count")}
        if name and all(map(is_finite, figure.values())):
            yield name, figure
            return
        for key, entry in values.items():
            if key not in ("settings", "config"):
                yield from _find(entry, (*name, str(key)))
    elif isinstance(values, list):
        for number, entry in enumerate(values):
            named = entry if isinstance(entry, Mapping) else {}
            own = next((str(named[key]) for key in _NAMES if key in named), str(number + 1))
            yield from _find(entry, (*name, own))


def model_index(model: str, figures: Sequence[Figure], *, task: str) -> list[dict[str, Any]]:
    """Return figures in the form of the Hub's `model-index`; an empty list without any."""
    by_data: dict[str, list[Figure]] = {}
    for figure in figures:
        by_data.setdefault(figure.data or figure.name[0].replace("_", " "), []).append(figure)
    results = [
        {
            "task": {"type": task},
            "dataset": {"name": data, "type": data.replace(" ", "-")},
            "metrics": [
                {"type": figure.name[-1], "value": figure.value, "name": figure.title}
                for figure in several
            ],
        }
        for data, several in by_data.items()
    ]
    return [{"name": model, "results": results}] if results else []


def figures_table(figures: Sequence[Figure]) -> str:
    """Return figures as a table in Markdown.

    Example:
        >>> from dallemini.hub.figures import Figure, figures_table
        >>> print(figures_table([Figure(name=("psnr",), value=23.41, low=23, high=24, count=9)]))
        | measured | value | 95 % interval | measured on |
        |---|---|---|---|
        | psnr | 23.4 | 23.0 to 24.0 | 9 |
    """
    lines = ["| measured | value | 95 % interval | measured on |", "|---|---|---|---|"]
    for figure in figures:
        value, low, high = (f"{number:#.3g}" for number in (figure.value, figure.low, figure.high))
        title = figure.title.replace("|", "\\|")
        lines.append(f"| {title} | {value} | {low} to {high} | {figure.count:,} |")
    return "\n".join(lines)
