"""Models whose linear layers can be turned into int8 ones: loading, saving, refusing.

Private to `models`. The stored form is plain: `weight` i8[O,I] and `weight_scale` f32[O] for each
layer in `model.safetensors`, and "quantization": "int8" in the mark of `config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from .. import checkpoints, hub
from ..checkpoints import Checkpoint, LazyTensor
from ..config import Config
from ..errors import CheckpointError, InputError, UnsupportedOperationError
from ..foreign import show
from ..kernels.int8 import PlainOperator, choose_operator
from .int8 import (
    QUANTIZATIONS,
    Int8Linear,
    Quantization,
    check_quantization,
    int8_layers,
    linear_names,
    quantize_weight,
    refuse_moving,
    replace_linear,
)
from .pretrained import (
    PretrainedModule,
    SourceName,
    check_device,
    check_dtype,
    check_state_dict,
    write_config,
)

ConfigT = TypeVar("ConfigT", bound=Config)


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
            self._replace(name, quantize_weight(linear.weight))
        self.requires_grad_(False)
        return self.to(torch.float32).eval()

    @classmethod
    def from_pretrained(
        cls,
        source: SourceName,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: SourceName | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        quantization: Quantization | None = None,
    ) -> Self:
        """Load the model from a local folder, a file, a bundled name or a Hub id.

        A checkpoint in a foreign format is converted once into the cache and mapped from there.

        Args:
            source: local path, `owner/name` on the Hub, or a bundled name.
            subfolder: folder inside the source that holds this part.
            revision: branch, tag or commit on the Hub.
            cache_dir: the Hub's cache folder, instead of the user's.
            local_files_only: never ask the network.
            token: Hub access token, instead of the stored one.
            device: where the weights go; float32 weights on the CPU stay mapped from the file.
            dtype: of the weights; float32 when None, whatever the file holds.
            quantization: "int8" quantises while loading, one tensor at a time; None leaves the
                weights as they were saved, quantised or not.

        Raises:
            MissingFileError: the source or one of its files does not exist.
            HubError: the Hub could not be reached or refused.
            CheckpointError: the files are corrupt, unsafe or disagree with their configuration.
            UnsupportedModelError: the checkpoint belongs to another architecture.
            InputTypeError: the dtype is none of a model, or `quantization` is not a string.
            InputError: the device cannot be used, or there is no such quantisation.
            UnsupportedOperationError: int8 weights for a GPU, or for another dtype than float32.
        """
        wanted, place = check_dtype(dtype), check_device(device)
        if quantization is not None:
            check_quantization(quantization)
            refuse_moving(lambda tensor: tensor.to(device=place, dtype=wanted))
        opened = hub.open_source(
            source,
            subfolder=subfolder,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        checkpoint = checkpoints.read_checkpoint(
            opened, component=cls.component, cache_dir=cache_dir
        )
        return cls._build(checkpoint, quantization).to(device=place, dtype=wanted)

    @classmethod
    def _build(cls, checkpoint: Checkpoint, quantization: Quantization | None = None) -> Self:
        stored = _stored_quantization(checkpoint)
        if stored is None and quantization is None:
            return super()._build(checkpoint)
        model = cls(cls.config_class.from_dict(checkpoint.config))  # type: ignore[arg-type]
        names = linear_names(model)
        if stored is not None:
            for name in names:
                model._replace(name, None)
        check_state_dict(model, checkpoint.state_dict, str(checkpoint.path))
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

    def _save(self, directory: Path) -> None:
        if self.quantization is None:
            super()._save(directory)
            return
        write_config(
            directory, self.config, component=self.component, quantization=self.quantization
        )
        checkpoints.write_tensors(self._lazy_state(), directory)

    def _lazy_state(self) -> dict[str, LazyTensor]:
        """Describe the tensors, so that packed ones are unpacked one layer at a time."""
        tensors: dict[str, LazyTensor] = {}
        for name, part in _leaves(self).items():
            if isinstance(part, Int8Linear):
                tensors |= _lazy_layer(name, part)
                continue
            for key, tensor in part.state_dict().items():
                tensors[f"{name}.{key}"] = LazyTensor.of(f"{name}.{key}", tensor.detach())
        return tensors


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
        weight = checkpoints.read_tensor(checkpoint.path, f"{name}.weight")
    if stored is None:
        return quantize_weight(weight)
    scale = checkpoint.state_dict[f"{name}.weight_scale"]
    if weight.dtype != torch.int8 or scale.dtype != torch.float32:
        raise CheckpointError(
            f"{checkpoint.path}: {name} must hold torch.int8 with scales torch.float32, not "
            f"{weight.dtype} with {scale.dtype}; save the model again."
        )
    return {"weight": weight, "weight_scale": scale}


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
    return checkpoints.read_tensor(checkpoint.path, name).float()


def _leaves(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers, which hold all the tensors of the models here."""
    return {name: part for name, part in model.named_modules() if not [*part.children()]}


def _lazy_layer(name: str, layer: Int8Linear) -> dict[str, LazyTensor]:
    shape = (layer.out_features, layer.in_features)
    weight, scale = f"{name}.weight", f"{name}.weight_scale"
    return {
        weight: LazyTensor(weight, shape, torch.int8, lambda: layer.unpacked()["weight"]),
        scale: LazyTensor(
            scale, shape[:1], torch.float32, lambda: layer.unpacked()["weight_scale"]
        ),
    }
