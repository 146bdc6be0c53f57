"""Adapters as values: low-rank additions to linear layers, and which layers a setting names.

Knows layers by their names, not files or training. Source: "LoRA" (Hu et al. 2021, section 4.1).

Shapes: r rank, I inputs and O outputs of a layer.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import LARGEST_SIZE, Config
from ..errors import CheckpointError, ConfigError, InputError
from ..foreign import is_finite, show

ADAPTER_DTYPE = torch.float32  # whatever the weights beside them are stored in
_HEAD = "lm_head"


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(Config):
    """Size and place of adapters that are to be trained.

    Attributes:
        rank: r, the width of the narrow matrices.
        alpha: their product counts alpha / rank times.
        dropout: share of the adapters' inputs that is zeroed in training.
        targets: names of linear layers, or the ends of their dotted names, such as "qkv_proj" or
            "cross_attn.out_proj"; None for every linear layer but the head: in the transformer all
            projections of attention and of the feed-forward blocks.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        self.check_types()
        if not 1 <= self.rank <= LARGEST_SIZE:
            raise ConfigError(
                f"LoRAConfig.rank must be from 1 to {LARGEST_SIZE:,}, not {show(self.rank)}."
            )
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"LoRAConfig.alpha must be a finite number above 0: {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"LoRAConfig.dropout must be from 0 up to 1, not {self.dropout}.")
        if self.targets is not None and not self.targets:
            raise ConfigError("LoRAConfig.targets must name at least one layer.")

    @property
    def scale(self) -> float:
        """What the product of the matrices is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """What an adapter adds to the weight of one layer: `scale * wide @ narrow`.

    Attributes:
        narrow: f32[r,I].
        wide: f32[O,r].
        scale: finite.
    """

    narrow: Tensor
    wide: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """The width of the narrow matrices, r."""
        return len(self.narrow)


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """A low-rank addition to some linear layers of a model.

    Attributes:
        layers: by their dotted names.
        dropout: share of its inputs that is zeroed if it is trained on.
        targets: names of layers, or the ends of their dotted names, each of which it adds to; empty
            where only the layers say so.
        source: where it came from, for messages and the metadata of pictures; "" if from nowhere.
        base_model: name of the model that it was trained on; "" if nobody said.
    """

    layers: Mapping[str, LowRank]
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    source: str = ""
    base_model: str = ""

    @functools.cached_property
    def digest(self) -> str:
        """16 digits of a SHA-256 of all its numbers."""
        digest = hashlib.sha256()
        for name, layer in sorted(self.layers.items()):
            digest.update(f"{name} {layer.scale}".encode())
            for tensor in (layer.narrow, layer.wide):
                local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
                if not local.is_meta:
                    # a copy: a storage that numpy has seen cannot be freed by FSDP
                    digest.update(local.detach().float().cpu().clone().numpy().tobytes())
        return digest.hexdigest()[:16]

    def check_fits(self, model: nn.Module) -> None:
        """Compare its layers with those of a model.

        Raises:
            CheckpointError: it belongs to another model; the message says in what they differ.
        """
        if problem := self._misfit(model):
            raise CheckpointError(
                f"The adapter {self.source} belongs to another model: {problem} "
                f"The model it was trained on: {show(self.base_model)[1:-1] or 'not recorded'}."
            )

    def _misfit(self, model: nn.Module) -> str | None:
        """Say the first thing in which they differ; None if they fit."""
        known, kind = linear_layers(model), kind_of(model)
        if unknown := sorted(self.layers.keys() - known.keys()):
            count, name = len(unknown), show(unknown[0])[1:-1]
            return f"it has the layer {name} ({count} such), which this {kind} has not."
        named = matching(model, self.targets)
        if absent := sorted(named.keys() - self.layers.keys()):
            return f"it lacks the layer {absent[0]} ({len(absent)} such), which this {kind} has."
        for name, layer in self.layers.items():
            expected = (known[name].out_features, known[name].in_features)
            found = (len(layer.wide), layer.narrow.shape[1])
            if found != expected:
                return (
                    f"its {name} adds to a weight {list(found)}, but here it is {list(expected)}."
                )
        return None


@dataclass(frozen=True, kw_only=True)
class AdapterUse:
    """That an adapter has a part in what a model draws.

    Attributes:
        digest: 16 digits of a SHA-256 of its numbers.
        weight: its strength; 1 as trained.
        source: the folder or the Hub id, with its commit, that it was loaded from; "" where it was
            trained here, or nobody wrote it down.
    """

    digest: str
    weight: float = 1.0
    source: str = ""

    def __str__(self) -> str:
        return f"{self.source or self.digest} at {self.weight:g}"

    def to_json(self) -> str | dict[str, Any]:
        """Return it as a JSON value: an object, or its digest where that says it all."""
        if self.weight == 1.0 and not self.source:
            return self.digest
        return {"digest": self.digest, "weight": self.weight, "source": self.source}

    @classmethod
    def from_json(cls, value: object) -> AdapterUse:
        """Read what `to_json` returned.

        Raises:
            ValueError, TypeError, KeyError: it is nothing of that kind.
        """
        if not isinstance(value, dict):
            return cls(digest=str(value))
        weight, source = float(value["weight"]), str(value["source"])
        return cls(digest=str(value["digest"]), weight=weight, source=source)


def check_weight(weight: object, name: str = "weight") -> float:
    """Return the strength of an adapter.

    Raises:
        InputError: it is not a finite number.
    """
    if not is_finite(weight):
        raise InputError(f"{name} must be a finite number such as 1.0, not {weight!r}.")
    return float(cast("float", weight))


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of a model by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}


def matching(model: nn.Module, targets: tuple[str, ...] | None) -> dict[str, nn.Linear]:
    """Return the linear layers that a target names; all but the head when None."""
    wanted = None if targets is None else frozenset(targets)
    return {
        name: linear
        for name, linear in linear_layers(model).items()
        if (name != _HEAD if wanted is None else not wanted.isdisjoint(endings(name)))
    }


def endings(name: str) -> list[str]:
    """Return a layer's dotted name and its ends, by each of which a target may mean it.

    Example:
        >>> from dallemini.models.adapters import endings
        >>> endings("decoder.cross_attn.q_proj")
        ['decoder.cross_attn.q_proj', 'cross_attn.q_proj', 'q_proj']
    """
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def kind_of(model: object) -> str:
    """Return the name of the class of a model."""
    return type(model).__name__
