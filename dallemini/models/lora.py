"""Fine-tuning a few numbers beside frozen weights, and adding them to a model that draws.

Every chosen projection W gets two narrow matrices, and computes with W + alpha / rank * B @ A.
Knows linear layers by their names, not models or training loops, and imports nothing optional: a
user who only draws loads adapters with it. Source: "LoRA" (Hu et al. 2021, section 4.1).

Shapes: r rank, I inputs and O outputs of a projection.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import hub, kernels
from .._version import __version__
from ..checkpoints.lazy import LazyTensor
from ..checkpoints.safetensors_file import read_safetensors, write_safetensors
from ..config import Config, read_json, suggest
from ..errors import CheckpointError, ConfigError, InputError, InputTypeError, MissingFileError
from ..files import write_text
from .pretrained import save_into

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter.safetensors"
_DTYPE = torch.float32  # of adapters, whatever the weights beside them are stored in


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(Config):
    """Size and place of the adapters; the defaults are every projection of the transformer.

    Attributes:
        rank: r, the width of the narrow matrices.
        alpha: their product counts alpha / rank times.
        dropout: share of the adapters' inputs that is zeroed in training.
        targets: names of linear layers, or the ends of their dotted names, such as "qkv_proj" or
            "cross_attn.out_proj".
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("qkv_proj", "q_proj", "kv_proj", "out_proj", "in_proj")

    def __post_init__(self) -> None:
        self.check_types()
        if self.rank < 1:
            raise ConfigError(f"LoRAConfig.rank must be at least 1, not {self.rank}.")
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"LoRAConfig.alpha must be a finite number above 0: {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"LoRAConfig.dropout must be from 0 up to 1, not {self.dropout}.")
        if not self.targets:
            raise ConfigError("LoRAConfig.targets must name at least one layer.")

    @property
    def scale(self) -> float:
        """What the product of the matrices is multiplied by."""
        return self.alpha / self.rank


class LoRALinear(nn.Linear):
    """A frozen linear layer with its adapter: `W h + scale * B A h`.

    It owns the weight of the layer it stands for under the same name, so a state dict keeps every
    name it had and gains `lora_a` f32[r,I] and `lora_b` f32[O,r].

    Args:
        base: the layer; its weight is taken from it, not copied, until `release`.
        config: size of the adapter.
        generator: on the CPU; A is drawn from it, B is zero.
    """

    def __init__(self, base: nn.Linear, config: LoRAConfig, *, generator: torch.Generator) -> None:
        nn.Module.__init__(self)  # nn.Linear's would draw a weight that is not needed
        self.in_features, self.out_features = base.in_features, base.out_features
        for name, parameter in base._parameters.items():
            self.register_parameter(name, parameter)
        self.requires_grad_(False)
        base._parameters.clear()  # or it would keep alive what FSDP replaces by a split weight
        self.config, self._base = config, (base,)  # in a tuple it is no submodule
        drawn = torch.randn(
            config.rank, self.in_features, generator=generator, dtype=_DTYPE, device="cpu"
        )
        drawn = (drawn * self.in_features**-0.5).to(self.weight.device)
        self.lora_a = nn.Parameter(drawn)
        self.lora_b = nn.Parameter(drawn.new_zeros(self.out_features, config.rank))
        self.train(base.training)

    def forward(self, input: Tensor) -> Tensor:
        """Map f[...,I] to f[...,O], in the dtype that the layer alone would give."""
        output = kernels.linear(input, self.weight, self.bias)
        narrow = F.dropout(input.to(self.lora_a.dtype), self.config.dropout, self.training)
        update = F.linear(F.linear(narrow, self.lora_a), self.lora_b)
        return output + (self.config.scale * update).to(output.dtype)

    def release(self) -> nn.Linear:
        """Give the weight back to the layer that this one stood for, and return that layer."""
        (base,) = self._base
        base._parameters.update({name: self._parameters[name] for name in ("weight", "bias")})
        return base.train(self.training)


def add_lora(model: nn.Module, config: LoRAConfig | None = None, *, seed: int = 0) -> list[str]:
    """Put adapters beside the layers that `config` names, and freeze everything else.

    The outputs stay as they were until the adapters are trained. Convert the dtype of the model
    before, not after: the adapters stay float32.

    Args:
        model: changed in place, such as a `Transformer`.
        config: the defaults when None.
        seed: of the adapters' random halves; the global random state is not touched.

    Returns:
        The names of the layers.

    Raises:
        ConfigError: a target names no linear layer of the model, or the rank is wider than one.
        InputError: the model has adapters already, or no weights.

    Example:
        >>> from dallemini.testing import tiny_transformer
        >>> from dallemini.models.lora import LoRAConfig, add_lora
        >>> transformer = tiny_transformer()
        >>> len(add_lora(transformer, LoRAConfig(rank=2)))
        22
    """
    config = LoRAConfig() if config is None else config
    _refuse_adapted(model)
    linears = _matching(model, config.targets)
    for target in config.targets:
        if not any(_names(target, name) for name in linears):
            known = {name.rpartition(".")[2] for name in _linears(model)}
            raise ConfigError(
                f"No linear layer of this {_kind(model)} is called {target!r}."
                f"{suggest(target, known)}"
            )
    if any(linear.weight.is_meta for linear in linears.values()):
        raise InputError(
            f"The {_kind(model)} has no weights; make it with from_pretrained or from_config."
        )
    for name, linear in linears.items():
        if config.rank > min(linear.in_features, linear.out_features):
            raise ConfigError(
                f"LoRAConfig.rank {config.rank} is wider than the layer {name}, which maps "
                f"{linear.in_features} numbers to {linear.out_features}; take a lower one."
            )
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for name, linear in linears.items():
        model.set_submodule(name, LoRALinear(linear, config, generator=generator))
    return list(linears)


def merge_lora(model: nn.Module) -> list[str]:
    """Add the adapters to the weights and take them away: the model is built as before `add_lora`.

    Each weight becomes W + scale * B @ A, computed in float32 (or the weight's dtype if that is
    wider) and rounded once. Every parameter can be trained again, as after loading. A model that
    is split over processes has the right weights then, for its state dict; it computes no more.

    Args:
        model: changed in place.

    Returns:
        The names of the layers that had an adapter.

    Raises:
        InputError: the model has no adapters.
    """
    adapters, digests = _adapters(model), adapter_digests(model)
    for name, adapter in adapters.items():
        _fold(adapter.weight, adapter.lora_a, adapter.lora_b, scale=adapter.config.scale)
        model.set_submodule(name, adapter.release())
    model.requires_grad_(True)
    model._merged_adapters = digests  # type: ignore[assignment]
    return list(adapters)


def adapter_digests(model: nn.Module) -> tuple[str, ...]:
    """Name the adapters that changed a model, merged ones first: 16 digits of a SHA-256 for each.

    Pictures carry them, since adapters change what a seed draws. Of a model that is split over
    processes, each names its own piece.
    """
    merged: tuple[str, ...] = getattr(model, "_merged_adapters", ())
    attached = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)
    }
    if not attached:
        return merged
    digest = hashlib.sha256()
    for name, layer in sorted(attached.items()):
        digest.update(f"{name} {layer.config.scale}".encode())
        for tensor in (layer.lora_a, layer.lora_b):
            local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            if not local.is_meta:
                # a copy: a storage that numpy has seen cannot be freed by FSDP
                digest.update(local.detach().float().cpu().clone().numpy().tobytes())
    return (*merged, digest.hexdigest()[:16])


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapters' tensors, `<layer>.lora_a` f32[r,I] and `<layer>.lora_b` f32[O,r].

    Of a model that is split over processes the whole tensors are gathered; all must call it.

    Raises:
        InputError: the model has no adapters.
    """
    return {
        name: tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        for name, tensor in _parts(model).items()
    }


def save_lora(
    model: nn.Module,
    directory: str | os.PathLike[str],
    *,
    base_model: str = "",
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `adapter_config.json` and `adapter.safetensors`; `load_lora(model, directory)` reads.

    Args:
        model: with adapters.
        directory: made if missing; an older adapter in it is replaced.
        base_model: name of the model that they were trained on, such as "dallemini/emoji", for
            whoever loads them.
        state_dict: whole tensors to write instead of the model's own, such as averaged ones, named
            as in `lora_state_dict`; others in it are ignored.

    Raises:
        InputError: the model or `state_dict` has no adapters, or without it the model is split.
        StorageError: the folder cannot be made or written.
        InputTypeError: `directory` is neither a string nor a path.
    """
    parts = _parts(model)
    if state_dict is None and any(hasattr(part, "full_tensor") for part in parts.values()):
        raise InputError(
            "The model is split over processes: call lora_state_dict in every process, and give "
            "what it returns as state_dict."
        )
    whole = parts if state_dict is None else state_dict
    if absent := [name for name in parts if name not in whole]:
        raise InputError(
            f"state_dict lacks {len(absent)} tensors of the adapters, such as {absent[0]}."
        )
    config = next(iter(_adapters(model).values())).config
    mark = {"component": "lora", "version": __version__}
    origin = {"base": _kind(model), "base_model": base_model}
    text = json.dumps({"dallemini": {**mark, **origin}, **config.to_dict()}, indent=2) + "\n"

    def write(folder: Path) -> None:
        lazy = {name: LazyTensor.of(name, whole[name].detach()) for name in parts}
        write_safetensors(lazy, folder / WEIGHTS_FILE)
        write_text(folder / CONFIG_FILE, text)

    save_into(directory, write)


def load_lora(
    model: nn.Module,
    source: str | os.PathLike[str],
    *,
    scale: float = 1.0,
    merge: bool = True,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | None = None,
) -> list[str]:
    """Add the adapters of a folder or a Hub model; several may be added one after the other.

    Args:
        model: changed in place, such as `pipe.transformer`.
        source: folder that `save_lora` wrote, or a Hub id.
        scale: strength; 1 as trained, 0 without effect.
        merge: add them to the weights; False leaves them beside frozen ones, to train on.
        subfolder: folder inside the source that holds the adapter.
        revision: branch, tag or commit on the Hub.
        cache_dir: the Hub's cache folder, instead of the user's.
        local_files_only: never ask the network.
        token: Hub access token, instead of the stored one.

    Returns:
        The names of the layers that were changed.

    Raises:
        MissingFileError: the source does not exist or holds no adapter.
        HubError: the Hub could not be reached or refused.
        CheckpointError: the files are corrupt, or belong to another model.
        ConfigError: `adapter_config.json` cannot be read.
        InputError: `scale` is not a finite number, or the model has adapters that are not merged.
        InputTypeError: `model` is not a torch module, such as a whole pipeline.
    """
    if not (isinstance(scale, int | float) and math.isfinite(scale)):
        raise InputError(f"scale must be a finite number such as 1.0, not {scale!r}.")
    _refuse_adapted(model)
    where = hub.Where(revision, cache_dir, local_files_only, token)
    config, tensors = _read(hub.open(source, where, subfolder=subfolder), model)
    if not merge:
        return _attach(model, dataclasses.replace(config, alpha=config.alpha * scale), tensors)
    linears = _matching(model, config.targets)
    for name, linear in linears.items():
        narrow, wide = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        _fold(linear.weight, narrow, wide, scale=scale * config.scale)
    return list(linears)


@torch.no_grad()
def _attach(model: nn.Module, config: LoRAConfig, tensors: Mapping[str, Tensor]) -> list[str]:
    names = add_lora(model, config)
    for name, adapter in _adapters(model).items():
        adapter.lora_a.copy_(tensors[f"{name}.lora_a"])
        adapter.lora_b.copy_(tensors[f"{name}.lora_b"])
    return names


def _read(source: hub.Source, model: nn.Module) -> tuple[LoRAConfig, dict[str, Tensor]]:
    """Return an adapter's settings and its tensors, all of which belong to layers of the model."""
    if absent := {CONFIG_FILE, WEIGHTS_FILE} - {*source.files()}:
        raise MissingFileError(
            f"{source.name} is no LoRA adapter: it lacks {' and '.join(sorted(absent))}; it holds "
            f"{hub.list_files(source.files())}. Give a folder that save_lora wrote."
        )
    paths = source.fetch([CONFIG_FILE, WEIGHTS_FILE])
    values = read_json(paths[CONFIG_FILE])
    mark = values.pop("dallemini", None)
    if not isinstance(mark, dict) or mark.get("component") != "lora":
        raise CheckpointError(
            f"{CONFIG_FILE} of {source.name} was not written by this library: it lacks the mark "
            "'dallemini'. Adapters of other libraries cannot be read."
        )
    try:
        config = LoRAConfig.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{paths[CONFIG_FILE]}: {error}") from error
    tensors = read_safetensors(paths[WEIGHTS_FILE])
    if problem := _misfit(model, config, tensors):
        raise CheckpointError(
            f"The adapter {source.name} belongs to another model: {problem} "
            f"The model it was trained on: {mark.get('base_model') or 'not recorded'}."
        )
    return config, tensors


def _misfit(model: nn.Module, config: LoRAConfig, tensors: Mapping[str, Tensor]) -> str | None:
    """Say the first thing in which an adapter and a model differ; None if they fit."""
    expected: dict[str, tuple[int, int]] = {}
    for name, linear in _matching(model, config.targets).items():
        expected[f"{name}.lora_a"] = (config.rank, linear.in_features)
        expected[f"{name}.lora_b"] = (linear.out_features, config.rank)
    if unknown := sorted(tensors.keys() - expected.keys()):
        return f"it has {unknown[0]} ({len(unknown)} such), for which {_kind(model)} has no layer."
    if absent := sorted(expected.keys() - tensors.keys()):
        return f"it lacks {absent[0]} ({len(absent)} such), for a layer that {_kind(model)} has."
    for name, shape in expected.items():
        if (found := tuple(tensors[name].shape)) != shape:
            return f"{name} has shape {list(found)}, but this {_kind(model)} needs {list(shape)}."
    return None


@torch.no_grad()
def _fold(weight: Tensor, narrow: Tensor, wide: Tensor, *, scale: float) -> None:
    """Add scale * B @ A to a weight f[O,I] in place."""
    dtype = torch.promote_types(weight.dtype, _DTYPE)
    narrow, wide = narrow.to(weight.device, dtype), wide.to(weight.device, dtype)
    with torch.autocast(weight.device.type, enabled=False):
        weight.copy_(weight.to(dtype) + scale * (wide @ narrow))


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}


def _matching(model: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Linear]:
    """Return the linear layers that a target names."""
    return {
        name: linear
        for name, linear in _linears(model).items()
        if any(_names(target, name) for target in targets)
    }


def _names(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        has_one = isinstance(getattr(model, "transformer", None), nn.Module)
        advice = " Give pipe.transformer instead." if has_one else ""
        raise InputTypeError(f"Adapters belong to a torch module, not to a {_kind(model)}.{advice}")


def _adapters(model: nn.Module) -> dict[str, LoRALinear]:
    _check_module(model)
    found = {name: part for name, part in model.named_modules() if isinstance(part, LoRALinear)}
    if not found:
        raise InputError(f"The {_kind(model)} has no adapters; add_lora makes them.")
    return found


def _parts(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": getattr(adapter, part).detach()
        for name, adapter in _adapters(model).items()
        for part in ("lora_a", "lora_b")
    }


def _refuse_adapted(model: nn.Module) -> None:
    _check_module(model)
    if getattr(model, "quantization", None):
        raise InputError("Int8 weights take no adapters; load the model without quantization.")
    if any(isinstance(part, LoRALinear) for part in model.modules()):
        raise InputError("The model has adapters already; merge_lora(model) adds them to its own.")


def _kind(model: object) -> str:
    return type(model).__name__
