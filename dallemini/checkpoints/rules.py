"""Rename tables: how the tensors of a foreign checkpoint become those of this library.

A table is a list of `Rule`s and `Ignore`s. `assemble` applies it and proves that it is complete:
every source tensor is used by exactly one rule or ignored on purpose, every fused group has all its
parts, no target is made twice; what may be lacking is filled in by rule. Nothing is loaded here.
Knows no format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..config import MOST_LAYERS
from ..errors import CheckpointError, UnsupportedModelError
from ..foreign import show, show_names, show_tensors
from .lazy import LazyTensor, Op, check_weights, concatenate
from .wrappers import TRAINING, foreign_prefix, log_ignored, unwrap

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
        if len(layers) != 1 or max(layers) > MOST_LAYERS:
            shapes = show_tensors({part.name: part.shape for part in parts})
            raise CheckpointError(
                f"These stacked tensors differ in their number of layers, or have more than "
                f"{MOST_LAYERS}: {shapes}. Download the checkpoint again."
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

    def applies(self, tensor: LazyTensor, *, origin: str) -> bool:
        """Tell whether this tensor is left out.

        Raises:
            UnsupportedModelError: it has another value than the one that can be left out.
        """
        if not re.fullmatch(self.pattern, tensor.name):
            return False
        if self.value is not None and not bool(torch.all(tensor.load() == self.value)):
            raise UnsupportedModelError(
                f"{origin}: {show(tensor.name)} should hold {self.value} only ({self.reason}), but "
                "it was trained. This variant is not supported; use a released DALL-E Mini "
                "checkpoint."
            )
        return True


@dataclass(frozen=True)
class Fill:
    """A tensor that this library has and a checkpoint may lack, because it changes nothing.

    Attributes:
        target: the name here.
        shape: its shape.
        value: of all its elements.
        reason: why nothing is made up.
    """

    target: str
    shape: tuple[int, ...]
    value: float
    reason: str

    def tensor(self) -> LazyTensor:
        """Describe the tensor."""
        return LazyTensor(self.reason, self.shape, torch.float32, self._load)

    def _load(self) -> Tensor:
        return torch.full(self.shape, self.value, dtype=torch.float32, device="cpu")


Table = Sequence[Rule | Ignore | Fill]


def assemble(
    tensors: Mapping[str, LazyTensor], table: Table, *, origin: str
) -> dict[str, LazyTensor]:
    """Take off what training wrapped around the weights, and apply a rename table to them.

    Args:
        tensors: the checkpoint, by the names in its file.
        table: the rules for its format.
        origin: the file or folder, for messages.

    Returns:
        The tensors by their names here, still unread.

    Raises:
        CheckpointError: a tensor has no rule or is not of floating-point numbers, a group lacks a
            part, or two rules make one target.
        UnsupportedModelError: a tensor that may only be left out when neutral is not.
    """
    rules = [entry for entry in table if isinstance(entry, Rule)]
    known = known_names(table)
    groups: dict[tuple[int, tuple[tuple[str, str], ...]], dict[int, LazyTensor]] = {}
    others = []
    for name, tensor in unwrap(tensors, known, origin=origin)[1].items():
        found = _find(rules, name) if known.fullmatch(name) else None
        if found is None:
            others.append(tensor)
        else:
            number, position, fields = found
            groups.setdefault((number, tuple(fields.items())), {})[position] = tensor
    _leave_out(others, table, origin)
    targets: dict[str, LazyTensor] = {}
    for (number, pairs), parts in groups.items():
        check_weights(parts.values(), origin=origin)
        _extend(targets, rules[number], dict(pairs), parts, origin)
    for entry in table:
        if isinstance(entry, Fill):
            targets.setdefault(entry.target, entry.tensor())
    return targets


def known_names(table: Table) -> re.Pattern[str]:
    """Return a pattern for the names in a file that the rules of a table read."""
    names = (source for rule in table if isinstance(rule, Rule) for source in rule.sources)
    return re.compile("|".join(_pattern(name, fields=False).pattern for name in names))


def _find(rules: Sequence[Rule], name: str) -> tuple[int, int, dict[str, str]] | None:
    for number, rule in enumerate(rules):
        if found := rule.match(name):
            return number, *found
    return None


def _leave_out(tensors: Sequence[LazyTensor], table: Table, origin: str) -> None:
    """Name in the log what is left out on purpose; refuse what has no rule."""
    ignored = [entry for entry in table if isinstance(entry, Ignore)]
    ignored += [Ignore(pattern, reason) for pattern, reason in TRAINING.items()]
    unknown: dict[str, tuple[int, ...]] = {}
    reasons: dict[str, list[str]] = {}
    for tensor in tensors:
        entry = next((entry for entry in ignored if entry.applies(tensor, origin=origin)), None)
        if entry is None:
            unknown[tensor.name] = tensor.shape
        else:
            reasons.setdefault(entry.reason, []).append(tensor.name)
    if unknown:
        prefix = foreign_prefix(unknown, known_names(table))
        advice = (
            f"Rename them: without {show(prefix)} in front their names would be right."
            if prefix
            else "Use a released checkpoint of a supported model."
        )
        raise CheckpointError(
            f"{origin} holds {len(unknown)} tensors that have no place in this architecture: "
            f"{show_tensors(unknown)}. {advice}"
        )
    for reason, names in reasons.items():
        log_ignored(origin, reason, names)


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
            f"{origin} lacks {show_names(absent)}, which belongs with "
            f"{show(next(iter(parts.values())).name)}. Download it again."
        )
    for target, tensor in rule.make([parts[at] for at in range(len(names))], fields).items():
        if target in targets:
            raise CheckpointError(
                f"{origin} holds {show(target)} twice: as {show(targets[target].name)} and "
                f"{show(tensor.name)}. Remove one of them."
            )
        targets[target] = tensor


def _pattern(template: str, *, fields: bool = True) -> re.Pattern[str]:
    """Compile a name with fields; a field that occurs twice stands for the same text."""
    parts, seen, end = [], set(), 0
    for found in _FIELD.finditer(template):
        field = found[1]
        parts.append(re.escape(template[end : found.start()]))
        text = r"[0-9]{1,4}" if len(field) == 1 else ".+"
        if not fields:
            parts.append(text)
        elif field in seen:
            parts.append(f"(?P={field})")
        else:
            parts.append(f"(?P<{field}>{text})")
        seen.add(field)
        end = found.end()
    return re.compile("".join(parts) + re.escape(template[end:]))
