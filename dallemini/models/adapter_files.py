"""Adapters in files: the format of the package peft, read and written, and our former one.

A folder holds `adapter_config.json` and `adapter_model.safetensors`, whose tensors are called
`base_model.model.<layer>.lora_A.weight` f[r,I] and `...lora_B.weight` f[O,r]. Every setting is
honoured, or says nothing about what the tensors mean, or is refused by its name. Source:
https://huggingface.co/docs/peft/developer_guides/checkpoint, and what peft 0.21 writes.

Shapes: r rank, I inputs and O outputs of a layer.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .. import hub
from .._version import __version__
from ..checkpoints.lazy import LazyTensor
from ..checkpoints.safetensors_file import read_safetensors, write_safetensors
from ..checkpoints.wrappers import plain_names
from ..config import read_json
from ..errors import CheckpointError, ConfigError, MissingFileError
from ..files import write_text
from ..foreign import show
from .adapters import ADAPTER_DTYPE, Adapter, LoRAConfig, LowRank, endings, matching

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FORMER_WEIGHTS_FILE = "adapter.safetensors"
CARD_FILE = "README.md"
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE, FORMER_WEIGHTS_FILE, CARD_FILE)

_PREFIX = "base_model.model."
_ENDS = {".lora_A.weight": 0, ".lora_B.weight": 1}
_FORMER_ENDS = {".lora_a": 0, ".lora_b": 1}
# How some layers are named, which the tensors tell as well.
_SOME_LAYERS = ("layers_to_transform", "layers_pattern", "exclude_modules")
_READ = frozenset(
    {
        *("r", "lora_alpha", "lora_dropout", "target_modules", "rank_pattern", "alpha_pattern"),
        *("use_rslora", "peft_type", "init_lora_weights", "base_model_name_or_path"),
    }
)
# Of training, or of peft itself: they do not change what the tensors mean.
_SILENT = frozenset(
    {
        *("auto_mapping", "peft_version", "revision", "task_type", "inference_mode"),
        *("fan_in_fan_out", "megatron_core", "ensure_weight_tying", "runtime_config"),
        *("qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
        *("velora_config", *_SOME_LAYERS),
    }
)
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # which leave the weights alone
_NOTHING: tuple[Any, ...] = (None, False, [], {}, "", "none")
_LONGEST_NAME = 500  # characters of a tensor's
_PLAIN_NAME = re.compile(r"\^?(?:[\w-]|\\?\.)+")


def read_adapter(source: hub.Source) -> Adapter:
    """Read an adapter that peft or this library wrote.

    Raises:
        MissingFileError: the source holds none.
        HubError: the Hub could not be reached or refused.
        CheckpointError: the files are corrupt, or ask for what cannot be honoured.
        ConfigError: the settings cannot be read.
    """
    names = source.files()
    weights = FORMER_WEIGHTS_FILE if WEIGHTS_FILE not in names else WEIGHTS_FILE
    if absent := {CONFIG_FILE, weights} - {*names}:
        absent = {WEIGHTS_FILE if name == FORMER_WEIGHTS_FILE else name for name in absent}
        raise MissingFileError(
            f"{source.name} is no LoRA adapter: it lacks {' and '.join(sorted(absent))}; "
            f"{source.told_files()}. Give a folder that save_lora or peft wrote."
        )
    paths = source.fetch([CONFIG_FILE, weights])
    values, tensors = read_json(paths[CONFIG_FILE]), read_safetensors(paths[weights])
    try:
        read = _former if weights == FORMER_WEIGHTS_FILE else _peft
        return read(values, tensors, source.label)
    except ConfigError as error:
        raise ConfigError(f"{paths[CONFIG_FILE]}: {error}") from error


def write_adapter(
    folder: Path,
    tensors: Mapping[str, tuple[Tensor, Tensor]],
    configs: Mapping[str, LoRAConfig],
    *,
    model: nn.Module,
    base_model: str = "",
) -> None:
    """Write an adapter so that peft and this library read it.

    Args:
        folder: that exists.
        tensors: f[r,I] and f[O,r] of each layer.
        configs: rank and alpha of each layer; dropout and targets of all.
        model: that it was trained on.
        base_model: its name, for whoever loads it.

    Raises:
        StorageError: a file cannot be written.
    """
    named = {
        f"{_PREFIX}{name}{end}": tensors[name][place]
        for name in tensors
        for end, place in _ENDS.items()
    }
    lazy = {name: LazyTensor.of(name, tensor.detach()) for name, tensor in named.items()}
    write_safetensors(lazy, folder / WEIGHTS_FILE)
    text = json.dumps(_settings(configs, model, base_model), indent=2, sort_keys=True)
    write_text(folder / CONFIG_FILE, text + "\n")


def adapter_card(
    title: str,
    base_model: str = "",
    *,
    license: str | None = None,
    training_data: str = "",
    measured: str = "",
) -> str:
    """Return the card of an adapter: what is known of it, and how it is used.

    Args:
        title: of the card.
        base_model: Hub id or name of the model that it was trained on; a folder's name is no id.
        license: identifier such as "apache-2.0"; left out when unknown.
        training_data: what it was trained on, as far as it is known.
        measured: what was measured.
    """
    base = Path(base_model).name if Path(base_model).exists() else base_model
    is_id = base_model == base and base.count("/") == 1
    sections = hub.usual_sections(
        training_data=training_data,
        provenance=f"Trained by dallemini {__version__} as an addition to `{base or 'unknown'}`.",
    )
    if measured:
        sections["Measured"] = measured
    use = f'pipe = Pipeline.from_pretrained("{base}")\npipe.load_adapter("{title}")'
    return hub.model_card(
        title,
        summary=f"A LoRA adapter for dallemini, in the format of peft.\n\n```python\n{use}\n```",
        license=license,
        tags=("lora", "peft"),
        base_model=base if is_id else None,
        sections=sections,
    )


def _settings(
    configs: Mapping[str, LoRAConfig], model: nn.Module, base_model: str
) -> dict[str, Any]:
    """Return the settings by peft's names; what differs between layers is a pattern of its own."""
    usual = collections.Counter((one.rank, one.alpha) for one in configs.values())
    (rank, alpha), _ = usual.most_common(1)[0]
    first = next(iter(configs.values()))
    kind = type(model)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": {"base_model_class": kind.__name__, "parent_library": kind.__module__},
        "base_model_name_or_path": base_model or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": first.dropout,
        "target_modules": list(_target_modules(model, first.targets, list(configs))),
        "rank_pattern": {n: one.rank for n, one in configs.items() if one.rank != rank},
        "alpha_pattern": {n: one.alpha for n, one in configs.items() if one.alpha != alpha},
        "modules_to_save": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }


def _target_modules(
    model: nn.Module, targets: tuple[str, ...] | None, layers: list[str]
) -> tuple[str, ...]:
    """Return names that mean these layers and no others: the last parts of theirs if they do."""
    short = tuple(sorted({name.rpartition(".")[2] for name in layers}))
    for found in (targets or short, short):
        if set(matching(model, found)) == set(layers):
            return found
    return tuple(layers)


def _former(values: dict[str, Any], tensors: Mapping[str, Tensor], source: str) -> Adapter:
    """Read what versions before peft's format wrote."""
    mark = values.pop("dallemini", None)
    if not isinstance(mark, dict) or mark.get("component") != "lora":
        raise CheckpointError(
            f"{CONFIG_FILE} of {source} lacks the mark 'dallemini', which it has beside "
            f"{FORMER_WEIGHTS_FILE}; an adapter of peft has {WEIGHTS_FILE}."
        )
    config, base = LoRAConfig.from_dict(values), mark.get("base_model")
    pairs = _pairs(tensors, _FORMER_ENDS, source)
    return Adapter(
        layers={name: _low_rank(name, pair, config, source) for name, pair in pairs.items()},
        dropout=config.dropout,
        targets=config.targets or (),
        source=source,
        base_model=base if isinstance(base, str) else "",
    )


def _peft(values: dict[str, Any], tensors: Mapping[str, Tensor], source: str) -> Adapter:
    """Read what peft writes."""
    _refuse_unknown(values, source)
    targets, base = values.get("target_modules"), values.get("base_model_name_or_path")
    some = any(values.get(name) not in (None, []) for name in _SOME_LAYERS)
    config = LoRAConfig.from_dict(
        {
            "rank": values.get("r", 8),
            "alpha": values.get("lora_alpha", 8),
            "dropout": values.get("lora_dropout", 0.0),
            "targets": (targets or None) if isinstance(targets, list) else None,
        }
    )
    ranks, alphas = _pattern(values, "rank_pattern"), _pattern(values, "alpha_pattern")
    layers = {}
    for name, pair in _pairs(tensors, _ENDS, source).items():
        asked = {"rank": _of(ranks, name, config.rank), "alpha": _of(alphas, name, config.alpha)}
        own = LoRAConfig.from_dict(asked)
        if values.get("use_rslora"):  # alpha / sqrt(r)
            own = dataclasses.replace(own, alpha=own.alpha * own.rank**0.5)
        layers[name] = _low_rank(name, pair, own, source)
    return Adapter(
        layers=layers,
        dropout=config.dropout,
        targets=() if some else config.targets or (),
        source=source,
        base_model=base if isinstance(base, str) else "",
    )


def _refuse_unknown(values: Mapping[str, Any], source: str) -> None:
    """Refuse an adapter of another method, or a setting that is not honoured here.

    Raises:
        CheckpointError: says which.
    """
    kind = values.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{source} is an adapter of the type {show(kind)}; only LORA can be loaded."
        )
    asked = {
        name: value
        for name, value in values.items()
        if name not in _READ | _SILENT and value not in _NOTHING
    }
    if values.get("init_lora_weights", True) not in _PLAIN_STARTS:
        asked["init_lora_weights"] = values["init_lora_weights"]
    if asked:
        name, value = next(iter(asked.items()))
        raise CheckpointError(
            f"The adapter {source} asks for {name}={show(value)}, which cannot be honoured here; "
            "merge it with peft and load the whole model, or train it without."
        )


def _pattern(values: Mapping[str, Any], name: str) -> dict[str, tuple[int, Any]]:
    """Return places in the pattern and numbers of single layers, by names or their ends.

    Raises:
        ConfigError: it is no mapping, or has a regular expression instead of a name.
    """
    found = values.get(name) or {}
    if not isinstance(found, dict):
        raise ConfigError(f"{name} must be a mapping of layers to numbers, not {show(found)}.")
    for key in found:
        if not _PLAIN_NAME.fullmatch(key):
            raise ConfigError(
                f"{name} has the pattern {show(key)}; only names of layers and their ends are read."
            )
    return {
        key.lstrip("^").replace("\\", ""): (place, value)
        for place, (key, value) in enumerate(found.items())
    }


def _of(pattern: Mapping[str, tuple[int, Any]], layer: str, usual: object) -> object:
    """Return the number of the first entry that means a layer."""
    found = [pattern[end] for end in endings(layer) if end in pattern]
    return min(found, key=lambda entry: entry[0])[1] if found else usual


def _pairs(
    tensors: Mapping[str, Tensor], ends: Mapping[str, int], source: str
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return both matrices of each layer.

    Raises:
        CheckpointError: a tensor is something else, or one is missing.
    """
    found: dict[str, dict[int, Tensor]] = {}
    for name, tensor in _bare(_bare(tensors, source), source).items():
        end = next((end for end in ends if name.endswith(end)), None)
        if end is None or len(name) > _LONGEST_NAME:
            raise CheckpointError(
                f"The adapter {source} holds {show(name)}, which is no part of a LoRA adapter of "
                "linear layers; it cannot be honoured here."
            )
        found.setdefault(name.removesuffix(end), {})[ends[end]] = tensor
    if not found:
        raise CheckpointError(f"The adapter {source} has no tensors; train or download it again.")
    for layer, pair in found.items():
        if len(pair) < 2:
            raise CheckpointError(
                f"The adapter {source} has only one matrix for {show(layer)}, not two."
            )
    return {layer: (pair[0], pair[1]) for layer, pair in found.items()}


def _bare(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Take off what training put in front of all names, and what peft does, which may follow."""
    prefix, names = plain_names(tensors, origin=source)
    return {name.removeprefix(_PREFIX): tensors[prefix + name] for name in names}


def _low_rank(name: str, pair: tuple[Tensor, Tensor], config: LoRAConfig, source: str) -> LowRank:
    """Look at the matrices of a layer, whose rank the settings tell.

    Raises:
        CheckpointError: they are of another shape or type.
    """
    narrow, wide = pair
    fit = narrow.ndim == wide.ndim == 2 and len(narrow) == wide.shape[1] == config.rank
    if not (fit and narrow.is_floating_point() and wide.is_floating_point()):
        raise CheckpointError(
            f"The matrices of {show(name)} in the adapter {source} are {list(narrow.shape)} "
            f"and {list(wide.shape)}, which do not go together at rank {config.rank}."
        )
    return LowRank(narrow=narrow.to(ADAPTER_DTYPE), wide=wide.to(ADAPTER_DTYPE), scale=config.scale)
