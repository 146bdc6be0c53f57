"""Rename tables: how the tensors of a foreign checkpoint become those of this library.

A table is a list of `Rule`s and `Ignore`s. `assemble` applies it and proves that it is complete:
every source tensor is used by exactly one rule or ignored on purpose, every fused group has all its
parts, no target is made twice. Nothing is loaded here. Knows no format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ..errors import CheckpointError, UnsupportedModelError
from .lazy import LazyTensor, Op, concatenate

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Rule:
    """One line of a rename table.

    In the names, `{i}` and `{j}` stand for a number and any longer field such as `{rest}` for any
    text. Several sources are joined along axis 0, after `op` was applied to each.

    Attributes:
        target: the name here.
        sources: the names in the file.
        op: what happens to each source.
        unstack: the sources hold all layers along axis 0; entry i becomes the target's `{i}`.

    Example:
        >>> from dallemini.checkpoints.rules import Rule
        >>> Rule("layers.{i}.weight", ("Layer_{i}/kernel",)).match("Layer_3/kernel")
        (0, {'i': '3'})
    """

    target: str
    sources: tuple[str, ...]
    op: Op | None = None
    unstack: bool = False

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(_pattern(source) for source in self.sources)

    def match(self, name: str) -> tuple[int, dict[str, str]] | None:
        """Return which source has this name and what its fields stand for; None if none has it."""
        for position, pattern in enumerate(self._patterns):
            if found := pattern.fullmatch(name):
                return position, found.groupdict()
        return None

    def make(self, parts: Sequence[LazyTensor], fields: Mapping[str, str]) -> dict[str, LazyTensor]:
        """Return the targets made from one complete group of sources."""
        if not self.unstack:
            return {self.target.format(**fields): self._join(parts)}
        layers = {part.shape[0] if part.shape else 0 for part in parts}
        if len(layers) != 1:
            shapes = ", ".join(f"{part.name!r} {part.shape}" for part in parts)
            raise CheckpointError(
                f"These stacked tensors differ in their number of layers: {shapes}."
            )
        return {
            self.target.format(i=index, **fields): self._join([part.row(index) for part in parts])
            for index in range(layers.pop())
        }

    def _join(self, parts: Sequence[LazyTensor]) -> LazyTensor:
        return concatenate([part.apply(self.op) if self.op else part for part in parts])


@dataclass(frozen=True)
class Ignore:
    """Tensors that are left out on purpose.

    Attributes:
        pattern: regular expression for the whole name.
        reason: why nothing is lost.
        value: they may only be left out where all their elements have this value.
    """

    pattern: str
    reason: str
    value: float | None = None

    def applies(self, tensor: LazyTensor) -> bool:
        """Tell whether this tensor is left out.

        Raises:
            UnsupportedModelError: it has another value than the one that can be left out.
        """
        if not re.fullmatch(self.pattern, tensor.name):
            return False
        if self.value is not None and not bool(torch.all(tensor.load() == self.value)):
            raise UnsupportedModelError(
                f"{tensor.name!r} should hold {self.value} only ({self.reason}), but it was "
                "trained. This variant is not supported; use a released DALL-E Mini checkpoint."
            )
        return True


Table = Sequence[Rule | Ignore]


def assemble(
    tensors: Mapping[str, LazyTensor], table: Table, *, origin: str
) -> dict[str, LazyTensor]:
    """Apply a rename table to a checkpoint.

    Args:
        tensors: the checkpoint, by the names in its file.
        table: the rules for its format.
        origin: the file or folder, for messages.

    Returns:
        The tensors by their names here, still unread.

    Raises:
        CheckpointError: a tensor has no rule, a group lacks a part, or two rules make one target.
        UnsupportedModelError: a tensor that may only be left out when neutral is not.
    """
    rules = [entry for entry in table if isinstance(entry, Rule)]
    ignored = [entry for entry in table if isinstance(entry, Ignore)]
    groups: dict[tuple[int, tuple[tuple[str, str], ...]], dict[int, LazyTensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        for number, rule in enumerate(rules):
            if found := rule.match(name):
                groups.setdefault((number, tuple(found[1].items())), {})[found[0]] = tensor
                break
        else:
            if not any(entry.applies(tensor) for entry in ignored):
                unknown.append(f"{name!r} {tensor.shape}")
    if unknown:
        raise CheckpointError(
            f"{origin} holds {len(unknown)} tensors that have no place in this architecture: "
            f"{_some(unknown)}. Use a released checkpoint of a supported model."
        )
    targets: dict[str, LazyTensor] = {}
    for (number, fields), parts in groups.items():
        _extend(targets, rules[number], dict(fields), parts, origin)
    return targets


def _extend(
    targets: dict[str, LazyTensor],
    rule: Rule,
    fields: Mapping[str, str],
    parts: Mapping[int, LazyTensor],
    origin: str,
) -> None:
    """Add what one rule makes of one group."""
    names = [source.format(**fields) for source in rule.sources]
    if absent := [name for position, name in enumerate(names) if position not in parts]:
        raise CheckpointError(
            f"{origin} lacks {_some(absent)}, which belongs with "
            f"{next(iter(parts.values())).name!r}. Download it again."
        )
    for target, tensor in rule.make([parts[at] for at in range(len(names))], fields).items():
        if target in targets:
            raise CheckpointError(
                f"{origin} holds {target!r} twice: as {targets[target].name!r} and "
                f"{tensor.name!r}. Remove one of them."
            )
        targets[target] = tensor


def _pattern(template: str) -> re.Pattern[str]:
    """Compile a name with fields; a field that occurs twice stands for the same text."""
    parts, seen, end = [], set(), 0
    for found in _FIELD.finditer(template):
        field = found[1]
        parts.append(re.escape(template[end : found.start()]))
        if field in seen:
            parts.append(f"(?P={field})")
        else:
            parts.append(f"(?P<{field}>{r'[0-9]+' if len(field) == 1 else '.+'})")
        seen.add(field)
        end = found.end()
    return re.compile("".join(parts) + re.escape(template[end:]))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
