"""What one run of the training loop does: steps, rates, precision, processes, logs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..config import Config
from ..errors import ConfigError

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
_AT_LEAST_ONE: tuple[str, ...] = "steps", "batch_size", "accumulation", "log_every"
_AT_LEAST_ONE += ("evaluate_every", "keep_last")
_NOT_NEGATIVE = (
    "learning_rate",
    "matrix_learning_rate",
    "weight_decay",
    "clip_norm",
    "save_minutes",
    "workers",
    "patience",
)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """What one run of the loop does.

    Attributes:
        steps: number of optimiser steps, over which the learning rate follows its schedule.
        batch_size: examples of one optimiser step, over all processes and accumulated passes.
        accumulation: passes whose gradients are added up for one step; saves memory.
        seed: of weights, batches and noise.
        optimizer: "muon" for matrices and convolutions with AdamW for the rest (and for all of
            LoRA); "adamw" for all;
            "soap" (Shampoo with Adam in its basis, of the package pytorch-optimizer) for matrices
            and convolutions with AdamW for the rest.
        learning_rate: of AdamW.
        matrix_learning_rate: of matrices and convolutions under muon (0.01 to 0.02 is usual) or
            soap (0.003).
        weight_decay: decoupled from the gradient; norms, biases and embeddings do not decay.
        clip_norm: longest gradient; 0 does not clip.
        schedule: after the warm-up; "constant_then_decay" falls linearly to zero at the end.
        decay_share: last share of the steps, over which "constant_then_decay" falls.
        warmup_steps: steps over which the rates rise from zero; None takes a tenth of all, at most
            100, and stays with that where a run goes on with other steps.
        ema_decay: of the averaged weights that the run returns; 0 returns the last weights.
        precision: of the computation (autocast; "tf32" is float32 whose products a GPU rounds to
            ten bits, on others the same as float32); weights stay float32, and so does what
            evaluates.
        gradient_checkpointing: compute the blocks again in the backward pass; saves memory.
        compile: translate the network with torch.compile; the first steps take minutes.
        strategy: how processes that torchrun started share the work: "ddp" copies the weights,
            "fsdp" splits them (of the transformer).
        device: where to compute; None takes a GPU if there is one.
        log_every: steps between two rows of the log.
        evaluate_every: steps between two looks at held-out data and samples.
        save_minutes: time between two checkpoints of the run.
        keep_last: how many of the newest checkpoints stay. The best one by held-out data does
            besides.
        patience: evaluations without a better one on held-out data after which the run ends; 0 does
            all steps.
        resume_from: checkpoint to go on from: an earlier one of this run, those after it are set
            aside; or one of another run. The newest of the run's folder when None.
        workers: processes that prepare batches ahead; 0 prepares them in this one.
        tracker: also log there.
        progress: show a progress bar.

    `may_change` names what a run that goes on from a checkpoint may have otherwise than before;
    `loss.seed` is the field `seed` of the field `loss`.
    """

    may_change: ClassVar[frozenset[str]] = frozenset(
        {
            *("steps", "batch_size", "accumulation", "workers", "device", "strategy", "compile"),
            *("learning_rate", "matrix_learning_rate", "weight_decay", "clip_norm", "schedule"),
            *("decay_share", "warmup_steps", "ema_decay", "precision", "gradient_checkpointing"),
            *("log_every", "evaluate_every", "save_minutes", "tracker", "progress"),
            *("keep_last", "patience", "resume_from"),
        }
    )

    steps: int
    batch_size: int = 64
    accumulation: int = 1
    seed: int = 0
    optimizer: Literal["muon", "adamw", "soap"] = "muon"
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 0.02
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    schedule: Literal["cosine", "constant", "constant_then_decay"] = "cosine"
    decay_share: float = 0.2
    warmup_steps: int | None = None
    ema_decay: float = 0.999
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    compile: bool = False
    strategy: Literal["ddp", "fsdp"] = "ddp"
    device: str | None = None
    log_every: int = 50
    evaluate_every: int = 1000
    save_minutes: float = 5.0
    keep_last: int = 1
    patience: int = 0
    resume_from: str | None = None
    workers: int = 0
    tracker: Literal["tensorboard", "wandb"] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        self.check_types()
        name = type(self).__name__
        for field in _AT_LEAST_ONE:
            if getattr(self, field) < 1:
                raise ConfigError(f"{name}.{field} must be at least 1, not {getattr(self, field)}.")
        if self.warmup_steps is not None and self.warmup_steps < 1:
            raise ConfigError(f"{name}.warmup_steps must be at least 1, not {self.warmup_steps}.")
        for field in _NOT_NEGATIVE:
            if not 0 <= getattr(self, field) < math.inf:
                raise ConfigError(
                    f"{name}.{field} must be a finite number from 0, not {getattr(self, field)}."
                )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"{name}.ema_decay must be from 0 up to 1, not {self.ema_decay}.")
        if not 0 < self.decay_share <= 1:
            raise ConfigError(f"{name}.decay_share must be over 0 up to 1, not {self.decay_share}.")

        if self.strategy == "fsdp" and self.optimizer == "soap":
            raise ConfigError(
                f"{name}: soap needs whole matrices, which 'fsdp' splits; take optimizer='muon'."
            )

    @property
    def warmup(self) -> int:
        """Number of steps over which the rates rise."""
        return self.warmup_steps or max(1, min(100, self.steps // 10))

    def process_batch_size(self, world_size: int) -> int:
        """Return how many examples one process computes at a time.

        Raises:
            ConfigError: the batch does not divide evenly.
        """
        parts = world_size * self.accumulation
        if self.batch_size % parts:
            raise ConfigError(
                f"batch_size {self.batch_size} must be a multiple of {parts}: {world_size} "
                f"process(es) times accumulation {self.accumulation}."
            )
        return self.batch_size // parts
