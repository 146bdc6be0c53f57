"""Training a few numbers beside frozen weights, and files of them.

Every chosen projection W gets two narrow matrices, and computes with W + alpha / rank * B @ A.
Knows linear layers by their names, not models or training loops, and imports nothing optional.
`adapted` puts what was trained into the weights of a model that draws. Source: "LoRA" (Hu et al.
2021, section 4.1).

Shapes: r rank, I inputs and O outputs of a projection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import hub, kernels
from ..config import suggest
from ..errors import ConfigError, InputError
from ..files import as_path, replacing_folder, write_text
from .adapted import (
    adapters_of,
    add_adapter,
    add_product,
    check_module,
    fuse_adapters,
    refuse_as_base,
    refuse_loaded,
)
from .adapter_files import ADAPTER_FILES, CARD_FILE, adapter_card, read_adapter, write_adapter
from .adapters import (
    ADAPTER_DTYPE,
    Adapter,
    AdapterUse,
    LoRAConfig,
    LowRank,
    check_weight,
    endings,
    kind_of,
    linear_layers,
    matching,
)

__all__ = [
    "LoRAConfig",
    "LoRALinear",
    "add_lora",
    "load_lora",
    "lora_state_dict",
    "merge_lora",
    "save_lora",
]


class _AddLowRank(torch.autograd.Function):
    """`W h + scale * B A h` of a frozen W, whose passes are matrix products and nothing else.

    The narrow sides of products are rows, not columns: MKL is up to four times slower with those.

    Shapes: N rows. All are of one dtype.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, narrow: Tensor, wide: Tensor, scale: float
    ) -> Tensor:
        """Map f[N,I] to f[N,O]."""
        inner = narrow @ rows.T  # f[r,N]
        ctx.save_for_backward(rows, weight, narrow, wide, inner)
        ctx.scale = scale
        output = rows @ weight.T
        return torch.addmm(output, inner.T, wide.T, alpha=scale, out=output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the rows and of the two narrow matrices."""
        (gradient,) = gradients
        rows, weight, narrow, wide, inner = ctx.saved_tensors
        of_inner = (wide.T @ gradient.T).mul_(ctx.scale)
        of_rows = None
        if ctx.needs_input_grad[0]:
            of_rows = gradient @ weight
            torch.addmm(of_rows, of_inner.T, narrow, out=of_rows)
        return of_rows, None, of_inner @ rows, (inner @ gradient).T.mul(ctx.scale), None


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
            config.rank, self.in_features, generator=generator, dtype=ADAPTER_DTYPE, device="cpu"
        )
        drawn = (drawn * self.in_features**-0.5).to(self.weight.device)
        self.lora_a = nn.Parameter(drawn)
        self.lora_b = nn.Parameter(drawn.new_zeros(self.out_features, config.rank))
        self.train(base.training)

    def forward(self, input: Tensor) -> Tensor:
        """Map f[...,I] to f[...,O], in the dtype that the layer alone would give."""
        place = input.device.type
        autocast = torch.is_autocast_enabled(place)
        dtype = torch.get_autocast_dtype(place) if autocast else self.weight.dtype
        rows = input.reshape(-1, self.in_features).to(dtype)
        narrow, wide = self.lora_a.to(dtype), self.lora_b.to(dtype)
        scale, dropout = self.config.scale, self.config.dropout if self.training else 0.0
        is_plain = torch.compiler.is_compiling() or not torch.is_grad_enabled()
        if not (dropout or is_plain):
            output: Tensor = _AddLowRank.apply(  # type: ignore[no-untyped-call]
                rows, self.weight.to(dtype), narrow, wide, scale
            )
            output = output if self.bias is None else output + self.bias.to(dtype)
        else:
            output = kernels.linear(rows, self.weight, self.bias)
            inner = F.linear(F.dropout(rows, dropout), narrow)
            output = torch.addmm(output, inner, wide.T, alpha=scale)
        return output.view(*input.shape[:-1], self.out_features)

    @property
    def low_rank(self) -> LowRank:
        """What is added to the weight."""
        scale = self.config.scale
        return LowRank(narrow=self.lora_a.detach(), wide=self.lora_b.detach(), scale=scale)

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
        ConfigError: a target names no linear layer of the model, it has none, or the rank is wider
            than one.
        InputError: the model has adapters already, no weights, or integer ones.

    Example:
        >>> from dallemini.testing import tiny_transformer
        >>> from dallemini.models.lora import LoRAConfig, add_lora
        >>> transformer = tiny_transformer()
        >>> len(add_lora(transformer, LoRAConfig(rank=2)))
        22
    """
    config = LoRAConfig() if config is None else config
    _refuse_adapters(model)
    linears = matching(model, config.targets)
    meant = {end for name in linears for end in endings(name)}
    for target in config.targets or ():
        if target not in meant:
            known = {name.rpartition(".")[2] for name in linear_layers(model)}
            raise ConfigError(
                f"No linear layer of this {kind_of(model)} is called {target!r}."
                f"{suggest(target, known)}"
            )
    if not linears:
        raise ConfigError(f"This {kind_of(model)} has no linear layers to adapt.")
    if any(linear.weight.is_meta for linear in linears.values()):
        raise InputError(
            f"The {kind_of(model)} has no weights; make it with from_pretrained or from_config."
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
    adapters, used = _adapters(model), adapters_in(model)
    for name, adapter in adapters.items():
        with torch.no_grad():
            adapter.weight.copy_(add_product(adapter.weight, [(adapter.low_rank, 1.0)]))
        model.set_submodule(name, adapter.release())
    model.requires_grad_(True)
    model._merged = used  # type: ignore[assignment]
    return list(adapters)


def adapters_in(model: nn.Module) -> tuple[AdapterUse, ...]:
    """Name the adapters that have a part in what a model draws, those beside its weights last.

    Of a model that is split over processes, each names its own piece.
    """
    attached = {
        name: part.low_rank for name, part in model.named_modules() if isinstance(part, LoRALinear)
    }
    used = [AdapterUse(digest=Adapter(layers=attached).digest)] if attached else []
    return (*adapters_of(model), *used)


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
    card: str | None = None,
) -> None:
    """Write the adapters as peft does: `adapter_config.json` and `adapter_model.safetensors`.

    `pipe.load_adapter`, `load_lora` and `peft.PeftModel.from_pretrained` read them.

    Args:
        model: with adapters.
        directory: made if missing; an older adapter in it is replaced.
        base_model: name of the model that they were trained on, such as "dallemini/emoji", for
            whoever loads them.
        state_dict: whole tensors to write instead of the model's own, such as averaged ones, named
            as in `lora_state_dict`; others in it are ignored.
        card: text of its `README.md`; one that says what is known when None.

    Raises:
        InputError: the model or `state_dict` has no adapters, or without it the model is split.
        StorageError: the folder cannot be made or written.
        InputTypeError: `directory` is neither a string nor a path.
    """
    name = as_path(directory).name
    write = lora_writer(model, name=name, base_model=base_model, state_dict=state_dict, card=card)
    with replacing_folder(directory, obsolete=ADAPTER_FILES) as folder:
        write(folder)


def lora_writer(
    model: nn.Module,
    *,
    name: str,
    base_model: str = "",
    state_dict: Mapping[str, Tensor] | None = None,
    card: str | None = None,
) -> Callable[[Path], None]:
    """Return what writes the adapters of a model into an empty folder, also after they are merged.

    Args:
        model: with adapters.
        name: of the adapter, for its card.
        base_model: as in `save_lora`.
        state_dict: likewise.
        card: likewise.

    Raises:
        InputError: as `save_lora`.
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
    layers = _adapters(model)
    tensors = {layer: (whole[f"{layer}.lora_a"], whole[f"{layer}.lora_b"]) for layer in layers}
    configs = {layer: adapter.config for layer, adapter in layers.items()}

    def write(folder: Path) -> None:
        write_adapter(folder, tensors, configs, model=model, base_model=base_model)
        write_text(folder / CARD_FILE, card or adapter_card(name, base_model))

    return write


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
    """Add the adapters of a folder or a Hub model for good, or to train on.

    To take them out again, or to change their strength, use `pipe.load_adapter`.

    Args:
        model: changed in place, such as `pipe.transformer`.
        source: folder that `save_lora` or peft wrote, or a Hub id.
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
        CheckpointError: the files are corrupt, belong to another model, or ask for what cannot be
            honoured.
        ConfigError: `adapter_config.json` cannot be read.
        InputError: `scale` is not a finite number, or the model takes no adapters.
        InputTypeError: `model` is not a torch module, such as a whole pipeline.
    """
    scale = check_weight(scale, "scale")
    _refuse_adapters(model)
    where = hub.Where(revision, cache_dir, local_files_only, token)
    adapter = read_adapter(hub.open(source, where, subfolder=subfolder))
    if merge:
        add_adapter(model, adapter, name=adapter.source, weight=scale)
        fuse_adapters(model)
    else:
        adapter.check_fits(model)
        _attach(model, adapter, scale)
    return [name for name in linear_layers(model) if name in adapter.layers]


@torch.no_grad()
def _attach(model: nn.Module, adapter: Adapter, scale: float) -> None:
    """Put an adapter beside the weights, each layer with a rank and a strength of its own."""
    linears = linear_layers(model)
    generator = torch.Generator()  # of numbers that are replaced
    model.requires_grad_(False)
    for name, layer in adapter.layers.items():
        config = LoRAConfig(
            rank=layer.rank,
            alpha=layer.scale * scale * layer.rank,
            dropout=adapter.dropout,
            targets=adapter.targets or tuple(adapter.layers),
        )
        made = LoRALinear(linears[name], config, generator=generator)
        made.lora_a.copy_(layer.narrow)
        made.lora_b.copy_(layer.wide)
        model.set_submodule(name, made)


def _adapters(model: nn.Module) -> dict[str, LoRALinear]:
    check_module(model)
    found = {name: part for name, part in model.named_modules() if isinstance(part, LoRALinear)}
    if not found:
        raise InputError(f"The {kind_of(model)} has no adapters; add_lora makes them.")
    return found


def _parts(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": getattr(adapter, part).detach()
        for name, adapter in _adapters(model).items()
        for part in ("lora_a", "lora_b")
    }


def _refuse_adapters(model: nn.Module) -> None:
    refuse_as_base(model)
    refuse_loaded(model)
