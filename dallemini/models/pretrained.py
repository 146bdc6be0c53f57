"""Loading, saving and publishing, inherited by every part of the pipeline.

`Loadable` is for parts without weights of their own (the tokenizers); `PretrainedModule` is for
torch modules. Neither knows a file format: `checkpoints` turns whatever a source holds into a
configuration and a state dict with the names of this library.
"""

from __future__ import annotations

import functools
import json
import os
import re
import tempfile
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from .. import checkpoints, hub
from .._version import __version__
from ..checkpoints.dallebart import refuse_older_name
from ..checkpoints.lazy import LazyTensor
from ..checkpoints.shapes import check_tensors, find_misfit
from ..config import CONFIG_NAME, Config
from ..errors import CheckpointError, InputError, InputTypeError, UnsupportedOperationError
from ..files import write_text
from ..foreign import show, with_article
from .part_card import CARD_NAME, save_part, title_for
from .precision import FLOATS, Precision, Quantization, Weights, check_dtype, read_precision

ConfigT = TypeVar("ConfigT", bound=Config)
SourceName = str | os.PathLike[str]
PART_FILES = (
    CONFIG_NAME,
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "word_frequencies.txt",
)
"""Names of all the files that parts are saved in."""


def open_model(
    source: SourceName | hub.Source, where: hub.Where, subfolder: str | None
) -> hub.Source:
    """Open a source; models that are known by name to be others are refused before.

    Raises:
        UnsupportedModelError: it is one of the BART models of 2021.
        As `hub.open`.
    """
    refuse_older_name(source)
    return hub.open(source, where, subfolder=subfolder)


class Loadable(metaclass=ABCMeta):  # ABC itself has slots, which FSDP's classes do not have
    """A part that can be loaded from and saved to a folder or the Hugging Face Hub.

    A subclass says in `_load` how it is made from an opened source, and in `_save` how it is
    written into a folder; `_check_savable` refuses what could not be loaded again.
    """

    _optional_files: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_pretrained(
        cls,
        source: SourceName | hub.Source,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: SourceName | None = None,
        local_files_only: bool = False,
        token: str | None = None,
    ) -> Self:
        """Load the part from a local folder, a file, a bundled name or a Hub id.

        Args:
            source: local path, `owner/name` on the Hub, a bundled name, or a source that
                `hub.open` gave.
            subfolder: folder inside the source that holds this part.
            revision: branch, tag or commit on the Hub.
            cache_dir: the Hub's cache folder, instead of the user's.
            local_files_only: never ask the network.
            token: Hub access token, instead of the stored one.

        Raises:
            MissingFileError: the source or one of its files does not exist.
            HubError: the Hub could not be reached or refused.
            CheckpointError: the files are corrupt, unsafe or of another architecture.
        """
        where = hub.Where(revision, cache_dir, local_files_only, token)
        return cls._load(open_model(source, where, subfolder))

    @classmethod
    @abstractmethod
    def _load(cls, source: hub.Source) -> Self:
        """Build the part from an opened source."""

    @abstractmethod
    def _save(self, directory: Path) -> None:
        """Write the part into an existing folder."""

    def _check_savable(self) -> None:
        """Refuse a part that could not be loaded again, before anything is written."""
        return

    def save_pretrained(self, directory: SourceName) -> None:
        """Write the part in the native layout; `from_pretrained(directory)` reads it back.

        Over an older one this happens all at once: whoever loads the folder, also after this
        process was killed, finds the old part or the new one. Files of other names stay. A model
        card, `README.md`, is written where there is none, but not into the folders of a pipeline,
        which has its own.

        Raises:
            StorageError: the folder cannot be made or written.
            InputTypeError: `directory` is neither a string nor a path.
            UnsupportedOperationError: what would be written could not be loaded, such as a model
                with adapters.
        """
        save_part(self, directory, title=title_for(directory))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Publish the part on the Hugging Face Hub and return the address of the commit.

        A part gets a model card there unless the Hub has one.

        Args:
            repo_id: `owner/name`; made if missing.
            private: whether a model that is newly made is private.
            token: Hub access token that may write, instead of the stored one.
            commit_message: instead of one that names this library.

        Raises:
            HubError: the Hub could not be reached or refused.
            UnsupportedOperationError: what would be written could not be loaded.
        """
        with tempfile.TemporaryDirectory() as folder:
            has_card = save_part(self, folder, title=repo_id.rpartition("/")[2])
            return hub.upload_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                commit_message=commit_message,
                keep=() if has_card else (CARD_NAME,),
            )


class PretrainedModule(Loadable, nn.Module, Generic[ConfigT]):
    """A torch module with a configuration, loadable alone.

    Constructing a subclass describes the structure on the `meta` device, without memory or random
    numbers; `from_config` draws random weights, `from_pretrained` loads stored ones.
    """

    config_class: ClassVar[type[Config]]
    component: ClassVar[checkpoints.Component]

    def __init__(self, config: ConfigT) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise InputTypeError(
                f"{type(self).__name__} is made from a {self.config_class.__name__}, "
                f"not {type(config).__name__}."
            )
        self.config: ConfigT = config

    @abstractmethod
    def init_weights(self, generator: torch.Generator) -> None:
        """Fill every parameter with the random values that training starts from."""

    @classmethod
    def from_config(
        cls,
        config: ConfigT,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        dtype: Precision | None = None,
    ) -> Self:
        """Make a model with random weights, to be trained from scratch.

        Args:
            config: sizes of the model.
            seed: of the random weights; the global random state is not touched.
            device: where the weights lie.
            dtype: floating-point type of the weights, or its name; float32 when None.

        Raises:
            InputTypeError: the configuration, the seed or the dtype is of the wrong type.
            InputError: the device cannot be used, or there is no such dtype.
        """
        if not isinstance(seed, int):
            raise InputTypeError(f"seed must be a whole number, not {seed!r}.")
        wanted, place = check_dtype(dtype), check_device(device)
        model = cls(config)
        # as `to_empty` does, without the compiler that torch imports for it
        empty = {
            name: torch.empty(value.shape, dtype=torch.float32, device="cpu")
            for name, value in model.state_dict().items()
        }
        model.load_state_dict(empty, assign=True)
        model.init_weights(torch.Generator().manual_seed(seed))
        return model.to(device=place, dtype=wanted)

    @classmethod
    def from_pretrained(
        cls,
        source: SourceName | hub.Source,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: SourceName | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        device: str | torch.device = "cpu",
        dtype: Precision | None = None,
        quantization: Quantization | None = None,
    ) -> Self:
        """Load the model from a local folder, a file, a bundled name or a Hub id.

        A checkpoint in a foreign format is converted once into the cache and mapped from there.

        Args:
            source: local path, `owner/name` on the Hub, a bundled name, or a source that
                `hub.open` gave.
            subfolder: folder inside the source that holds this part.
            revision: branch, tag or commit on the Hub.
            cache_dir: the Hub's cache folder, instead of the user's.
            local_files_only: never ask the network.
            token: Hub access token, instead of the stored one.
            device: where the weights go; float32 weights on the CPU stay mapped from the file.
            dtype: of the weights: a type of torch or its name; float32 when None, whatever the
                file holds. "int8" quantises a transformer while it is loaded, one tensor at a
                time; one that was saved quantised stays so.
            quantization: an older spelling of `dtype="int8"`.

        Raises:
            MissingFileError: the source or one of its files does not exist.
            HubError: the Hub could not be reached or refused.
            CheckpointError: the files are corrupt, unsafe or disagree with their configuration.
            UnsupportedModelError: the checkpoint belongs to another architecture.
            InputTypeError: the dtype is neither a name nor a floating-point type.
            InputError: the device cannot be used, or there is no such dtype.
            UnsupportedOperationError: int8 weights for a GPU, with another dtype than float32, or
                for a model that has none.
        """
        place, weights = cls.check_precision(device, dtype, quantization)
        where = hub.Where(revision, cache_dir, local_files_only, token)
        opened = open_model(source, where, subfolder)
        return cls._load(opened, weights.quantization).to(device=place, dtype=weights.dtype)

    @classmethod
    def expected_shapes(cls, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the tensors that a configuration asks for.

        Raises:
            ConfigError: the fields make no configuration; nothing is built then.
        """
        return {name: tensor.shape for name, tensor in cls._outline(config)._tensors().items()}

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        kind = f"{count:,} parameters, {str(self.dtype).removeprefix('torch.')}"
        return f"<{type(self).__name__}: {self.quantization or kind} on {self.device}>"

    @property
    def quantization(self) -> Quantization | None:
        """How the weights are quantised: "int8", or None."""
        return None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return next(self.parameters()).dtype

    @classmethod
    def check_precision(
        cls, device: object, dtype: object, quantization: object = None
    ) -> tuple[torch.device, Weights]:
        """Return where and how weights are wanted, before anything is loaded.

        Raises:
            As `from_pretrained`, where it speaks of device, dtype and quantisation.
        """
        place, weights = check_device(device), read_precision(dtype, quantization)
        cls.check_weights(weights, place)
        return place, weights

    @classmethod
    def check_weights(cls, weights: Weights, place: torch.device) -> None:
        """Refuse what this kind of model cannot have.

        Raises:
            UnsupportedOperationError: int8 weights, where there are none or not on this device.
        """
        if weights.quantization is not None:
            a_model = with_article(cls.__name__)
            raise UnsupportedOperationError(
                f"A{a_model[1:]} has no {weights.quantization} weights; choose one of "
                f"{', '.join(FLOATS)} for it."
            )

    @classmethod
    def _load(cls, source: hub.Source, quantization: Quantization | None = None) -> Self:
        checkpoint = checkpoints.read_checkpoint(
            source, component=cls.component, expected=cls.expected_shapes
        )
        return cls._build(checkpoint, quantization)

    @classmethod
    def _outline(cls, config: Mapping[str, Any], quantization: Quantization | None = None) -> Self:
        """Describe a model on `meta`; its configuration is checked before anything is built."""
        checked: Any = cls.config_class.from_dict(config)
        return cls(checked)

    @classmethod
    def _build(
        cls, checkpoint: checkpoints.Checkpoint, quantization: Quantization | None = None
    ) -> Self:
        if (kind := checkpoint.mark.get("quantization")) is not None:
            raise CheckpointError(
                f"{checkpoint.path} is quantised as {show(kind)}, which "
                f"{with_article(cls.__name__)} cannot be. Save the original model again."
            )
        model = cls._outline(checkpoint.config)
        model._check_tensors(checkpoint)
        model.load_state_dict(checkpoint.state_dict, strict=True, assign=True)
        return model.eval()

    def _check_tensors(self, checkpoint: checkpoints.Checkpoint) -> None:
        expected = {name: tensor.shape for name, tensor in self._tensors().items()}
        check_tensors(checkpoint.state_dict, expected, origin=str(checkpoint.path))

    def _tensors(self) -> dict[str, LazyTensor]:
        """Describe what is saved, tensor by tensor."""
        state: dict[str, Tensor] = self.state_dict()
        return {name: LazyTensor.of(name, tensor.detach()) for name, tensor in state.items()}

    def _check_savable(self) -> None:
        if any(parameter.is_meta for parameter in self.parameters()):
            raise UnsupportedOperationError(
                f"This {type(self).__name__} has no weights to save; make it with from_pretrained "
                "or from_config."
            )
        tensors = self._tensors()
        expected = _expected(type(self), json.dumps(self.config.to_dict()), self.quantization)
        problem = find_misfit(tensors, {name: shape for name, (shape, _) in expected.items()})
        if problem is None:
            for name, tensor in tensors.items():
                known = expected[name][1]
                if tensor.dtype not in (FLOATS.values() if known.is_floating_point else (known,)):
                    problem = f"holds {name} as {tensor.dtype}"
                    break
        if problem is not None:
            adapted = any(name.endswith(".lora_a") for name in tensors)
            advice = "call merge_lora or save_lora" if adapted else "undo what was changed in it"
            raise UnsupportedOperationError(
                f"This {type(self).__name__} {problem}. Saved like this, it could not be loaded: "
                f"{advice} first."
            )

    def _save(self, directory: Path) -> None:
        write_config(
            directory, self.config, component=self.component, quantization=self.quantization
        )
        checkpoints.write_tensors(self._tensors(), directory)


@functools.lru_cache(maxsize=8)  # each part of a pipeline is looked at twice before it is saved
def _expected(
    kind: type[PretrainedModule[Any]], config: str, quantization: Quantization | None
) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return what a model of a configuration, given as JSON, saves."""
    tensors = kind._outline(json.loads(config), quantization)._tensors()
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def write_config(
    directory: Path, config: Config, *, component: str, quantization: str | None = None
) -> None:
    """Write `config.json` with the mark that tells a native folder from a foreign one."""
    mark = {"component": component, "version": __version__}
    if quantization is not None:
        mark["quantization"] = quantization
    text = json.dumps({"dallemini": mark, **config.to_dict()}, indent=2) + "\n"
    write_text(directory / CONFIG_NAME, text)


def check_device(device: object) -> torch.device:
    """Return a device after trying it, so that a wrong one is told before anything is loaded.

    Raises:
        InputTypeError: it is neither a string nor a `torch.device`.
        InputError: torch does not know it, or it is not on this machine.
    """
    if not isinstance(device, str | torch.device):
        raise InputTypeError(f"device must be a name such as 'cpu' or 'cuda', not {device!r}.")
    try:
        return torch.empty(0, device=device, dtype=torch.float32).device
    except (RuntimeError, AssertionError) as error:  # as torch says that it lacks CUDA
        reason = re.split(r"\n|\. ", str(error))[0]  # the rest is advice to torch's developers
        raise InputError(
            f"The device {str(device)[:40]!r} cannot be used here: {reason[:150].rstrip('.')}. "
            "Use device='cpu', or a torch that was built for it."
        ) from error
