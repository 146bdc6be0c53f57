"""What the cards of a trained transformer and its adapter say: data, settings, figures, licence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.sources import split_weights
from ...errors import MissingFileError
from ...pipeline.cards import read_header, short_name
from ...pipeline.pipeline import Pipeline
from ..log import read_log

if TYPE_CHECKING:
    from .config import TransformerTrainingConfig


def training_data(config: TransformerTrainingConfig) -> str:
    """Say what was learnt from, and how."""
    data = ", ".join(f"`{short_name(name)}`" for name in split_weights(config.train_data)[0])
    is_adamw = config.lora_rank or config.optimizer == "adamw"
    rate = config.learning_rate if is_adamw else config.matrix_learning_rate
    how = f"{'adamw' if is_adamw else config.optimizer} at {rate:g}"
    what = f"LoRA of rank {config.lora_rank}" if config.lora_rank else "all weights"
    prior = ""
    if config.prior_prompts:
        prior = f", of which {config.prior_share:.0%} were drawn by the model before"
    return f"{data}, {config.steps:,} steps of {config.batch_size}{prior}; {what}, {how}."


def measured(config: TransformerTrainingConfig) -> str:
    """Say what the last evaluation measured, "" if there was none."""
    try:
        rows = [row for row in read_log(config.run_folder) if "train_loss" in row]
    except MissingFileError:
        return ""
    if not rows:
        return ""
    found = ", ".join(f"{name} {value:.3g}" for name, value in rows[-1].items() if name != "step")
    return f"After {rows[-1]['step']} steps, in nats for each token: {found}."


def license_of(config: TransformerTrainingConfig, pipe: Pipeline) -> str | None:
    """Return the licence that the run names, or that of the model it started from."""
    if config.license is not None or pipe._origin is None:
        return config.license
    told = read_header(pipe._origin.parts).get("license")
    return str(told) if told else None
