"""What is refused of a run's settings before anything is read."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from ...config import both_sides
from ...data.config import DataConfig
from ...errors import ConfigError
from ...files import as_path
from ...models.clip_config import CLIPConfig
from ...models.transformer_config import TransformerConfig
from ...models.vqgan_config import VQGANConfig
from .config import CLIPTrainingConfig, RunConfig, TransformerTrainingConfig, VQGANTrainingConfig

Size: TypeAlias = "int | tuple[int, int]"


def check_run(config: RunConfig) -> None:
    """Refuse a run that lacks something, or whose settings contradict each other.

    Raises:
        ConfigError: says which.
    """
    for name, what in (("train_data", "pictures with captions"), ("output", "a folder")):
        if not getattr(config, name):
            raise ConfigError(f"{type(config).__name__}.{name} must be given: {what}.")
    if config.patience and not config.eval_data:
        raise ConfigError("patience looks at held-out data: give eval_data, or leave it out.")
    if config.init_from and as_path(config.init_from).resolve() == as_path(config.output).resolve():
        raise ConfigError(
            f"output {config.output!r} is the model to start from; name another folder."
        )
    if isinstance(config, TransformerTrainingConfig):
        _check_transformer(config)
    elif isinstance(config, VQGANTrainingConfig):
        _check_start(config, model=config.model != VQGANConfig())
    elif isinstance(config, CLIPTrainingConfig):
        has_tokenizer = config.tokenizer is not None
        _check_start(config, model=config.model != CLIPConfig(), tokenizer=has_tokenizer)


def _check_transformer(config: TransformerTrainingConfig) -> None:
    if config.init_from is None:
        if config.vqgan is None:
            raise ConfigError("Give vqgan, or init_from with a model that has one.")
        if config.lora_rank:
            raise ConfigError("LoRA adapts a trained model: give init_from.")
        if config.prior_prompts:
            raise ConfigError("prior_prompts are drawn by a trained model: give init_from.")
    if config.lora_targets is not None and not config.lora_rank:
        raise ConfigError("lora_targets name layers for adapters: give lora_rank.")
    _check_start(config, model=config.model != TransformerConfig())


def _check_start(config: RunConfig, **given: bool) -> None:
    """Refuse what describes a new network where one is started from."""
    named = " and ".join(name for name, is_given in given.items() if is_given)
    if config.init_from is not None and named:
        raise ConfigError(f"{named} describes a new network; leave it out beside init_from.")


def data_for(config: RunConfig, size: Size, *, multiple: Size) -> DataConfig:
    """Return how pictures are read: in the model's size, where no other is asked for.

    Args:
        config: of the run.
        size: height and width of the model's pictures, one number for a square.
        multiple: other heights and widths must be a multiple of these.

    Raises:
        ConfigError: the model cannot take the size that is asked for.
    """
    if config.data.image_size is None:
        square = size[0] if isinstance(size, tuple) and size[0] == size[1] else None
        return replace(config.data, image_size=square or size)
    units = both_sides(multiple)
    if any(asked % unit for asked, unit in zip(config.data.size, units, strict=True)):
        raise ConfigError(
            f"data.image_size {config.data.image_size} does not fit the model, whose pictures "
            f"are {size} pixels wide; leave it out, or take a multiple of {multiple}."
        )
    return config.data
