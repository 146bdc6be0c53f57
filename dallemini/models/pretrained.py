"""Loading, saving and publishing, inherited by every part of the pipeline.

`Pretrained` is for parts without weights of their own (the tokenizer); `PretrainedModule` is for
torch modules. Neither knows a file format: `checkpoints` turns whatever a source holds into a
configuration and a state dict with the names of this library.
"""

from __future__ import annotations

import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import ClassVar, Generic, Literal, Self, TypeVar

import torch
from torch import Tensor, nn

from .. import checkpoints, hub
from .._version import __version__
from ..config import CONFIG_NAME, Config
from ..errors import CheckpointError, InputError, InputTypeError
from ..files import replacing_folder, write_text

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

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Pretrained(ABC):
    """A part that can be loaded from and saved to a folder or the Hugging Face Hub."""

    _optional_files: ClassVar[tuple[str, ...]] = ()

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
    ) -> Self:
        """Load the part from a local folder, a file, a bundled name or a Hub id.

        Args:
            source: local path, `owner/name` on the Hub, or a bundled name.
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
        opened = hub.open_source(
            source,
            subfolder=subfolder,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        return cls._load(opened, cache_dir=cache_dir)

    @classmethod
    @abstractmethod
    def _load(cls, source: hub.Source, *, cache_dir: SourceName | None) -> Self:
        """Build the part from an opened source."""

    @abstractmethod
    def _save(self, directory: Path) -> None:
        """Write the part into an existing folder."""

    def save_pretrained(self, directory: SourceName) -> None:
        """Write the part in the native layout; `from_pretrained(directory)` reads it back.

        Raises:
            StorageError: the folder cannot be made or written.
        """
        save_into(directory, self._save, obsolete=self._optional_files)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Publish the part on the Hugging Face Hub and return the address of the commit.

        Raises:
            HubError: the Hub could not be reached or refused.
        """
        return push_saved(
            self._save, repo_id, private=private, token=token, commit_message=commit_message
        )


class PretrainedModule(nn.Module, Generic[ConfigT]):
    """A torch module with a configuration, loadable alone.

    Constructing a subclass describes the structure on the `meta` device, without memory or random
    numbers; `from_config` draws random weights, `from_pretrained` loads stored ones.
    """

    config_class: ClassVar[type[Config]]
    component: ClassVar[Literal["transformer", "vqgan", "clip"]]

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
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Make a model with random weights, to be trained from scratch.

        Args:
            config: sizes of the model.
            seed: of the random weights; the global random state is not touched.
            device: where the weights lie.
            dtype: of the weights; float32 when None.

        Raises:
            InputTypeError: the configuration, the seed or the dtype is none.
            InputError: the device cannot be used.
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
        source: SourceName,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: SourceName | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
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

        Raises:
            MissingFileError: the source or one of its files does not exist.
            HubError: the Hub could not be reached or refused.
            CheckpointError: the files are corrupt, unsafe or disagree with their configuration.
            UnsupportedModelError: the checkpoint belongs to another architecture.
            InputTypeError: the dtype is none of a model.
            InputError: the device cannot be used.
        """
        wanted, place = check_dtype(dtype), check_device(device)
        opened = hub.open_source(
            source,
            subfolder=subfolder,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        return cls._load(opened, cache_dir=cache_dir).to(device=place, dtype=wanted)

    @classmethod
    def _load(cls, source: hub.Source, *, cache_dir: SourceName | None) -> Self:
        checkpoint = checkpoints.read_checkpoint(
            source, component=cls.component, cache_dir=cache_dir
        )
        return cls._build(checkpoint)

    @classmethod
    def _build(cls, checkpoint: checkpoints.Checkpoint) -> Self:
        model = cls(cls.config_class.from_dict(checkpoint.config))  # type: ignore[arg-type]
        check_state_dict(model, checkpoint.state_dict, str(checkpoint.path))
        model.load_state_dict(checkpoint.state_dict, strict=True, assign=True)
        return model.eval()

    def _save(self, directory: Path) -> None:
        write_config(directory, self.config, component=self.component)
        checkpoints.save_checkpoint(self.state_dict(), directory)

    def save_pretrained(self, directory: SourceName) -> None:
        """Write `config.json` and `model.safetensors`; `from_pretrained(directory)` reads them.

        Raises:
            StorageError: the folder cannot be made or written.
        """
        save_into(directory, self._save)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Publish the model on the Hugging Face Hub and return the address of the commit.

        Raises:
            HubError: the Hub could not be reached or refused.
        """
        return push_saved(
            self._save, repo_id, private=private, token=token, commit_message=commit_message
        )

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return next(self.parameters()).dtype


def empty_embedding(rows: int, width: int) -> nn.Embedding:
    """Return an embedding of f[rows, width] without drawing random numbers for it.

    On `meta`, where models are built, drawing them would import torch's compiler: seconds of work
    before the first picture.
    """
    empty: nn.Embedding = nn.Embedding.from_pretrained(
        torch.empty(rows, width, dtype=torch.float32), freeze=False
    )
    return empty


def save_into(
    directory: SourceName, write: Callable[[Path], None], *, obsolete: Iterable[str] = ()
) -> None:
    """Let `write` make files that take the places of those of an older save, all or none.

    Args:
        directory: made if missing.
        write: fills an empty folder.
        obsolete: files of an older save that go where no new ones take their places.
    """
    with replacing_folder(directory, obsolete=obsolete) as folder:
        write(folder)


def push_saved(
    write: Callable[[Path], None],
    repo_id: str,
    *,
    private: bool,
    token: str | None,
    commit_message: str | None,
) -> str:
    """Let `write` fill a temporary folder and upload it."""
    with tempfile.TemporaryDirectory() as folder:
        save_into(folder, write)
        return hub.upload_folder(
            folder, repo_id, private=private, token=token, commit_message=commit_message
        )


def write_config(
    directory: Path, config: Config, *, component: str, quantization: str | None = None
) -> None:
    """Write `config.json` with the mark that tells a native folder from a foreign one."""
    mark = {"component": component, "version": __version__}
    if quantization is not None:
        mark["quantization"] = quantization
    text = json.dumps({"dallemini": mark, **config.to_dict()}, indent=2) + "\n"
    write_text(directory / CONFIG_NAME, text)


def check_state_dict(model: nn.Module, state_dict: dict[str, Tensor], origin: str) -> None:
    """Compare a state dict with a model, naming the first tensor that does not fit.

    Raises:
        CheckpointError: a tensor is missing, unknown, or has another shape than the
            configuration asks for.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    _refuse_names(expected.keys() - state_dict.keys(), "lacks", origin)
    _refuse_names(state_dict.keys() - expected.keys(), "has unknown", origin)
    for name, shape in expected.items():
        found = tuple(state_dict[name].shape)
        if found != shape:
            raise CheckpointError(
                f"{origin}: {name} has shape {found}, but the configuration asks for {shape}; "
                "use the config.json that belongs to these weights."
            )


def _refuse_names(names: AbstractSet[str], what: str, origin: str) -> None:
    if names:
        shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
        raise CheckpointError(
            f"{origin} {what} tensors of this configuration ({len(names)}: {shown}); "
            "use the config.json that belongs to these weights."
        )


def check_device(device: str | torch.device) -> torch.device:
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
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"The device {str(device)!r} cannot be used here: {reason.rstrip('.')}. "
            "Use device='cpu', or a torch that was built for it."
        ) from error


def check_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """Return the floating-point type that weights are wanted in, float32 for None.

    Raises:
        InputTypeError: it is not a floating-point type of torch.
    """
    if dtype is None:
        return torch.float32
    if dtype not in _FLOATS:
        names = ", ".join(str(option) for option in _FLOATS)
        raise InputTypeError(f"dtype must be one of {names}, not {dtype!r}.")
    return dtype
