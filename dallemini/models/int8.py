"""Smaller weights: linear layers of 8-bit integers, and models that can turn theirs into such.

A weight has one scale for each output channel; activations are quantised at every call, with one
scale for each row, so that a row's result does not depend on its neighbours: a seed draws the same
picture alone and in a batch. `kernels.int8` says what computes.

Knows layers and files of tensors, not what a model is for.

Shapes: M rows, I inputs, O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from ..checkpoints import Checkpoint, LazyTensor
from ..config import Config
from ..errors import CheckpointError, InputError, UnsupportedOperationError
from ..foreign import show
from ..kernels import Linear
from ..kernels.int8 import LARGEST, Int8Operator, PlainOperator, choose_operator
from .adapted import fuse_adapters
from .precision import (
    QUANTIZATIONS,
    Quantization,
    Weights,
    check_quantization,
    refuse_moving,
)
from .pretrained import PretrainedModule

ConfigT = TypeVar("ConfigT", bound=Config)

_CHANNELS = 256  # rounded at once, so that the floats in between stay few
_PLAIN = (nn.Linear, Linear)


class Int8Linear(nn.Module):
    """A linear layer whose weight is i8[O,I] with scales f32[O], and its bias f32[O] if it has one.

    Made without weights, as all models here are; `load_state_dict` hands `weight` and
    `weight_scale` to the operator, which keeps them as they are (mapped from a file, perhaps) or
    copies them into an order of its own. It is for inference on the CPU.

    Args:
        in_features: I.
        out_features: O.
        fine: round activations in two steps, to about 16 bits, for twice the arithmetic: for inputs
            of which a few outweigh all others.
        bias: whether `bias` f32[O] is added.
        operator: what computes; chosen for this machine when None.

    Example:
        >>> import torch
        >>> from dallemini.models.int8 import Int8Linear, quantize_weight
        >>> layer, weight = Int8Linear(3, 2), torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
        >>> _ = layer.load_state_dict(quantize_weight(weight))
        >>> layer(torch.tensor([[2.0, 4.0, 0.0]])).round(decimals=1).tolist()
        [[2.0, 2.0]]
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        fine: bool = False,
        bias: bool = False,
        operator: Int8Operator | None = None,
    ) -> None:
        super().__init__()
        self._biased = bias
        self.register_parameter("bias", _frozen(_nothing(out_features)) if bias else None)
        self.in_features, self.out_features, self.fine = in_features, out_features, fine
        self.operator = operator or choose_operator(in_features, out_features)
        self.training = False
        self._packed: object | None = None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map f[..., I] to f[..., O], computing in integers and float32.

        Raises:
            UnsupportedOperationError: gradients are asked for, or there are no weights.
        """
        if hidden_states.requires_grad and torch.is_grad_enabled():
            raise UnsupportedOperationError(_NO_TRAINING)
        if self._packed is None:
            raise UnsupportedOperationError(
                "This Int8Linear has no weights; load them with load_state_dict."
            )
        rows = hidden_states.reshape(-1, self.in_features).float()
        product = self.operator.multiply(rows, self._packed, fine=self.fine)
        if self._biased:
            assert self.bias is not None
            product = product + self.bias
        return product.view(*hidden_states.shape[:-1], self.out_features).to(hidden_states.dtype)

    def unpacked(self) -> dict[str, Tensor]:
        """Return `weight` i8[O,I], `weight_scale` f32[O] and `bias`; on `meta` without weights."""
        bias = {} if self.bias is None else {"bias": self.bias.detach()}
        if self._packed is not None:
            weight, scale = self.operator.unpack(self._packed)
            return {"weight": weight, "weight_scale": scale, **bias}
        shape = (self.out_features, self.in_features)
        weight = torch.empty(shape, dtype=torch.int8, device="meta")
        return {"weight": weight, "weight_scale": _nothing(self.out_features), **bias}

    def train(self, mode: bool = True) -> Int8Linear:
        """Stay in evaluation mode.

        Raises:
            UnsupportedOperationError: `mode` is True.
        """
        if mode:
            raise UnsupportedOperationError(_NO_TRAINING)
        return self

    def extra_repr(self) -> str:
        """Describe the sizes, as torch's layers do."""
        kind = type(self.operator).__name__
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"fine={self.fine}, operator={kind}"
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Int8Linear:
        refuse_moving(fn)
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Tensor], prefix: str, keep_vars: bool
    ) -> None:
        destination |= {prefix + name: tensor for name, tensor in self.unpacked().items()}

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: object,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.out_features, self.in_features)}
        shapes |= dict.fromkeys(self._rows, (self.out_features,))
        names = {prefix + name for name in shapes}
        missing = sorted(names - state_dict.keys())
        missing_keys += missing
        if strict:
            found = (name for name in state_dict if name.startswith(prefix))
            unexpected_keys += [name for name in found if name not in names]
        tensors = {name: state_dict[prefix + name] for name in shapes if not missing}
        for name, tensor in tensors.items():
            wanted = torch.int8 if name == "weight" else torch.float32
            if tensor.dtype != wanted or tensor.shape != shapes[name]:
                error_msgs.append(
                    f"{prefix}{name} must be {wanted} {list(shapes[name])}, "
                    f"not {tensor.dtype} {list(tensor.shape)}."
                )
        if tensors and not error_msgs and not tensors["weight"].is_meta:
            self._packed = self.operator.pack(tensors["weight"], tensors["weight_scale"])
            if self.bias is not None:
                self.bias = _frozen(tensors["bias"])

    @property
    def _rows(self) -> tuple[str, ...]:
        """Names of the tensors f32[O]."""
        return ("weight_scale",) if self.bias is None else ("weight_scale", "bias")

    def __getstate__(self) -> dict[str, Any]:
        """Describe the layer by plain tensors, for pickle and copies."""
        packed = None if self._packed is None else self.operator.unpack(self._packed)
        return {**self.__dict__, "_packed": packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self._packed is not None:
            self._packed = self.operator.pack(*state["_packed"])


class QuantizableModule(PretrainedModule[ConfigT]):
    """A model that `quantize` makes smaller; everything else about it stays.

    A subclass names in `fine_layers` the ends of the names of those linear layers that get
    activations of which a few outweigh all others; theirs are rounded more finely.
    """

    fine_layers: ClassVar[tuple[str, ...]] = ()

    @property
    def quantization(self) -> Quantization | None:
        """How the weights are quantised: "int8", or None."""
        return "int8" if any(isinstance(part, Int8Linear) for part in self.modules()) else None

    def quantize(self, quantization: Quantization = "int8") -> Self:
        """Turn the linear layers into integer ones, in place, and return the model.

        Embeddings, norms and activations are float32. Afterwards it is for inference on the CPU.
        Loaded adapters are rounded with the weights that they are in, and stay there.

        Args:
            quantization: "int8": one scale for each output channel, activations quantised by row.

        Raises:
            InputTypeError: `quantization` is not a string.
            InputError: there is no such quantisation, or the model has no weights.
            UnsupportedOperationError: it is quantised already, not on the CPU, or has adapters.
        """
        check_quantization(quantization)
        if self.quantization is not None:
            raise UnsupportedOperationError(
                f"This {type(self).__name__} is quantised already ({self.quantization})."
            )
        if self.device.type == "meta":
            raise InputError(
                f"This {type(self).__name__} has no weights; make it with from_pretrained or "
                "from_config."
            )
        if self.device.type != "cpu":
            raise UnsupportedOperationError(
                f"int8 weights compute on the CPU, not on {str(self.device)!r}; move the model "
                "with .to('cpu') first."
            )
        for name in linear_names(self):
            linear: Any = self.get_submodule(name)
            bias = {} if linear.bias is None else {"bias": linear.bias.detach().float()}
            self._replace(name, quantize_weight(linear.weight) | bias)
        fuse_adapters(self)  # the weights without them are given back
        self.requires_grad_(False)
        return self.to(torch.float32).eval()

    @classmethod
    def check_weights(cls, weights: Weights, place: torch.device) -> None:
        """Refuse int8 weights on a GPU, or with another dtype than float32.

        Raises:
            UnsupportedOperationError: they are asked for.
        """
        if weights.quantization is not None:
            refuse_moving(lambda tensor: tensor.to(device=place, dtype=weights.dtype))

    @classmethod
    def _outline(cls, config: Mapping[str, Any], quantization: Quantization | None = None) -> Self:
        model = super()._outline(config)
        if quantization is not None:
            for name in linear_names(model):
                model._replace(name, None)
        return model

    @classmethod
    def _build(cls, checkpoint: Checkpoint, quantization: Quantization | None = None) -> Self:
        stored = _stored_quantization(checkpoint)
        if stored is None and quantization is None:
            return super()._build(checkpoint)
        model = cls._outline(checkpoint.config, stored)
        model._check_tensors(checkpoint)
        names = [*linear_names(model), *int8_layers(model)]
        _load_others(model, checkpoint, leave={*names})  # first: what widening takes is given back
        for name in names:
            model._replace(name, _read_layer(checkpoint, name, stored))
        return model.requires_grad_(False).eval()

    def _replace(self, name: str, state: Mapping[str, Tensor] | None) -> None:
        replace_linear(self, name, state, fine=name.endswith(self.fine_layers))

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation.

        Raises:
            UnsupportedOperationError: a quantised model is to be trained.
        """
        if mode:
            for layer in int8_layers(self).values():
                layer.train()  # refuses, before anything is changed
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        if self.quantization is not None:
            refuse_moving(fn)  # before anything is moved
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def _tensors(self) -> dict[str, LazyTensor]:
        """Describe the tensors, so that packed ones are unpacked one layer at a time."""
        if self.quantization is None:
            return super()._tensors()
        tensors: dict[str, LazyTensor] = {}
        for name, part in _leaves(self).items():
            if isinstance(part, Int8Linear):
                tensors |= _lazy_layer(name, part)
                continue
            for key, tensor in part.state_dict().items():
                tensors[f"{name}.{key}"] = LazyTensor.of(f"{name}.{key}", tensor.detach())
        return tensors


def quantize_weight(weight: Tensor) -> dict[str, Tensor]:
    """Round a weight to the state of an `Int8Linear`.

    Args:
        weight: f[O,I], on the CPU.

    Returns:
        `weight` i8[O,I] from -127 to 127 and `weight_scale` f32[O]; their product is near `weight`.
    """
    rounded, scales = (
        torch.empty(weight.shape, dtype=torch.int8, device="cpu"),
        torch.empty(len(weight), dtype=torch.float32, device="cpu"),
    )
    pieces = (tensor.split(_CHANNELS) for tensor in (weight.detach(), rounded, scales))
    for values, integers, scale in zip(*pieces, strict=True):
        values = values.float()
        torch.linalg.vector_norm(values, torch.inf, dim=1, out=scale)
        scale.div_(LARGEST).masked_fill_(scale == 0, 1.0)
        integers.copy_((values / scale[:, None]).round_().clamp_(-LARGEST, LARGEST))
    return {"weight": rounded, "weight_scale": scales}


def linear_names(model: nn.Module) -> list[str]:
    """Return the names of the linear layers, which are those that are quantised.

    Raises:
        UnsupportedOperationError: one of them is not plain, such as one with a LoRA adapter.
    """
    linears = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    for name, part in linears.items():
        if type(part) not in _PLAIN:
            raise UnsupportedOperationError(
                f"{name} is a {type(part).__name__}, which cannot be quantised; merge adapters "
                "with merge_lora first."
            )
    return list(linears)


def replace_linear(
    model: nn.Module, name: str, state: Mapping[str, Tensor] | None, *, fine: bool
) -> None:
    """Put an `Int8Linear` with this state, or without one, in the place of a linear layer."""
    linear: Any = model.get_submodule(name)
    biased = linear.bias is not None
    layer = Int8Linear(linear.in_features, linear.out_features, fine=fine, bias=biased)
    if state is not None:
        layer.load_state_dict(state)
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, layer)


def int8_layers(model: nn.Module) -> dict[str, Int8Linear]:
    """Return the quantised layers by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Int8Linear)}


def _stored_quantization(checkpoint: Checkpoint) -> Quantization | None:
    found = checkpoint.mark.get("quantization")
    if found is None:
        return None
    if not isinstance(found, str) or found not in QUANTIZATIONS:
        raise CheckpointError(
            f"{checkpoint.path} is quantised as {show(found)}, which this version does not know "
            f"({', '.join(QUANTIZATIONS)}); use the version that wrote it."
        )
    return check_quantization(found)


def _read_layer(
    checkpoint: Checkpoint, name: str, stored: Quantization | None
) -> dict[str, Tensor]:
    """Return the state of one int8 layer.

    What is converted or packed is read past the shared mapping, whose pages would stay.
    """
    mapped = checkpoint.state_dict[f"{name}.weight"]
    outputs, inputs = mapped.shape
    # a plain operator, as the kernel's is, keeps the tensor that it is given
    if stored is not None and isinstance(choose_operator(inputs, outputs), PlainOperator):
        weight = mapped
    else:
        weight = checkpoint.read(f"{name}.weight")
    bias = {}
    if f"{name}.bias" in checkpoint.state_dict:
        bias["bias"] = _read_float(checkpoint, f"{name}.bias")
    if stored is None:
        return quantize_weight(weight) | bias
    scale = checkpoint.state_dict[f"{name}.weight_scale"]
    if weight.dtype != torch.int8 or scale.dtype != torch.float32:
        raise CheckpointError(
            f"{checkpoint.path}: {name} must hold torch.int8 with scales torch.float32, not "
            f"{weight.dtype} with {scale.dtype}; save the model again."
        )
    return {"weight": weight, "weight_scale": scale, **bias}


def _load_others(model: nn.Module, checkpoint: Checkpoint, *, leave: set[str]) -> None:
    for name, part in _leaves(model).items():
        if name not in leave:
            own = {key: _read_float(checkpoint, f"{name}.{key}") for key in part.state_dict()}
            part.load_state_dict(own, strict=True, assign=True)


def _read_float(checkpoint: Checkpoint, name: str) -> Tensor:
    """Return a float32 tensor: mapped, or widened past the mapping, whose pages would stay."""
    mapped = checkpoint.state_dict[name]
    if mapped.dtype == torch.float32:
        return mapped
    return checkpoint.read(name).float()


def _leaves(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers, which hold all the tensors of the models here."""
    return {name: part for name, part in model.named_modules() if not [*part.children()]}


def _lazy_layer(name: str, layer: Int8Linear) -> dict[str, LazyTensor]:
    def unpack(part: str) -> Callable[[], Tensor]:
        return lambda: layer.unpacked()[part]

    shape, weight = (layer.out_features, layer.in_features), f"{name}.weight"
    found = {weight: LazyTensor(weight, shape, torch.int8, unpack("weight"))}
    for part in layer._rows:
        key = f"{name}.{part}"
        found[key] = LazyTensor(key, shape[:1], torch.float32, unpack(part))
    return found


def _nothing(outputs: int) -> Tensor:
    return torch.empty(outputs, device="meta", dtype=torch.float32)


def _frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


_NO_TRAINING = (
    "A model with int8 weights cannot be trained; load it without quantization, train it, "
    "and quantise it afterwards."
)
