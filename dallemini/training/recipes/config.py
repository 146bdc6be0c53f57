"""The settings of whole training runs. Knows neither tensors nor what reads the settings.

What they lack together, `checks` says, when a run begins: a file may leave settings to flags.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from ...data.config import DataConfig
from ...errors import ConfigError
from ...files import as_path
from ...models.clip_config import CLIPConfig
from ...models.transformer_config import TransformerConfig
from ...models.vqgan_config import VQGANConfig
from ..config import TrainingConfig
from ..vqgan_config import VQGANLossConfig


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
