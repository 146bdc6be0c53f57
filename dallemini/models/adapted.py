"""A model with adapters in its weights: added, given other weights, and taken out to the bit.

What draws are plain linear layers, so that an adapter costs nothing then; the model's own weights
are kept aside. Knows layers by their names, not files or training.

Shapes: I inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import InputError, InputTypeError
from .adapters import ADAPTER_DTYPE, Adapter, AdapterUse, LowRank, check_weight, kind_of


@dataclass(eq=False)
class _Loaded:
    """The adapters in a model's weights, and the weights as they are without."""

    adapters: dict[str, tuple[Adapter, float]] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)


def add_adapter(model: nn.Module, adapter: Adapter, *, name: str, weight: float = 1.0) -> None:
    """Add an adapter to a model's weights, which are kept aside.

    Args:
        model: changed in place.
        adapter: that fits it.
        name: to speak of it later.
        weight: its strength; 1 as trained, 0 without effect, below 0 the opposite.

    Raises:
        CheckpointError: the adapter belongs to another model.
        InputError: the weight is not finite, the name is taken, or the model takes no adapters.
    """
    refuse_as_base(model)
    adapters = _loaded(model).adapters
    if name in adapters:
        raise InputError(
            f"An adapter called {name!r} is loaded already; set_adapters changes its weight, and "
            "name= gives this one another name."
        )
    adapter.check_fits(model)
    _change(model, {**adapters, name: (adapter, check_weight(weight))})


def set_adapters(model: nn.Module, weights: Mapping[str, float]) -> None:
    """Give adapters other weights; those that are not named keep theirs.

    Raises:
        InputError: there is none of a name, or a weight is not finite.
    """
    adapters = _loaded(model).adapters
    _check_names(adapters, weights)
    new = {name: (adapters[name][0], check_weight(weight)) for name, weight in weights.items()}
    _change(model, {**adapters, **new})


def delete_adapters(model: nn.Module, names: Iterable[str]) -> None:
    """Take adapters out of a model's weights, to the bit.

    Raises:
        InputError: there is none of a name.
    """
    adapters, gone = _loaded(model).adapters, set(names)
    _check_names(adapters, gone)
    _change(model, {name: each for name, each in adapters.items() if name not in gone})


def fuse_adapters(model: nn.Module) -> None:
    """Make the adapters a part of the weights for good, and forget the weights without them."""
    used = adapters_of(model)
    model._loaded, model._merged = _Loaded(), used  # type: ignore[assignment]


def adapter_weights(model: nn.Module) -> dict[str, float]:
    """Return the weights of the adapters that can be taken out, by name."""
    return {name: weight for name, (_, weight) in _loaded(model).adapters.items()}


def adapters_of(model: nn.Module) -> tuple[AdapterUse, ...]:
    """Name the adapters that have a part in what a model draws, those for good first.

    Pictures carry them, since adapters change what a seed draws.
    """
    merged: tuple[AdapterUse, ...] = getattr(model, "_merged", ())
    adapters = [
        AdapterUse(digest=adapter.digest, weight=weight, source=adapter.source)
        for adapter, weight in _loaded(model).adapters.values()
        if weight
    ]
    return (*merged, *adapters)


def check_module(model: object) -> None:
    """Look whether something has layers.

    Raises:
        InputTypeError: it is no torch module, such as a whole pipeline.
    """
    if not isinstance(model, nn.Module):
        has_one = isinstance(getattr(model, "transformer", None), nn.Module)
        advice = " Give pipe.transformer instead." if has_one else ""
        raise InputTypeError(
            f"Adapters belong to a torch module, not to a {kind_of(model)}.{advice}"
        )


def refuse_as_base(model: nn.Module) -> None:
    """Refuse a model to whose weights nothing can be added.

    Raises:
        InputTypeError: it is no torch module, such as a whole pipeline.
        InputError: its weights are integers, or it is being trained.
    """
    check_module(model)
    if getattr(model, "quantization", None):
        raise InputError(
            "Int8 weights take no adapters; load the model without int8, then the adapters, and "
            "call quantize() last."
        )
    if any(name.endswith(".lora_a") for name, _ in model.named_parameters()):
        raise InputError("The model has adapters already; merge_lora(model) adds them to its own.")


def refuse_loaded(model: nn.Module) -> None:
    """Refuse a model whose own weights are aside.

    Raises:
        InputError: it is.
    """
    if names := _loaded(model).adapters:
        raise InputError(
            f"The model has loaded adapters ({', '.join(names)}); unload_adapter takes them out, "
            "and fuse_adapters(model) makes them a part of its weights."
        )


@torch.no_grad()
def add_product(weight: Tensor, additions: Iterable[tuple[LowRank, float]]) -> Tensor:
    """Return a weight f[O,I] with low-rank products, each so many times, rounded once.

    It is computed in float32, or the weight's dtype if that is wider.
    """
    dtype, device = torch.promote_types(weight.dtype, ADAPTER_DTYPE), weight.device
    total = weight.to(dtype)
    with torch.autocast(device.type, enabled=False):
        for layer, times in additions:
            product = layer.wide.to(device, dtype) @ layer.narrow.to(device, dtype)
            total = total + times * layer.scale * product
    return total.to(weight.dtype)


def _loaded(model: nn.Module) -> _Loaded:
    found = getattr(model, "_loaded", None)
    return found if isinstance(found, _Loaded) else _Loaded()


def _check_names(adapters: Mapping[str, object], wanted: Iterable[str]) -> None:
    for name in wanted:
        if name not in adapters:
            known = ", ".join(adapters) or "none"
            raise InputError(
                f"No adapter called {name!r} is loaded; loaded are: {known}. "
                "What was merged into weights, as quantize does, stays."
            )


@torch.no_grad()
def _change(model: nn.Module, adapters: dict[str, tuple[Adapter, float]]) -> None:
    """Compute the weights anew of all layers that an adapter had or gets a part in."""
    own = dict(_loaded(model).own)
    touched = {name for adapter, _ in adapters.values() for name in adapter.layers}
    for name in sorted(own.keys() | touched):
        weight = model.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        kept = own.setdefault(name, weight.data)
        parts = [
            (adapter.layers[name], times)
            for adapter, times in adapters.values()
            if times and name in adapter.layers
        ]
        # the parameter stays the same object: compiled code and optimisers know it
        weight.data = (add_product(kept, parts) if parts else kept).to(weight.device, weight.dtype)
        if name not in touched:
            del own[name]
    model._loaded = _Loaded(adapters, own)  # type: ignore[assignment]
