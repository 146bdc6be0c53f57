"""The settings of whole training runs. Knows neither tensors nor what reads the settings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from ...config import both_sides
from ...data.config import DataConfig
from ...errors import ConfigError
from ...files import as_path
from ...models.clip_config import CLIPConfig
from ...models.transformer_config import TransformerConfig
from ...models.vqgan_config import VQGANConfig
from ..config import TrainingConfig
from ..vqgan_config import VQGANLossConfig

Size: TypeAlias = "int | tuple[int, int]"


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingConfig):
    """A training run with its files.

    Attributes:
        train_data: folders, tables or tar shards, as `CaptionedImages.open` takes them.
        eval_data: held-out data of the same kind; without them nothing is measured.
        output: folder for the trained model.
        run: folder for checkpoints, log and pictures; `output` with "-run" when None.
        init_from: model to start from, by folder or Hub id; released checkpoints included.
        push_to: model on the Hub, "owner/name", to which checkpoints, samples, log and in the end
            the model are uploaded; private where it is made.
        data: how pictures and captions are read. They get the size that the model has, unless
            `image_size` names another.
    """

    may_change = TrainingConfig.may_change | {
        *("train_data", "eval_data", "output", "run", "push_to", "data")
    }

    train_data: tuple[str, ...] = ()
    eval_data: tuple[str, ...] = ()
    output: str = ""
    run: str | None = None
    init_from: str | None = None
    push_to: str | None = None
    data: DataConfig = field(default_factory=DataConfig)

    def check(self) -> None:
        """Refuse a run without data or output; a file of settings may leave them to flags.

        Raises:
            ConfigError: something is missing, or does not fit the rest.
        """
        for name, what in (("train_data", "pictures with captions"), ("output", "a folder")):
            if not getattr(self, name):
                raise ConfigError(f"{type(self).__name__}.{name} must be given: {what}.")
        if self.patience and not self.eval_data:
            raise ConfigError("patience looks at held-out data: give eval_data, or leave it out.")
        if self.init_from and as_path(self.init_from).resolve() == as_path(self.output).resolve():
            raise ConfigError(
                f"output {self.output!r} is the model to start from; name another folder."
            )

    def data_for(self, size: Size, *, multiple: Size) -> DataConfig:
        """Return how pictures are read: in the model's size, where no other is asked for.

        Args:
            size: height and width of the model's pictures, one number for a square.
            multiple: other heights and widths must be a multiple of these.

        Raises:
            ConfigError: the model cannot take the size that is asked for.
        """
        if self.data.image_size is None:
            square = size[0] if isinstance(size, tuple) and size[0] == size[1] else None
            return replace(self.data, image_size=square or size)
        units = both_sides(multiple)
        if any(asked % unit for asked, unit in zip(self.data.size, units, strict=True)):
            raise ConfigError(
                f"data.image_size {self.data.image_size} does not fit the model, whose pictures "
                f"are {size} pixels wide; leave it out, or take a multiple of {multiple}."
            )
        return self.data

    @property
    def run_folder(self) -> Path:
        """Where checkpoints, log and pictures go."""
        return as_path(self.run or f"{self.output.rstrip('/')}-run")


@dataclass(frozen=True, kw_only=True)
class VQGANTrainingConfig(RunConfig):
    """A training run of the image tokenizer.

    Attributes:
        model: sizes of a network that starts from random weights.
        loss: when each loss begins; from a trained model, codes are used from the start.
    """

    may_change = (RunConfig.may_change - {"accumulation"}) | {  # the losses begin at batches
        f"loss.{name}"
        for name in (
            "perceptual_weight",
            "adversarial_weight",
            "commitment_weight",
            "kmeans_batches",
            "perceptual_size",
            "detail_share",
        )
    }

    model: VQGANConfig = field(default_factory=VQGANConfig)
    loss: VQGANLossConfig = field(default_factory=VQGANLossConfig)

    def check(self) -> None:
        """Refuse a run that lacks something, or whose settings contradict each other.

        Raises:
            ConfigError: says which.
        """
        super().check()
        _check_start(self, model=self.model != VQGANConfig())


@dataclass(frozen=True, kw_only=True)
class TransformerTrainingConfig(RunConfig):
    """A training run of the transformer; what is written is a whole pipeline.

    `train_data` and `eval_data` are pictures with captions, which are encoded first, or folders
    that `dallemini encode` wrote.

    Attributes:
        vqgan: image tokenizer, by folder or Hub id; `init_from`'s when None.
        tokenizer: text tokenizer, by folder or Hub id; `init_from`'s when None, and learnt from
            the captions when there is neither.
        model: sizes of a network that starts from random weights; the sizes of both vocabularies
            and of the picture are filled in.
        corruption: highest share of random codes among the decoder's inputs; 0.8 where there are
            few pictures, so that it does not merely recall them; 0 where there are millions.
        lora_rank: width of adapters that are trained beside frozen weights; 0 trains all weights.
        lora_alpha: the adapters count lora_alpha / lora_rank times.
        lora_dropout: share of the adapters' inputs that is zeroed.
        lora_targets: names of the layers that get adapters, or their ends, such as "qkv_proj"; all
            projections when None.
        prior_prompts: what the model must not forget: eight pictures of each prompt that it draws
            before the training are mixed in; or one file of prompts.
        prior_share: share of those among the pictures of a batch.
        license: identifier of the licence for the cards, such as "apache-2.0"; that of the model
            that the run starts from when None.
        data: how pictures and captions are read, in the size of the VQGAN, and the share of
            captions left out for guidance.
        prompts: drawn at every evaluation; or one file of them, .txt, .csv, .jsonl or .parquet.
    """

    @property
    def may_change(self) -> frozenset[str]:  # type: ignore[override]
        """The optimiser too where it is AdamW by every name: for adapters."""
        free = RunConfig.may_change | {"corruption", "lora_dropout", "prompts", "license"}
        return free | {"optimizer"} if self.lora_rank else free

    vqgan: str | None = None
    tokenizer: str | None = None
    model: TransformerConfig = field(default_factory=TransformerConfig)
    corruption: float = 0.8
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] | None = None
    prior_prompts: tuple[str, ...] = ()
    prior_share: float = 0.2
    license: str | None = None
    data: DataConfig = field(default_factory=lambda: DataConfig(caption_dropout=0.1))
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.corruption <= 1:
            raise ConfigError(f"corruption is a share from 0 to 1, not {self.corruption}.")
        if not 0 < self.prior_share < 1:
            raise ConfigError(
                f"prior_share is a share above 0 and below 1, not {self.prior_share}; without "
                "prior_prompts nothing is mixed in."
            )
        if self.lora_rank < 0:
            raise ConfigError(f"lora_rank must be 0 (none) or more, not {self.lora_rank}.")
        if not 0 < self.lora_alpha < math.inf:
            raise ConfigError(f"lora_alpha must be a finite number above 0, not {self.lora_alpha}.")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout must be from 0 up to 1, not {self.lora_dropout}.")

    def check(self) -> None:
        """Refuse a run that lacks something, or whose settings contradict each other.

        Raises:
            ConfigError: says which.
        """
        super().check()
        if self.init_from is None and self.vqgan is None:
            raise ConfigError("Give vqgan, or init_from with a model that has one.")
        if self.init_from is None and self.lora_rank:
            raise ConfigError("LoRA adapts a trained model: give init_from.")
        if self.init_from is None and self.prior_prompts:
            raise ConfigError("prior_prompts are drawn by a trained model: give init_from.")
        if self.lora_targets is not None and not self.lora_rank:
            raise ConfigError("lora_targets name layers for adapters: give lora_rank.")
        _check_start(self, model=self.model != TransformerConfig())


@dataclass(frozen=True, kw_only=True)
class CLIPTrainingConfig(RunConfig):
    """A training run of the scorer.

    Attributes:
        tokenizer: folder or Hub id of a CLIP tokenizer; learnt from the captions when there is
            neither this nor `init_from`.
        model: sizes of a network that starts from random weights; its vocabulary size is that of
            the tokenizer.
    """

    tokenizer: str | None = None
    model: CLIPConfig = field(default_factory=CLIPConfig)

    def check(self) -> None:
        """Refuse a run that lacks something, or whose settings contradict each other.

        Raises:
            ConfigError: says which.
        """
        super().check()
        _check_start(self, model=self.model != CLIPConfig(), tokenizer=self.tokenizer is not None)


def _check_start(config: RunConfig, **given: bool) -> None:
    """Refuse what describes a new network where one is started from."""
    named = " and ".join(name for name, is_given in given.items() if is_given)
    if config.init_from is not None and named:
        raise ConfigError(f"{named} describes a new network; leave it out beside init_from.")
