"""Dashboards beside the log of a run: TensorBoard and Weights & Biases.

Knows numbers and pixels by their names, not tasks or models.
"""

from __future__ import annotations

import importlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, MissingDependencyError
from ..files import make_folder, write_text
from ..sheets import Sheet
from .callbacks import Callback
from .log import LOG_NAME

_TRACKERS = {
    "tensorboard": ("TensorBoard", "torch.utils.tensorboard"),
    "wandb": ("Weights & Biases", "wandb"),
}


class _TensorBoard(Callback):
    def __init__(self, folder: Path, start_step: int, config: Mapping[str, Any]) -> None:
        # what an interrupted run wrote of later steps is hidden
        self.writer = find_tracker("tensorboard").SummaryWriter(
            str(folder / "tensorboard"), purge_step=start_step + 1 if start_step else None
        )
        if config and not start_step:
            self.writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```", 0)

    def on_step(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def on_evaluation(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, Sheet]
    ) -> None:
        self.on_step(step, values)
        for name, picture in pictures.items():
            self.writer.add_image(name, np.asarray(picture.draw()), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class _WandB(Callback):
    def __init__(self, folder: Path, start_step: int, config: Mapping[str, Any]) -> None:
        self.wandb = find_tracker("wandb")
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", "dallemini"),
            name=folder.absolute().name,
            id=_run_id(folder / "wandb_id", start_step),
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )
        # steps that are done again after an interruption would be refused as wandb's own steps
        self.run.define_metric("*", step_metric="step")

    def on_step(self, step: int, values: Mapping[str, float]) -> None:
        if values:
            self.run.log({"step": step, **values})

    def on_evaluation(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, Sheet]
    ) -> None:
        self.on_step(step, values)
        for name, picture in pictures.items():
            image = self.wandb.Image(np.asarray(picture.draw()))
            self.run.log({"step": step, name: image})

    def close(self) -> None:
        self.run.finish()


def open_tracker(
    name: str, folder: Path, *, start_step: int = 0, config: Mapping[str, Any] | None = None
) -> Callback:
    """Open a dashboard.

    Args:
        name: "tensorboard" writes into the folder `tensorboard`; "wandb" heeds its own variables
            (`WANDB_MODE=offline`, `WANDB_PROJECT`).
        folder: of the run; made if missing.
        start_step: steps that are done already.
        config: settings of the run, to be shown.

    Raises:
        ConfigError: there is no such tracker.
        MissingDependencyError: it is not installed.
        StorageError: the folder cannot be made.
    """
    make = {"tensorboard": _TensorBoard, "wandb": _WandB}.get(name)
    if make is None:
        raise ConfigError(f"tracker must be 'tensorboard', 'wandb' or None, not {name!r}.")
    return make(make_folder(folder), start_step, dict(config or {}))


def find_tracker(name: str | None) -> Any:
    """Import the module of a tracker, if one is asked for.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if name is None:
        return None
    title, module = _TRACKERS[name]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{title} is not installed: pip install {name}, or train without tracker={name!r}; "
            f"the log {LOG_NAME} is written in any case."
        ) from error


def _run_id(path: Path, start_step: int) -> str:
    """Return the name under which a resumed run goes on; a run from the start has a new one."""
    if start_step and path.exists():
        return path.read_text(encoding="utf-8").strip()
    name = uuid.uuid4().hex[:12]
    write_text(path, name + "\n")
    return name
